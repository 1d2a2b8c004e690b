package disktest

import (
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk"
)

// memoryFile is an open file of a Memory.
type memoryFile struct {
	fs      *Memory
	node    *memoryNode
	name    string
	flag    int
	unnamed bool // made by CreateUnnamed and not linked yet
	closed  bool
}

var _ disk.File = (*memoryFile)(nil)

// Name implements disk.File.
func (f *memoryFile) Name() string { return f.name }

// usable says why the file cannot be read, or written. The caller holds the file system's mu.
func (f *memoryFile) usable(write bool) error {
	access := f.flag & (os.O_RDONLY | os.O_WRONLY | os.O_RDWR)
	switch {
	case f.closed:
		return fs.ErrClosed
	case write && access == os.O_RDONLY, !write && access == os.O_WRONLY:
		return syscall.EBADF
	}
	return nil
}

// ReadAt implements disk.File.
func (f *memoryFile) ReadAt(p []byte, off int64) (int, error) {
	f.fs.mu.RLock()
	defer f.fs.mu.RUnlock()
	if err := f.usable(false); err != nil {
		return 0, pathError("read", f.name, err)
	}
	short := max(0, off+int64(len(p))-f.node.size)
	p = p[:max(0, int64(len(p))-short)]
	for n := 0; n < len(p); {
		at := off + int64(n)
		rest := p[n:min(len(p), n+int(faultPage-at%faultPage))]
		if page := f.node.pages[at/faultPage]; page != nil {
			copy(rest, page[at%faultPage:])
		} else {
			clear(rest)
		}
		n += len(rest)
	}
	if short > 0 {
		return len(p), io.EOF
	}
	return len(p), nil
}

// WriteAt implements disk.File. Of what does not fit, the first pages are written.
func (f *memoryFile) WriteAt(p []byte, off int64) (int, error) {
	m := f.fs
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := f.usable(true); err != nil {
		return 0, pathError("write", f.name, err)
	}
	f.node.changed = time.Now()
	for n := 0; n < len(p); {
		at := off + int64(n)
		page := f.node.pages[at/faultPage]
		if page == nil {
			if m.used+faultPage > m.limit {
				return n, pathError("write", f.name, syscall.ENOSPC)
			}
			page = new([faultPage]byte)
			f.node.pages[at/faultPage] = page
			m.used += faultPage
		}
		n += copy(page[at%faultPage:], p[n:])
		f.node.size = max(f.node.size, off+int64(n))
	}
	return len(p), nil
}

// Sync implements disk.File.
func (f *memoryFile) Sync() error {
	f.fs.mu.RLock()
	defer f.fs.mu.RUnlock()
	if f.closed {
		return pathError("sync", f.name, fs.ErrClosed)
	}
	return nil
}

// Stat implements disk.File.
func (f *memoryFile) Stat() (fs.FileInfo, error) {
	f.fs.mu.RLock()
	defer f.fs.mu.RUnlock()
	if f.closed {
		return nil, pathError("stat", f.name, fs.ErrClosed)
	}
	return f.node.info(filepath.Base(f.name)), nil
}

// Truncate implements disk.File.
func (f *memoryFile) Truncate(size int64) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	err := f.usable(true)
	if err == nil {
		f.fs.resize(f.node, size)
	}
	return pathError("truncate", f.name, err)
}

// resize sets the length of a file. The caller holds mu.
func (m *Memory) resize(n *memoryNode, size int64) {
	if size < n.size {
		m.punch(n, size, (n.size+faultPage-1)/faultPage*faultPage-size)
	}
	n.size, n.changed = size, time.Now()
}

// Chmod implements disk.File. The mode is shown and keeps nobody from anything.
func (f *memoryFile) Chmod(perm fs.FileMode) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	f.node.mode = f.node.mode.Type() | perm.Perm()
	return nil
}

// Chown implements disk.File: everything belongs to everybody.
func (f *memoryFile) Chown(int, int) error { return nil }

// Zero implements disk.File.
func (f *memoryFile) Zero(off, n int64) error { return f.PunchHole(off, n) }

// PunchHole implements disk.File.
func (f *memoryFile) PunchHole(off, n int64) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	err := f.usable(true)
	if err == nil {
		f.fs.punch(f.node, off, n)
	}
	return pathError("punch hole", f.name, err)
}

// punch frees whole pages and clears parts of pages. The caller holds mu.
func (m *Memory) punch(n *memoryNode, off, size int64) {
	for at := off; at < off+size; at += faultPage - at%faultPage {
		page := n.pages[at/faultPage]
		from, to := at%faultPage, min(faultPage, at%faultPage+off+size-at)
		switch {
		case page == nil:
		case from == 0 && to == faultPage:
			delete(n.pages, at/faultPage)
			m.used -= faultPage
		default:
			clear(page[from:to])
		}
	}
}

// Extents implements disk.File.
func (f *memoryFile) Extents(size, grain int64) iter.Seq2[content.Extent, error] {
	return func(yield func(content.Extent, error) bool) {
		f.fs.mu.RLock()
		pages := slices.Sorted(maps.Keys(f.node.pages))
		size := min(size, f.node.size)
		f.fs.mu.RUnlock()
		var e content.Extent
		for _, page := range pages {
			from := page * faultPage / grain * grain
			to := min(size, (page*faultPage+faultPage+grain-1)/grain*grain)
			switch {
			case to <= from: // behind the end
			case e.N > 0 && from <= e.Off+e.N:
				e.N = to - e.Off
			default:
				if e.N > 0 && !yield(e, nil) {
					return
				}
				e = content.Extent{Off: from, N: to - from}
			}
		}
		if e.N > 0 {
			yield(e, nil)
		}
	}
}

// DropCache implements disk.File.
func (f *memoryFile) DropCache(off, n int64) {}

// CloneFrom implements disk.File.
func (f *memoryFile) CloneFrom(*os.File) error { return disk.ErrNoClone }

// CloneRange implements disk.File.
func (f *memoryFile) CloneRange(disk.File, int64, int64, int64) error { return disk.ErrNoClone }

// CloneTo implements disk.File.
func (f *memoryFile) CloneTo(disk.File) error { return disk.ErrNoClone }

// Link implements disk.File.
func (f *memoryFile) Link(path string) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	err := error(fs.ErrInvalid)
	if f.unnamed {
		err = f.fs.link(f.node, path)
	}
	if err == nil {
		f.unnamed = false
	}
	return linkError("link", f.name, path, err)
}

// Close implements disk.File.
func (f *memoryFile) Close() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return f.fs.close(f)
}

// close ends a handle. The caller holds mu.
func (m *Memory) close(f *memoryFile) error {
	if f.closed {
		return pathError("close", f.name, fs.ErrClosed)
	}
	f.closed = true
	f.node.open--
	m.free(f.node)
	return nil
}
