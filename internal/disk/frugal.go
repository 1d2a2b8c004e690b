package disk

import (
	"errors"
	"io"
	"io/fs"
	"syscall"
)

// Exhausted reports whether an operation failed because this process, or the machine, has no file descriptor left.
func Exhausted(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// Frugal is an FS that does not fail for want of a descriptor while this process has some that nobody uses: Relieve
// closes them and says how many there were, and what failed is tried once more.
type Frugal struct {
	FS
	Relieve func() int
}

// retry does something again if it failed for want of a descriptor and there are some now.
func (f Frugal) retry(do func() error) error {
	err := do()
	if Exhausted(err) && f.Relieve() > 0 {
		err = do()
	}
	return err
}

// OpenFile implements FS.
func (f Frugal) OpenFile(path string, flag int, perm fs.FileMode) (file File, err error) {
	err = f.retry(func() (err error) { file, err = f.FS.OpenFile(path, flag, perm); return err })
	return file, err
}

// CreateUnnamed implements FS.
func (f Frugal) CreateUnnamed(dir string, perm fs.FileMode) (file File, err error) {
	err = f.retry(func() (err error) { file, err = f.FS.CreateUnnamed(dir, perm); return err })
	return file, err
}

// OpenDevice implements FS.
func (f Frugal) OpenDevice(path string, flag int) (file File, size int64, err error) {
	err = f.retry(func() (err error) { file, size, err = f.FS.OpenDevice(path, flag); return err })
	return file, size, err
}

// ReadDir implements FS.
func (f Frugal) ReadDir(path string) (entries []fs.DirEntry, err error) {
	err = f.retry(func() (err error) { entries, err = f.FS.ReadDir(path); return err })
	return entries, err
}

// RemoveAll implements FS.
func (f Frugal) RemoveAll(path string) error {
	return f.retry(func() error { return f.FS.RemoveAll(path) })
}

// SyncDir implements FS.
func (f Frugal) SyncDir(path string) error {
	return f.retry(func() error { return f.FS.SyncDir(path) })
}

// Lock implements FS.
func (f Frugal) Lock(path string) (lock io.Closer, err error) {
	err = f.retry(func() (err error) { lock, err = f.FS.Lock(path); return err })
	return lock, err
}
