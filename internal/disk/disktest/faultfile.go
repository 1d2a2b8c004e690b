package disktest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"slices"
	"syscall"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk"
)

type inodeID struct{ dev, ino uint64 }

// inode is what a Fault knows of a file with unsynced changes, whatever its names are. Its own handle also keeps
// the inode number from being given to another file.
type inode struct {
	file  disk.File
	size  int64            // durable length
	sized bool             // the length has changed since
	pages map[int64][]byte // what unsynced pages held before, by page number
	doom  map[int64][]byte // the same, of pages that a failed Sync may have dropped
}

// faultFile is a File of a Fault.
type faultFile struct {
	disk.File
	fault *Fault
	inode *inode // nil for a file that cannot be written, or has no name
}

// wrap makes a faultFile; the caller holds mu.
func (f *Fault) wrap(file disk.File, path string, writable bool) (*faultFile, error) {
	ff := &faultFile{File: file, fault: f}
	if !writable {
		return ff, nil
	}
	st, err := file.Stat()
	if err != nil {
		return nil, err
	}
	sys := st.Sys().(*syscall.Stat_t)
	id := inodeID{uint64(sys.Dev), sys.Ino}
	if f.inodes[id] == nil {
		own, err := f.under.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		f.inodes[id] = &inode{file: own, size: st.Size(), pages: map[int64][]byte{}, doom: map[int64][]byte{}}
		f.order = append(f.order, f.inodes[id])
	}
	ff.inode = f.inodes[id]
	return ff, nil
}

// ReadAt implements disk.File.
func (f *faultFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.fault.look("read", f.Name()); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

// Extents implements disk.File.
func (f *faultFile) Extents(size, grain int64) iter.Seq2[content.Extent, error] {
	return f.File.Extents(size, grain)
}

// WriteAt implements disk.File.
func (f *faultFile) WriteAt(p []byte, off int64) (int, error) {
	f.fault.mu.Lock()
	defer f.fault.mu.Unlock()
	fail := f.fault.before("write", f.Name(), true)
	if fail != nil && !errors.Is(fail, ErrTorn) {
		return 0, fail
	}
	if fail != nil {
		p = p[:len(p)/2]
	}
	if err := f.inode.preserve(off, int64(len(p)), true); err != nil {
		return 0, err
	}
	n, err := f.File.WriteAt(p, off)
	return n, errors.Join(fail, err)
}

// Sync implements disk.File.
func (f *faultFile) Sync() error {
	f.fault.mu.Lock()
	defer f.fault.mu.Unlock()
	if err := f.fault.before("sync", f.Name(), true); err != nil {
		if !f.fault.killed {
			f.inode.condemn()
		}
		return err
	}
	return f.inode.settle()
}

// Truncate implements disk.File.
func (f *faultFile) Truncate(size int64) error {
	f.fault.mu.Lock()
	defer f.fault.mu.Unlock()
	if err := f.fault.before("truncate", f.Name(), true); err != nil {
		return err
	}
	return f.truncate(size)
}

func (f *faultFile) truncate(size int64) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if size < st.Size() {
		if err := f.inode.preserve(size, st.Size()-size, true); err != nil {
			return err
		}
	}
	if f.inode != nil {
		f.inode.sized = true
	}
	return f.File.Truncate(size)
}

// PunchHole implements disk.File.
func (f *faultFile) PunchHole(off, n int64) error {
	f.fault.mu.Lock()
	defer f.fault.mu.Unlock()
	if err := f.fault.before("punch", f.Name(), true); err != nil {
		return err
	}
	if err := f.inode.preserve(off, n, true); err != nil {
		return err
	}
	return f.File.PunchHole(off, n)
}

// Chmod implements disk.File. It is not lost by PowerOff.
func (f *faultFile) Chmod(perm fs.FileMode) error {
	f.fault.mu.Lock()
	defer f.fault.mu.Unlock()
	if err := f.fault.before("chmod", f.Name(), true); err != nil {
		return err
	}
	return f.File.Chmod(perm)
}

// Chown implements disk.File. It is not lost by PowerOff.
func (f *faultFile) Chown(uid, gid int) error {
	f.fault.mu.Lock()
	defer f.fault.mu.Unlock()
	if err := f.fault.before("chown", f.Name(), true); err != nil {
		return err
	}
	return f.File.Chown(uid, gid)
}

// Zero implements disk.File.
func (f *faultFile) Zero(off, n int64) error {
	f.fault.mu.Lock()
	defer f.fault.mu.Unlock()
	if err := f.fault.before("punch", f.Name(), true); err != nil {
		return err
	}
	if err := f.inode.preserve(off, n, true); err != nil {
		return err
	}
	return f.File.Zero(off, n)
}

// CloneFrom implements disk.File.
func (f *faultFile) CloneFrom(src *os.File) error {
	return f.clone(func() (int64, int64, error) {
		st, err := src.Stat()
		if err != nil {
			return 0, 0, err
		}
		return 0, st.Size(), nil
	}, func() error { return f.File.CloneFrom(src) })
}

// CloneRange implements disk.File.
func (f *faultFile) CloneRange(src disk.File, srcOff, n, dstOff int64) error {
	s, ok := src.(*faultFile)
	if !ok {
		return disk.ErrNoClone
	}
	return f.clone(func() (int64, int64, error) { return dstOff, n, nil },
		func() error { return f.File.CloneRange(s.File, srcOff, n, dstOff) })
}

// CloneTo implements disk.File.
func (f *faultFile) CloneTo(dst disk.File) error {
	d, ok := dst.(*faultFile)
	if !ok {
		return f.File.CloneTo(dst)
	}
	return d.clone(func() (int64, int64, error) {
		st, err := f.Stat()
		if err != nil {
			return 0, 0, err
		}
		return 0, st.Size(), nil
	}, func() error { return f.File.CloneTo(d.File) })
}

func (f *faultFile) clone(span func() (off, n int64, err error), do func() error) error {
	f.fault.mu.Lock()
	defer f.fault.mu.Unlock()
	if err := f.fault.before("clone", f.Name(), true); err != nil {
		return err
	}
	off, n, err := span()
	if err != nil {
		return err
	}
	if err := f.inode.preserve(off, n, false); err != nil {
		return err
	}
	if f.inode != nil {
		f.inode.sized = true
	}
	return do()
}

// Link implements disk.File. The content of a file that got its name this way is not lost by PowerOff.
func (f *faultFile) Link(path string) error {
	f.fault.mu.Lock()
	defer f.fault.mu.Unlock()
	if err := f.fault.before("link", path, true); err != nil {
		return err
	}
	if err := f.File.Link(path); err != nil {
		return err
	}
	f.fault.changed(&nameChange{path: path})
	return nil
}

// preserve keeps what the pages of a span held, before they are written (rewritten: with new bytes, so that what
// a failed Sync has dropped of them is of no more importance).
func (in *inode) preserve(off, n int64, rewritten bool) error {
	if in == nil || n == 0 {
		return nil
	}
	in.sized = true
	for page := off / faultPage; page*faultPage < off+n; page++ {
		if old, ok := in.doom[page]; ok && rewritten {
			in.pages[page] = old
			delete(in.doom, page)
		}
		if _, ok := in.pages[page]; ok {
			continue
		}
		old := make([]byte, faultPage)
		if _, err := in.file.ReadAt(old, page*faultPage); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("keep page %d: %w", page, err)
		}
		in.pages[page] = old
	}
	return nil
}

// settle makes all changes durable, but for the pages that are doomed.
func (in *inode) settle() error {
	if in == nil {
		return nil
	}
	st, err := in.file.Stat()
	if err != nil {
		return err
	}
	in.size, in.sized = st.Size(), false
	clear(in.pages)
	return nil
}

// condemn makes all unsynced pages doomed.
func (in *inode) condemn() {
	if in == nil {
		return
	}
	for page, old := range in.pages {
		in.doom[page] = old
	}
	clear(in.pages)
}

// lose brings back pages and the length as chance says, and doomed pages anyway.
func (in *inode) lose(chance func() bool) error {
	for _, page := range slices.Sorted(maps.Keys(in.pages)) {
		if chance() {
			in.doom[page] = in.pages[page]
		}
	}
	var errs []error
	for page, old := range in.doom {
		errs = append(errs, in.restore(page, old))
	}
	if in.sized && chance() {
		errs = append(errs, in.file.Truncate(in.size))
	}
	return errors.Join(errs...)
}

// restore brings back one page, without making the file longer.
func (in *inode) restore(page int64, old []byte) error {
	off := page * faultPage
	if content.IsZero(old) {
		return in.file.PunchHole(off, faultPage)
	}
	st, err := in.file.Stat()
	if err != nil {
		return err
	}
	n := min(faultPage, max(0, st.Size()-off))
	_, err = in.file.WriteAt(old[:n], off)
	return err
}
