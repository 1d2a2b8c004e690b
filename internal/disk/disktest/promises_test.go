package disktest

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk"
)

func newFault(t *testing.T, under disk.FS, dir string, seed uint64) *Fault {
	t.Helper()
	f, err := NewFault(under, filepath.Join(dir, "attic"), seed)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// bases are the file systems that others stand on.
var bases = []struct {
	name string
	make func(t *testing.T) (disk.FS, string)
}{
	{"OS", func(t *testing.T) (disk.FS, string) { return disk.OS{}, t.TempDir() }},
	{"Memory", func(t *testing.T) (disk.FS, string) { return NewMemory(0), "/" }},
}

// each runs a test over every file system, and over a Fault that does nothing.
func each(t *testing.T, test func(t *testing.T, f disk.FS, dir string)) {
	for _, base := range bases {
		t.Run(base.name, func(t *testing.T) {
			f, dir := base.make(t)
			test(t, f, dir)
		})
		t.Run("Fault over "+base.name, func(t *testing.T) {
			f, dir := base.make(t)
			inside := filepath.Join(dir, "inside")
			must(t, f.MkdirAll(inside, 0o700))
			test(t, newFault(t, f, dir, 0), inside)
		})
	}
}

func write(t *testing.T, f disk.FS, path string, p []byte) disk.File {
	t.Helper()
	w, err := f.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	if _, err := w.WriteAt(p, 0); err != nil {
		t.Fatal(err)
	}
	return w
}

func want(t *testing.T, f disk.FS, path string, p []byte) {
	t.Helper()
	got, err := disk.ReadFile(f, path, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, p) {
		t.Errorf("%s holds %.20q, want %.20q", path, got, p)
	}
}

func wantMissing(t *testing.T, f disk.FS, path string) {
	t.Helper()
	if _, err := f.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is there (%v)", path, err)
	}
}

func TestNames(t *testing.T) {
	each(t, func(t *testing.T, f disk.FS, dir string) {
		a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		write(t, f, a, []byte("a"))
		write(t, f, b, []byte("b"))
		if err := f.RenameNew(a, b); !errors.Is(err, fs.ErrExist) {
			t.Errorf("RenameNew over a file: %v", err)
		}
		if err := f.Link(a, b); !errors.Is(err, fs.ErrExist) {
			t.Errorf("Link over a file: %v", err)
		}
		want(t, f, a, []byte("a"))
		want(t, f, b, []byte("b"))
		if err := f.Rename(a, b); err != nil {
			t.Fatal(err)
		}
		wantMissing(t, f, a)
		want(t, f, b, []byte("a"))
		if err := f.RenameNew(b, a); err != nil {
			t.Fatal(err)
		}
		wantMissing(t, f, b)
		if err := f.Remove(a); err != nil {
			t.Fatal(err)
		}
		if err := f.Remove(a); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Remove of nothing: %v", err)
		}
		if err := f.RemoveAll(a); err != nil {
			t.Errorf("RemoveAll of nothing: %v", err)
		}
		if err := f.SyncDir(dir); err != nil {
			t.Error(err)
		}
	})
}

func TestRenameNewOfDirectories(t *testing.T) {
	each(t, func(t *testing.T, f disk.FS, dir string) {
		from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
		for _, d := range []string{filepath.Join(from, "x"), filepath.Join(to, "y")} {
			if err := f.MkdirAll(d, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.RenameNew(from, to); !errors.Is(err, fs.ErrExist) {
			t.Errorf("RenameNew over a directory: %v", err)
		}
		if err := f.RemoveAll(to); err != nil {
			t.Fatal(err)
		}
		if err := f.RenameNew(from, to); err != nil {
			t.Error(err)
		}
	})
}

func TestUnnamed(t *testing.T) {
	each(t, func(t *testing.T, f disk.FS, dir string) {
		for _, named := range []bool{false, true} {
			w, err := f.CreateUnnamed(dir, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.WriteAt([]byte("x"), 0); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "name")
			if named {
				write(t, f, filepath.Join(dir, "taken"), nil)
				if err := w.Link(filepath.Join(dir, "taken")); !errors.Is(err, fs.ErrExist) {
					t.Errorf("Link over a file: %v", err)
				}
				wantMissing(t, f, path)
				if err := w.Link(path); err != nil {
					t.Fatal(err)
				}
				want(t, f, path, []byte("x"))
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			names, err := f.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			if n := len(names); named && n != 2 || !named && n != 0 {
				t.Errorf("named %v: %d files are left", named, n)
			}
		}
	})
}

func TestHoles(t *testing.T) {
	each(t, func(t *testing.T, f disk.FS, dir string) {
		const grain = 64 << 10
		w := write(t, f, filepath.Join(dir, "f"), nil)
		if err := w.Truncate(16 * grain); err != nil {
			t.Fatal(err)
		}
		data := bytes.Repeat([]byte{7}, grain)
		for _, at := range []int64{2, 5, 6} {
			if _, err := w.WriteAt(data, at*grain); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.PunchHole(5*grain, grain); err != nil {
			if errors.Is(err, unix.EOPNOTSUPP) {
				t.Skip("this file system cannot punch holes")
			}
			t.Fatal(err)
		}
		if err := w.Sync(); err != nil {
			t.Fatal(err)
		}
		w.DropCache(0, 16*grain)
		var got []content.Extent
		for e, err := range w.Extents(16*grain, grain) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, e)
		}
		if !slices.Equal(got, []content.Extent{{Off: 2 * grain, N: grain}, {Off: 6 * grain, N: grain}}) {
			t.Errorf("extents %v", got)
		}
	})
}

func TestCloneSharesOrSaysNo(t *testing.T) {
	each(t, func(t *testing.T, f disk.FS, dir string) {
		p := bytes.Repeat([]byte("0123456789abcdef"), 1<<12)
		src := write(t, f, filepath.Join(dir, "src"), p)
		dst := write(t, f, filepath.Join(dir, "dst"), nil)
		for name, err := range map[string]error{
			"CloneTo":    src.CloneTo(dst),
			"CloneRange": dst.CloneRange(src, 0, int64(len(p)), 0),
		} {
			if err == nil {
				want(t, f, dst.Name(), p)
			} else if !errors.Is(err, disk.ErrNoClone) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestLock(t *testing.T) {
	each(t, func(t *testing.T, f disk.FS, dir string) {
		path := filepath.Join(dir, "LOCK")
		l, err := f.Lock(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Lock(path); !errors.Is(err, disk.ErrLocked) {
			t.Errorf("second lock: %v", err)
		}
		l.Close()
		if l, err = f.Lock(path); err != nil {
			t.Fatal(err)
		}
		l.Close()
	})
}
