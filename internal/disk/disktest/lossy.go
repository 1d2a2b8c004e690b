package disktest

import (
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/virtswarm/virtswarm/internal/disk"
)

// maxUnsynced bounds the memory that a Lossy takes. Past it bytes are written back early, as a kernel does.
const maxUnsynced = 256 << 20

// Lossy is an FS for tests of whole daemons on a real disk: kill -9 does to what it keeps what a loss of power does. Bytes
// that were written and not synced are in the memory of the process alone, and die with it; so does the length that they
// gave their file. What changes names, and Truncate and PunchHole, takes effect at once, as it may on a real disk, and
// Sync does not wait for the medium: only the imitated power is lost. Blocks are not shared between files. The content
// of a file made by CreateUnnamed is not lost.
type Lossy struct {
	under disk.FS

	mu     sync.RWMutex // held through every operation that names a file or changes it
	inodes map[inodeID]*lossyInode
	bytes  int64 // in pages
}

var _ disk.FS = (*Lossy)(nil)

// NewLossy returns a Lossy over a file system of which Stat tells inode numbers.
func NewLossy(under disk.FS) *Lossy {
	return &Lossy{under: under, inodes: map[inodeID]*lossyInode{}}
}

// lossyInode is a file that can be written, or has bytes that are not synced.
type lossyInode struct {
	file  disk.File // of its own, to write back whatever becomes of the names
	size  int64
	pages map[int64]*[faultPage]byte
	open  int // handles that can write
}

// OpenFile implements disk.FS.
func (l *Lossy) OpenFile(path string, flag int, perm fs.FileMode) (disk.File, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	file, err := l.under.OpenFile(path, flag, perm)
	if err != nil {
		return nil, err
	}
	f, err := l.wrap(file, path, flag)
	if err != nil {
		file.Close()
		return nil, err
	}
	return f, nil
}

func (l *Lossy) wrap(file disk.File, path string, flag int) (*lossyFile, error) {
	st, err := file.Stat()
	if err != nil {
		return nil, err
	}
	f := &lossyFile{File: file, fs: l, id: idOf(st)}
	in := l.inodes[f.id]
	if flag&(os.O_WRONLY|os.O_RDWR) != 0 {
		if in == nil {
			own, err := l.under.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				return nil, err
			}
			in = &lossyInode{file: own, size: st.Size(), pages: map[int64]*[faultPage]byte{}}
			l.inodes[f.id] = in
		}
		in.open++
		f.writes = true
	}
	if in != nil && flag&os.O_TRUNC != 0 {
		l.cut(in, 0)
	}
	return f, nil
}

// idOf returns the inode of a file; all files of a file system that does not tell are one, which no test survives.
func idOf(st fs.FileInfo) inodeID {
	sys, _ := st.Sys().(*syscall.Stat_t)
	if sys == nil {
		return inodeID{}
	}
	return inodeID{uint64(sys.Dev), sys.Ino}
}

// cut makes a file's unsynced part end at size. The caller holds mu.
func (l *Lossy) cut(in *lossyInode, size int64) {
	l.clear(in, size, max(0, (in.size+faultPage-1)/faultPage*faultPage-size))
	in.size = size
}

// clear forgets, or makes zero, the unsynced bytes of a span. The caller holds mu.
func (l *Lossy) clear(in *lossyInode, off, n int64) {
	for no, page := range in.pages {
		from, to := max(0, off-no*faultPage), min(faultPage, off+n-no*faultPage)
		switch {
		case from >= to:
		case from == 0 && to == faultPage:
			delete(in.pages, no)
			l.bytes -= faultPage
		default:
			clear(page[from:to])
		}
	}
}

// tidy forgets an inode that nobody can write and that has nothing to lose, or no name to be found by. The caller holds
// mu.
func (l *Lossy) tidy(id inodeID, in *lossyInode) error {
	if in.open > 0 {
		return nil
	}
	if len(in.pages) > 0 {
		st, err := in.file.Stat()
		if err != nil {
			return err
		}
		if sys, ok := st.Sys().(*syscall.Stat_t); !ok || sys.Nlink > 0 {
			return nil
		}
	}
	l.bytes -= int64(len(in.pages)) * faultPage
	delete(l.inodes, id)
	return in.file.Close()
}

// named does what changes names, and forgets the files that have none left.
func (l *Lossy) named(do func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := do(); err != nil {
		return err
	}
	for id, in := range l.inodes {
		if err := l.tidy(id, in); err != nil {
			return err
		}
	}
	return nil
}

// CreateUnnamed implements disk.FS.
func (l *Lossy) CreateUnnamed(dir string, perm fs.FileMode) (disk.File, error) {
	return l.under.CreateUnnamed(dir, perm)
}

// Rename implements disk.FS.
func (l *Lossy) Rename(from, to string) error {
	return l.named(func() error { return l.under.Rename(from, to) })
}

// RenameNew implements disk.FS.
func (l *Lossy) RenameNew(from, to string) error {
	return l.named(func() error { return l.under.RenameNew(from, to) })
}

// Link implements disk.FS.
func (l *Lossy) Link(from, to string) error { return l.under.Link(from, to) }

// Remove implements disk.FS.
func (l *Lossy) Remove(path string) error {
	return l.named(func() error { return l.under.Remove(path) })
}

// RemoveAll implements disk.FS.
func (l *Lossy) RemoveAll(path string) error {
	return l.named(func() error { return l.under.RemoveAll(path) })
}

// MkdirAll implements disk.FS.
func (l *Lossy) MkdirAll(path string, perm fs.FileMode) error { return l.under.MkdirAll(path, perm) }

// ReadDir implements disk.FS. The entries' sizes are those that are synced.
func (l *Lossy) ReadDir(path string) ([]fs.DirEntry, error) { return l.under.ReadDir(path) }

// Stat implements disk.FS.
func (l *Lossy) Stat(path string) (fs.FileInfo, error) { return l.stat(l.under.Stat(path)) }

// Lstat implements disk.FS.
func (l *Lossy) Lstat(path string) (fs.FileInfo, error) { return l.stat(l.under.Lstat(path)) }

// lossyInfo tells the length that a file has, synced or not.
type lossyInfo struct {
	fs.FileInfo
	size int64
}

func (i lossyInfo) Size() int64 { return i.size }

func (l *Lossy) stat(st fs.FileInfo, err error) (fs.FileInfo, error) {
	if err != nil {
		return nil, err
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	if in := l.inodes[idOf(st)]; in != nil {
		return lossyInfo{st, in.size}, nil
	}
	return st, nil
}

// Chmod implements disk.FS.
func (l *Lossy) Chmod(path string, perm fs.FileMode) error { return l.under.Chmod(path, perm) }

// Chtimes implements disk.FS.
func (l *Lossy) Chtimes(path string, t time.Time) error { return l.under.Chtimes(path, t) }

// SyncDir implements disk.FS: names are there already.
func (l *Lossy) SyncDir(path string) error {
	_, err := l.under.Stat(path)
	return err
}

// Lock implements disk.FS.
func (l *Lossy) Lock(path string) (io.Closer, error) { return l.under.Lock(path) }

// Space implements disk.FS. What is not synced takes space as well.
func (l *Lossy) Space(path string) (free, total int64, err error) {
	free, total, err = l.under.Space(path)
	l.mu.RLock()
	defer l.mu.RUnlock()
	return max(0, free-l.bytes), total, err
}
