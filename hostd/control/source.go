package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// someUsers is how many users of a device an error names.
const someUsers = 3

// intake has the store take in a source.
type intake func(ctx context.Context, o store.ImportOptions) (*store.File, error)

// openIntake opens a regular file or a block device for publication. force takes a device also while it is written to.
func (f *Files) openIntake(path string, force bool) (in intake, done func() error, err error) {
	in, done, err = f.tryIntake(path, force)
	if disk.Exhausted(err) && f.Store.Relieve() > 0 {
		in, done, err = f.tryIntake(path, force)
	}
	return in, done, err
}

func (f *Files) tryIntake(path string, force bool) (in intake, done func() error, err error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, nil, sourceError(err, path)
	}
	if disk.IsDevice(st) {
		return f.openDevice(path, force)
	}
	source, err := openSource(path)
	if err != nil {
		return nil, nil, err
	}
	return func(ctx context.Context, o store.ImportOptions) (*store.File, error) {
		return f.Store.Import(ctx, source, o)
	}, source.Close, nil
}

// openDevice opens a block device that nobody writes to.
func (f *Files) openDevice(path string, force bool) (in intake, done func() error, err error) {
	d, err := disk.ReadDevice(path, force)
	if errors.Is(err, disk.ErrBusy) {
		return nil, nil, reason.Wrap(reason.InUse, path, err).WithHint(deviceHint)
	}
	if err != nil {
		return nil, nil, sourceError(err, path)
	}
	source := device{d, path}
	if !force {
		if err := source.free(); err != nil {
			return nil, nil, errors.Join(err, d.Close())
		}
	}
	return func(ctx context.Context, o store.ImportOptions) (*store.File, error) {
		file, err := f.Store.ImportDevice(ctx, source, o)
		if err == nil && !force {
			err = source.free() // somebody may have come, and not written yet
		}
		return file, err
	}, d.Close, nil
}

const deviceHint = "stop what uses it (a domain, a mount), or publish a snapshot of it; `force` takes it as it is, at best like a disk after a crash"

// device is a block device as the store reads it.
type device struct {
	*disk.Device
	path string
}

// Unchanged implements store.Source.
func (d device) Unchanged() error {
	changed, err := d.Changed()
	if err == nil && changed {
		err = store.ErrChanged
	}
	return err
}

// free is InUse if a program has the device open for writing.
func (d device) free() error {
	users, err := disk.DeviceUsers(d.path)
	if err != nil {
		return sourceError(err, d.path)
	}
	var writers []string
	for _, u := range users {
		if u.Writing {
			writers = append(writers, u.String())
		}
	}
	if len(writers) == 0 {
		return nil
	}
	return reason.Wrap(reason.InUse, d.path, fmt.Errorf("open for writing by %s", firstOf(writers))).WithHint(deviceHint)
}

func firstOf(users []string) string {
	if more := len(users) - someUsers; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(users[:someUsers], ", "), more)
	}
	return strings.Join(users, ", ")
}

// openSource opens a regular file to be read. It does not wait for the writer of a FIFO, nor follow one.
func openSource(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, sourceError(err, path)
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, sourceError(err, path)
	}
	if !fi.Mode().IsRegular() {
		f.Close()
		return nil, reason.Wrap(reason.SourceNotRegular, path, nil)
	}
	return f, nil
}

// sourceError explains why a source could not be opened.
func sourceError(err error, path string) error {
	why := reason.Of(err)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		why = reason.SourceMissing
	case errors.Is(err, disk.ErrNotDevice):
		why = reason.SourceNotRegular
	case why == reason.Unexpected, why == reason.DiskError:
		why = reason.SourceUnreadable
	}
	return reason.Wrap(why, path, err)
}
