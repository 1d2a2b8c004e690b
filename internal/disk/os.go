package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtswarm/virtswarm/internal/content"
)

// OS is the file system of the operating system, Linux.
type OS struct{}

var _ FS = OS{}

// OpenFile implements FS.
func (OS) OpenFile(path string, flag int, perm fs.FileMode) (File, error) {
	f, err := os.OpenFile(path, flag, perm)
	if err != nil {
		return nil, spaced(err)
	}
	return &osFile{File: f}, nil
}

// CreateUnnamed implements FS by O_TMPFILE.
func (OS) CreateUnnamed(dir string, perm fs.FileMode) (File, error) {
	f, err := os.OpenFile(dir, os.O_RDWR|unix.O_TMPFILE, perm)
	if err == nil {
		return &osFile{File: f, unnamed: true}, nil
	}
	for _, no := range []error{unix.EOPNOTSUPP, unix.EISDIR, unix.EINVAL} {
		if errors.Is(err, no) {
			return nil, fmt.Errorf("%w: %w", ErrNoUnnamed, err)
		}
	}
	return nil, spaced(err)
}

// Rename implements FS.
func (OS) Rename(from, to string) error { return spaced(os.Rename(from, to)) }

// RenameNew implements FS by renameat2. Where that is not supported, link and unlink do the same for a file, and
// an ordinary rename nearly the same for a directory: it never replaces one that is not empty.
func (OS) RenameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return spaced(&os.LinkError{Op: "rename", Old: from, New: to, Err: err})
	}
	return renameNew(from, to)
}

func renameNew(from, to string) error {
	st, err := os.Lstat(from)
	if err != nil {
		return err
	}
	if st.IsDir() {
		return spaced(os.Rename(from, to))
	}
	if err := os.Link(from, to); err != nil {
		return spaced(err)
	}
	return os.Remove(from)
}

// Link implements FS.
func (OS) Link(from, to string) error { return spaced(os.Link(from, to)) }

// Remove implements FS.
func (OS) Remove(path string) error { return os.Remove(path) }

// RemoveAll implements FS.
func (OS) RemoveAll(path string) error { return os.RemoveAll(path) }

// MkdirAll implements FS.
func (OS) MkdirAll(path string, perm fs.FileMode) error { return spaced(os.MkdirAll(path, perm)) }

// ReadDir implements FS.
func (OS) ReadDir(path string) ([]fs.DirEntry, error) { return os.ReadDir(path) }

// Stat implements FS.
func (OS) Stat(path string) (fs.FileInfo, error) { return os.Stat(path) }

// Lstat implements FS.
func (OS) Lstat(path string) (fs.FileInfo, error) { return os.Lstat(path) }

// Chmod implements FS.
func (OS) Chmod(path string, perm fs.FileMode) error { return os.Chmod(path, perm) }

// Chtimes implements FS.
func (OS) Chtimes(path string, t time.Time) error { return os.Chtimes(path, time.Time{}, t) }

// SyncDir implements FS.
func (OS) SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	err = d.Sync()
	return spaced(errors.Join(err, d.Close()))
}

// Lock implements FS by flock, so the lock ends with the process however it ends.
func (OS) Lock(path string) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, spaced(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return osLock{f}, nil
}

// osLock is a file that is locked by flock.
type osLock struct{ *os.File }

// Close gives the lock up at once. To close the file alone would not, while a child process that is being started still
// has a copy of the descriptor.
func (l osLock) Close() error {
	return errors.Join(unix.Flock(int(l.Fd()), unix.LOCK_UN), l.File.Close())
}

// Space implements FS by statfs.
func (OS) Space(path string) (free, total int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, 0, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	return int64(st.Bavail) * st.Bsize, int64(st.Blocks) * st.Bsize, nil
}

// osFile is an *os.File with what Linux can do beside.
type osFile struct {
	*os.File
	unnamed bool // made by O_TMPFILE and not linked yet
}

var _ File = (*osFile)(nil)

// WriteAt implements File.
func (f *osFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.File.WriteAt(p, off)
	return n, spaced(err)
}

// Sync implements File.
func (f *osFile) Sync() error {
	return f.control("fdatasync", func(fd int) error {
		for {
			if err := unix.Fdatasync(fd); !errors.Is(err, unix.EINTR) {
				return err
			}
		}
	})
}

// Truncate implements File.
func (f *osFile) Truncate(size int64) error { return spaced(f.File.Truncate(size)) }

// Chmod implements File.
func (f *osFile) Chmod(perm fs.FileMode) error { return f.File.Chmod(perm) }

// PunchHole implements File.
func (f *osFile) PunchHole(off, n int64) error {
	return f.control("punch hole", func(fd int) error {
		return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	})
}

// Extents implements File.
func (f *osFile) Extents(size, grain int64) iter.Seq2[content.Extent, error] {
	return content.Extents(f.File, size, grain)
}

// DropCache implements File by posix_fadvise.
func (f *osFile) DropCache(off, n int64) {
	_ = f.control("fadvise", func(fd int) error {
		return unix.Fadvise(fd, off, n, unix.FADV_DONTNEED)
	})
}

// CloneFrom implements File by FICLONE.
func (f *osFile) CloneFrom(src *os.File) error {
	return f.clone(src, func(dst, src int) error { return unix.IoctlFileClone(dst, src) })
}

// CloneRange implements File by FICLONERANGE.
func (f *osFile) CloneRange(src File, srcOff, n, dstOff int64) error {
	s, ok := src.(*osFile)
	if !ok {
		return ErrNoClone
	}
	return f.clone(s.File, func(dst, src int) error {
		return unix.IoctlFileCloneRange(dst, &unix.FileCloneRange{
			Src_fd: int64(src), Src_offset: uint64(srcOff), Src_length: uint64(n), Dest_offset: uint64(dstOff),
		})
	})
}

// CloneTo implements File.
func (f *osFile) CloneTo(dst File) error { return dst.CloneFrom(f.File) }

func (f *osFile) clone(src *os.File, ioctl func(dst, src int) error) error {
	err := f.control("clone", func(dst int) error {
		rc, err := src.SyscallConn()
		if err != nil {
			return err
		}
		var cloneErr error
		err = rc.Control(func(fd uintptr) { cloneErr = ioctl(dst, int(fd)) })
		return errors.Join(err, cloneErr)
	})
	for _, no := range []error{unix.EOPNOTSUPP, unix.EXDEV, unix.EINVAL, unix.ENOTTY, unix.ENOSYS, unix.ETXTBSY} {
		if errors.Is(err, no) {
			return fmt.Errorf("%w: %w", ErrNoClone, err)
		}
	}
	return err
}

// Link implements File.
func (f *osFile) Link(path string) error {
	if !f.unnamed {
		return &os.PathError{Op: "link", Path: path, Err: fs.ErrInvalid}
	}
	// By way of /proc, as linkat(2) advises: AT_EMPTY_PATH would ask for CAP_DAC_READ_SEARCH.
	err := f.control("link", func(fd int) error {
		return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
	})
	if err == nil {
		f.unnamed = false
	}
	return err
}

// Close implements File.
func (f *osFile) Close() error { return spaced(f.File.Close()) }

// control calls do with the descriptor, which stays open meanwhile.
func (f *osFile) control(op string, do func(fd int) error) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var opErr error
	if err := rc.Control(func(fd uintptr) { opErr = do(int(fd)) }); err != nil {
		return err
	}
	if opErr != nil {
		return spaced(&os.PathError{Op: op, Path: f.Name(), Err: opErr})
	}
	return nil
}

// spaced makes an ErrNoSpace of an error that has ENOSPC or EDQUOT underneath.
func spaced(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}
