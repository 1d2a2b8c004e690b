package disktest

import (
	"errors"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"slices"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk"
)

// lossyFile is an open file of a Lossy.
type lossyFile struct {
	disk.File
	fs     *Lossy
	id     inodeID
	writes bool // counts among the inode's handles
}

// ReadAt implements disk.File.
func (f *lossyFile) ReadAt(p []byte, off int64) (int, error) {
	f.fs.mu.RLock()
	defer f.fs.mu.RUnlock()
	in := f.fs.inodes[f.id]
	if in == nil || len(in.pages) == 0 {
		return f.File.ReadAt(p, off)
	}
	short := max(0, off+int64(len(p))-in.size)
	p = p[:max(0, int64(len(p))-short)]
	n, err := f.File.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return n, err
	}
	clear(p[n:])
	for no := off / faultPage; no*faultPage < off+int64(len(p)); no++ {
		if page := in.pages[no]; page != nil {
			from := max(off, no*faultPage)
			copy(p[from-off:], page[from-no*faultPage:])
		}
	}
	if short > 0 {
		return len(p), io.EOF
	}
	return len(p), nil
}

// WriteAt implements disk.File.
func (f *lossyFile) WriteAt(p []byte, off int64) (int, error) {
	l := f.fs
	l.mu.Lock()
	defer l.mu.Unlock()
	in := l.inodes[f.id]
	if !f.writes || in == nil {
		return f.File.WriteAt(p, off) // which says why not
	}
	if free, _, err := l.under.Space(f.Name()); err == nil && free-l.bytes < int64(len(p)) {
		return 0, pathError("write", f.Name(), NoSpace())
	}
	for n := 0; n < len(p); {
		at := off + int64(n)
		page, err := l.page(in, at/faultPage)
		if err != nil {
			return n, err
		}
		n += copy(page[at%faultPage:], p[n:])
		in.size = max(in.size, off+int64(n))
	}
	if l.bytes > maxUnsynced {
		return len(p), l.writeBack(in)
	}
	return len(p), nil
}

// page returns an unsynced page, which at first is what the file holds there. The caller holds mu.
func (l *Lossy) page(in *lossyInode, no int64) (*[faultPage]byte, error) {
	page := in.pages[no]
	if page != nil {
		return page, nil
	}
	page = new([faultPage]byte)
	if _, err := in.file.ReadAt(page[:], no*faultPage); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	in.pages[no] = page
	l.bytes += faultPage
	return page, nil
}

// writeBack gives what is unsynced to the file system underneath. The caller holds mu.
func (l *Lossy) writeBack(in *lossyInode) error {
	for _, no := range slices.Sorted(maps.Keys(in.pages)) {
		n := min(faultPage, in.size-no*faultPage)
		if _, err := in.file.WriteAt(in.pages[no][:max(0, n)], no*faultPage); err != nil {
			return err
		}
		delete(in.pages, no)
		l.bytes -= faultPage
	}
	return nil
}

// Sync implements disk.File.
func (f *lossyFile) Sync() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if in := f.fs.inodes[f.id]; in != nil {
		return f.fs.writeBack(in)
	}
	return nil
}

// Stat implements disk.File.
func (f *lossyFile) Stat() (fs.FileInfo, error) { return f.fs.stat(f.File.Stat()) }

// Truncate implements disk.File.
func (f *lossyFile) Truncate(size int64) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.File.Truncate(size); err != nil {
		return err
	}
	if in := f.fs.inodes[f.id]; in != nil {
		f.fs.cut(in, size)
	}
	return nil
}

// PunchHole implements disk.File.
func (f *lossyFile) PunchHole(off, n int64) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.File.PunchHole(off, n); err != nil {
		return err
	}
	if in := f.fs.inodes[f.id]; in != nil {
		f.fs.clear(in, off, n)
	}
	return nil
}

// Extents implements disk.File. All of a file with unsynced bytes may hold data.
func (f *lossyFile) Extents(size, grain int64) iter.Seq2[content.Extent, error] {
	f.fs.mu.RLock()
	defer f.fs.mu.RUnlock()
	if in := f.fs.inodes[f.id]; in != nil && len(in.pages) > 0 {
		return func(yield func(content.Extent, error) bool) { yield(content.Extent{N: size}, nil) }
	}
	return f.File.Extents(size, grain)
}

// DropCache implements disk.File.
func (f *lossyFile) DropCache(off, n int64) { f.File.DropCache(off, n) }

// CloneFrom implements disk.File.
func (f *lossyFile) CloneFrom(*os.File) error { return disk.ErrNoClone }

// CloneRange implements disk.File.
func (f *lossyFile) CloneRange(disk.File, int64, int64, int64) error { return disk.ErrNoClone }

// CloneTo implements disk.File.
func (f *lossyFile) CloneTo(disk.File) error { return disk.ErrNoClone }

// Close implements disk.File. What is not synced stays so.
func (f *lossyFile) Close() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.File.Close(); err != nil || !f.writes {
		return err
	}
	in := f.fs.inodes[f.id]
	in.open--
	return f.fs.tidy(f.id, in)
}
