package control

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"

	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// checkDestination refuses, before anything is fetched, a path at which nothing can be made.
func (f *Files) checkDestination(dest string, o store.ExportOptions) error {
	if !filepath.IsAbs(dest) {
		return reason.Wrap(reason.Usage, dest, errors.New("the destination is not an absolute path"))
	}
	if err := checkHandOut(o); err != nil {
		return err
	}
	if o.Overwrite {
		return f.checkDevice(dest)
	}
	switch fi, err := f.FS.Lstat(dest); {
	case err == nil:
		if target, err := f.FS.Stat(dest); err == nil && disk.IsDevice(target) { // /dev/vg/lv is a link
			fi = target
		}
		return reason.Occupied(dest, fi.Mode())
	case !errors.Is(err, fs.ErrNotExist):
		return destError(err, dest)
	}
	dir := disk.Dir(dest)
	switch fi, err := f.FS.Stat(dir); {
	case errors.Is(err, fs.ErrNotExist):
		return reason.Wrap(reason.Usage, dest, fmt.Errorf("there is no directory %s", dir)).WithHint("make the directory first")
	case err != nil:
		return destError(err, dest)
	case !fi.IsDir():
		return destError(&fs.PathError{Op: "stat", Path: dir, Err: syscall.ENOTDIR}, dest)
	}
	return nil
}

// checkHandOut refuses what cannot be asked for together.
func checkHandOut(o store.ExportOptions) error {
	const writable = 0o222
	switch {
	case o.Perm != nil && *o.Perm&^fs.ModePerm != 0:
		return reason.Wrap(reason.Usage, "`mode`", fmt.Errorf("%o has more than the nine permission bits", *o.Perm))
	case o.Mode == store.HardLink && o.Perm != nil && *o.Perm&writable != 0:
		return reason.Wrap(reason.Usage, "`mode`", fmt.Errorf("%o lets somebody write to the store's own file", *o.Perm)).WithHint("take a mode without w, or leave `hardlink` out")
	case o.Mode == store.HardLink && (o.Owner != nil || o.Group != nil):
		return reason.Wrap(reason.Usage, "`owner`", errors.New("a hard link is the store's own file, and belongs to the daemon")).WithHint("leave `hardlink` out")
	case o.Overwrite && (o.Mode == store.HardLink || o.Perm != nil || o.Owner != nil || o.Group != nil):
		return reason.Wrap(reason.Usage, "`overwrite`", errors.New("a block device has its own mode and owner, and cannot be a link")).WithHint("leave `hardlink`, `mode` and `owner` out")
	}
	return nil
}

// checkDevice refuses to write over anything but a block device that nobody has open.
func (f *Files) checkDevice(dest string) error {
	switch fi, err := f.FS.Stat(dest); {
	case errors.Is(err, fs.ErrNotExist):
		return reason.Wrap(reason.Usage, dest, errors.New("there is no such block device")).WithHint("make it first, or leave `overwrite` out to make a file")
	case err != nil:
		return destError(err, dest)
	case !disk.IsDevice(fi):
		e := reason.Occupied(dest, fi.Mode())
		e.Err = errors.New("only a block device is written over")
		return e
	}
	users, err := disk.DeviceUsers(dest)
	if err != nil {
		return destError(err, dest)
	}
	var names []string
	for _, u := range users {
		names = append(names, u.String())
	}
	if len(names) > 0 {
		return reason.Wrap(reason.InUse, dest, fmt.Errorf("open by %s", firstOf(names))).WithHint("stop what uses it, then repeat")
	}
	return nil
}

// destError explains what the file system has against a destination.
func destError(err error, dest string) error {
	why := reason.Of(err)
	if why == reason.Unexpected || why == reason.DiskError {
		why = reason.DestUnusable
	}
	return reason.Wrap(why, dest, err)
}

// exportError explains why an export failed.
func (f *Files) exportError(err error, dest string, o store.ExportOptions) error {
	switch {
	case errors.Is(err, store.ErrExists):
		if fi, err := f.FS.Lstat(dest); err == nil {
			return reason.Occupied(dest, fi.Mode())
		}
	case o.Mode == store.HardLink && errors.Is(err, syscall.EXDEV):
		return reason.Wrap(reason.DestUnusable, dest, err).WithHint("it is on another file system than the store: leave `hardlink` out")
	case o.Overwrite && errors.Is(err, store.ErrNoSpace):
		return reason.Wrap(reason.NoSpace, dest, err).WithHint("take a device that is at least as large as the file")
	case errors.Is(err, disk.ErrBusy):
		return reason.Wrap(reason.InUse, dest, err).WithHint("stop what uses it (a mount, a volume group), then repeat")
	}
	return reason.Explain(err, dest)
}
