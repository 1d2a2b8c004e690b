package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"time"

	"github.com/virtswarm/virtswarm/internal/content"

	"github.com/virtswarm/virtswarm/internal/reason"
)

// Errors of this package.
var (
	ErrNoSpace  = reason.Sentinel(reason.NoSpace, "no space left")                    // ENOSPC or EDQUOT is underneath
	ErrLocked   = reason.Sentinel(reason.AlreadyRunning, "locked by another process") // see FS.Lock
	ErrTooLarge = errors.New("larger than it can be")                                 // see ReadFile
	ErrNoClone  = errors.New("file system cannot share the data")                     // no reflink here, or not between these two

	ErrNoUnnamed = errors.New("file system has no files without a name")             // see FS.CreateUnnamed
	ErrNotDevice = errors.New("not a block device")                                  // see FS.OpenDevice
	ErrBusy      = reason.Sentinel(reason.InUse, "the kernel uses the block device") // see FS.OpenDevice
)

// FS is a file system. Its methods may be called from several goroutines at once.
type FS interface {
	// OpenFile is os.OpenFile.
	OpenFile(path string, flag int, perm fs.FileMode) (File, error)
	// CreateUnnamed creates a file in dir that has no name until File.Link gives it one, and that vanishes if that
	// never happens, even if the process dies. Where the file system cannot do that it fails with ErrNoUnnamed.
	CreateUnnamed(dir string, perm fs.FileMode) (File, error)
	// OpenDevice opens a block device, which nobody else in the kernel may have for himself: no mount, no volume group.
	// It fails with ErrNotDevice, and with ErrBusy where somebody has.
	OpenDevice(path string, flag int) (File, int64, error)
	// Rename gives the file or directory at from the name to, atomically, replacing a file there.
	Rename(from, to string) error
	// RenameNew is Rename, but fails with fs.ErrExist, atomically, if to exists.
	RenameNew(from, to string) error
	// Link makes to a hard link of from; it fails with fs.ErrExist if to exists.
	Link(from, to string) error
	// Remove removes a file or an empty directory.
	Remove(path string) error
	// RemoveAll removes path and all below it; nothing being there is no error.
	RemoveAll(path string) error
	// MkdirAll makes the directory and those above it.
	MkdirAll(path string, perm fs.FileMode) error
	// ReadDir returns the entries of a directory, sorted by name.
	ReadDir(path string) ([]fs.DirEntry, error)
	// Stat follows symbolic links, Lstat does not.
	Stat(path string) (fs.FileInfo, error)
	Lstat(path string) (fs.FileInfo, error)
	// Chmod sets the permissions of the file at path.
	Chmod(path string, perm fs.FileMode) error
	// Chtimes sets the time of change of the file at path, lazily: a loss of power may undo it.
	Chtimes(path string, t time.Time) error
	// SyncDir makes the names in a directory durable.
	SyncDir(path string) error
	// Lock takes the lock on the file at path, creating it, until the Closer is closed or the process ends.
	// It fails with ErrLocked at once if somebody else has it.
	Lock(path string) (io.Closer, error)
	// Space returns the bytes that anybody may still write to the file system of path, and its size.
	Space(path string) (free, total int64, err error)
}

// File is an open file. Its methods may be called from several goroutines at once.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Name() string
	Stat() (fs.FileInfo, error)
	// Sync makes the bytes and the length durable (fdatasync). After an error it is unknown which bytes
	// written before are, and a later Sync without error says nothing about them: the kernel forgets.
	Sync() error
	// Truncate sets the length; a file that grows does so by a hole.
	Truncate(size int64) error
	// Chmod sets the permissions, Chown the owner and the group; -1 leaves either as it is.
	Chmod(perm fs.FileMode) error
	Chown(uid, gid int) error
	// PunchHole makes n bytes at off a hole, where the file system can, without changing the length.
	PunchHole(off, n int64) error
	// Zero makes zeros of n bytes at off of a block device, and gives their place back where the device can. Off and n
	// are multiples of the device's blocks.
	Zero(off, n int64) error
	// Extents yields the parts that may hold data; see content.Extents.
	Extents(size, grain int64) iter.Seq2[content.Extent, error]
	// DropCache makes the kernel forget its copy of n clean bytes at off, so that the next read tells what the
	// medium holds. It is a hint: bytes not yet written back stay, and no error is reported.
	DropCache(off, n int64)
	// CloneFrom makes the file share all data of src, copy on write, or fails with ErrNoClone.
	CloneFrom(src *os.File) error
	// CloneRange does so for n bytes at srcOff of src. Offsets and n must be multiples of the file system's
	// block size unless n ends both files. src must come from the same FS.
	CloneRange(src File, srcOff, n, dstOff int64) error
	// CloneTo makes dst share all data of this file, or fails with ErrNoClone.
	CloneTo(dst File) error
	// Link names a file made by CreateUnnamed; it fails with fs.ErrExist, atomically, if path exists.
	Link(path string) error
}

// WriteFile makes path hold data, durably and atomically: whatever happens, path holds what it held before or
// all of data. The directory must exist; perm is before umask.
func WriteFile(f FS, path string, data []byte, perm fs.FileMode) error {
	tmp := path + ".tmp"
	if err := writeNew(f, tmp, data, perm); err != nil {
		return errors.Join(err, ignoreMissing(f.Remove(tmp)))
	}
	if err := f.Rename(tmp, path); err != nil {
		return errors.Join(err, ignoreMissing(f.Remove(tmp)))
	}
	return f.SyncDir(filepath.Dir(path))
}

// writeNew writes data to the file at path and syncs the file, not its name.
func writeNew(f FS, path string, data []byte, perm fs.FileMode) (err error) {
	w, err := f.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if _, err := w.WriteAt(data, 0); err != nil {
		return err
	}
	return w.Sync()
}

// MakeDir makes the directory and those above it, durably.
func MakeDir(f FS, path string, perm fs.FileMode) error {
	path = filepath.Clean(path)
	var missing []string
	for p := path; ; p = filepath.Dir(p) {
		_, err := f.Stat(p)
		if err == nil || p == filepath.Dir(p) {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		missing = append(missing, p)
	}
	if len(missing) == 0 {
		return nil
	}
	if err := f.MkdirAll(path, perm); err != nil {
		return err
	}
	for _, p := range missing {
		if err := f.SyncDir(filepath.Dir(p)); err != nil {
			return err
		}
	}
	return nil
}

// ReadFile returns what the file at path holds; more than limit bytes are an ErrTooLarge, before they are read.
func ReadFile(f FS, path string, limit int64) ([]byte, error) {
	r, err := f.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	st, err := r.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() > limit {
		return nil, fmt.Errorf("read %s: %w: %d bytes, not %d at most", path, ErrTooLarge, st.Size(), limit)
	}
	p := make([]byte, st.Size())
	if _, err := r.ReadAt(p, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return p, nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
