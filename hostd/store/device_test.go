package store

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// deviceFS has files stand for block devices.
type deviceFS struct {
	disk.FS
	zero func(off, n int64) error // nil: as the file does
	busy bool
}

func (d deviceFS) OpenDevice(path string, flag int) (disk.File, int64, error) {
	if d.busy {
		return nil, 0, &fs.PathError{Op: "open", Path: path, Err: errors.Join(disk.ErrBusy, syscall.EBUSY)}
	}
	st, err := d.FS.Stat(path)
	if err != nil {
		return nil, 0, err
	}
	f, err := d.FS.OpenFile(path, flag, 0)
	return deviceFile{f, d.zero}, st.Size(), err
}

type deviceFile struct {
	disk.File
	zero func(off, n int64) error
}

func (d deviceFile) Zero(off, n int64) error {
	if d.zero != nil {
		return d.zero(off, n)
	}
	return d.File.PunchHole(off, n)
}

// TestDeviceIsWrittenOver: with the content, and zeros wherever that has none, in whatever way the device makes them.
func TestDeviceIsWrittenOver(t *testing.T) {
	whole := random(1, 6*testChunk+17)
	clear(whole[testChunk : 3*testChunk])
	for name, zero := range map[string]func(off, n int64) error{
		"gives back": nil,
		"cannot":     func(int64, int64) error { return syscall.EOPNOTSUPP },
		"in blocks": func(off, n int64) error {
			if off%4096 != 0 || n%512 != 0 {
				t.Errorf("%d bytes at %d are no blocks", n, off)
			}
			return syscall.EOPNOTSUPP
		},
	} {
		for _, p := range [][]byte{whole, whole[:4*testChunk], whole[:2*testChunk], {}} {
			for _, more := range []int{0, 512, 8192, 2 * testChunk} {
				size := (len(p)+511)/512*512 + more
				path := filepath.Join(t.TempDir(), "device")
				must(t, os.WriteFile(path, random(9, size), 0o600))
				s := open(t, t.TempDir(), func(o *Options) { o.FS = deviceFS{FS: disk.OS{}, zero: zero} })
				f := put(t, s, p)
				must(t, f.Export(t.Context(), path, ExportOptions{Overwrite: true}, nil))
				got, err := os.ReadFile(path)
				must(t, err)
				if want := append(slices.Clone(p), make([]byte, size-len(p))...); !slices.Equal(got, want) {
					t.Errorf("%s: %d bytes on %d are not what they should be", name, len(p), size)
				}
				must(t, s.Close())
			}
		}
	}
}

// TestDeviceIsLeftAlone: one that is too small, in use, or for which not all is here yet.
func TestDeviceIsLeftAlone(t *testing.T) {
	old := random(9, 2*testChunk)
	path := filepath.Join(t.TempDir(), "device")
	must(t, os.WriteFile(path, old, 0o600))
	device := deviceFS{FS: disk.OS{}}
	s := open(t, t.TempDir(), func(o *Options) { o.FS = &device })
	large, here, missing := put(t, s, random(1, 2*testChunk+1)), put(t, s, random(2, testChunk)), create(t, s, random(3, testChunk))
	export := func(f *File, path string) error {
		return f.Export(t.Context(), path, ExportOptions{Overwrite: true}, nil)
	}
	if err := export(large, path); reason.Of(err) != reason.NoSpace {
		t.Errorf("too small: %v", err)
	}
	if err := export(missing, path); !errors.Is(err, ErrMissing) {
		t.Errorf("not all here: %v", err)
	}
	if err := export(here, path+"2"); reason.Of(err) != reason.DestUnusable {
		t.Errorf("no device: %v", err)
	}
	device.busy = true
	if err := export(here, path); reason.Of(err) != reason.InUse {
		t.Errorf("in use: %v", err)
	}
	if got, err := os.ReadFile(path); err != nil || !slices.Equal(got, old) {
		t.Errorf("it was written to (%v)", err)
	}
	device.busy = false
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := here.Export(ctx, path, ExportOptions{Overwrite: true}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
