package disktest

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/virtswarm/virtswarm/internal/disk"
)

// TestRandomWrites compares what every file system holds with a slice after random operations.
func TestRandomWrites(t *testing.T) {
	const size = 10*faultPage + 77
	each(t, func(t *testing.T, f disk.FS, dir string) {
		rng := rand.New(rand.NewPCG(1, 2))
		path := filepath.Join(dir, "f")
		w := write(t, f, path, nil)
		var model []byte
		for range 400 {
			off, n := rng.Int64N(size), rng.Int64N(3*faultPage)
			switch rng.IntN(8) {
			case 0:
				must(t, w.Truncate(off))
				model = append(model, make([]byte, max(0, off-int64(len(model))))...)[:off]
			case 1:
				must(t, w.PunchHole(off, n+1))
				if off < int64(len(model)) {
					clear(model[off:min(int64(len(model)), off+n+1)])
				}
			case 2:
				must(t, w.Sync())
			default:
				p := bytes.Repeat([]byte{byte(rng.Uint32())}, int(n))
				got, err := w.WriteAt(p, off)
				must(t, err)
				if got != len(p) {
					t.Fatalf("%d of %d bytes", got, len(p))
				}
				if n > 0 {
					model = append(model, make([]byte, max(0, off+n-int64(len(model))))...)
					copy(model[off:], p)
				}
			}
			if st, err := f.Stat(path); err != nil || st.Size() != int64(len(model)) {
				t.Fatalf("length %d, want %d (%v)", st.Size(), len(model), err)
			}
		}
		want(t, f, path, model)
		got := make([]byte, 2*faultPage)
		if n, err := w.ReadAt(got, int64(len(model))-5); n != 5 || err != io.EOF || !bytes.Equal(got[:5], model[len(model)-5:]) {
			t.Errorf("at the end: %d bytes, %v", n, err)
		}
		must(t, w.Close())
		w, err := f.OpenFile(path, os.O_RDWR|os.O_TRUNC, 0)
		must(t, err)
		want(t, f, path, nil)
		must(t, w.Close())
	})
}

func TestMemoryIsFull(t *testing.T) {
	m := NewMemory(3 * faultPage)
	w := write(t, m, "/f", make([]byte, 2*faultPage))
	n, err := w.WriteAt(make([]byte, 2*faultPage), 2*faultPage)
	if n != faultPage || !errors.Is(err, disk.ErrNoSpace) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%d bytes, %v", n, err)
	}
	if free, total, err := m.Space("/"); free != 0 || total != 3*faultPage || err != nil {
		t.Errorf("%d of %d free, %v", free, total, err)
	}
	_, err = w.WriteAt([]byte("over what is there"), 0)
	must(t, err, w.PunchHole(0, faultPage))
	_, err = w.WriteAt([]byte("x"), 3*faultPage)
	must(t, err, m.Remove("/f"))
	if free, _, _ := m.Space("/"); free != 0 {
		t.Errorf("%d bytes free while a removed file is open", free)
	}
	must(t, w.Close())
	if free, _, _ := m.Space("/"); free != 3*faultPage {
		t.Errorf("%d bytes free at last", free)
	}
	m.SetLimit(faultPage)
	v := write(t, m, "/g", []byte("x"))
	if _, err := v.WriteAt([]byte("x"), faultPage); !errors.Is(err, disk.ErrNoSpace) {
		t.Errorf("beyond the new limit: %v", err)
	}
}

func TestMemoryTree(t *testing.T) {
	m := NewMemory(0)
	must(t, m.MkdirAll("/a/b/c", 0o700), m.MkdirAll("/e", 0o700))
	write(t, m, "/a/b/f", []byte("x"))
	for name, c := range map[string]struct{ got, want error }{
		"a directory into itself":       {m.Rename("/a", "/a/b/c/a"), syscall.EINVAL},
		"onto a full directory":         {m.Rename("/e", "/a"), syscall.ENOTEMPTY},
		"a file onto a directory":       {m.Rename("/a/b/f", "/e"), syscall.EISDIR},
		"a directory onto a file":       {m.Rename("/e", "/a/b/f"), syscall.ENOTDIR},
		"below a file":                  {m.MkdirAll("/a/b/f/g", 0o700), syscall.ENOTDIR},
		"removing a full directory":     {m.Remove("/a"), syscall.ENOTEMPTY},
		"linking a directory":           {m.Link("/a", "/l"), syscall.EPERM},
		"renaming what is not there":    {m.Rename("/x", "/y"), fs.ErrNotExist},
		"syncing what is not there":     {m.SyncDir("/x"), fs.ErrNotExist},
		"space of what is not there":    {func() error { _, _, err := m.Space("/x"); return err }(), fs.ErrNotExist},
		"opening below what is missing": {func() error { _, err := m.OpenFile("/x/y", os.O_CREATE, 0); return err }(), fs.ErrNotExist},
	} {
		if !errors.Is(c.got, c.want) {
			t.Errorf("%s: %v", name, c.got)
		}
	}
	must(t, m.Rename("/a", "/e")) // an empty directory may be replaced
	want(t, m, "/e/b/f", []byte("x"))
	must(t, m.Link("/e/b/f", "/g"), m.RemoveAll("/e"))
	want(t, m, "/g", []byte("x"))
	st, err := m.Stat("/g")
	must(t, err)
	if n := st.Sys().(*syscall.Stat_t).Nlink; n != 1 || st.Name() != "g" || st.IsDir() {
		t.Errorf("%d names, %v", n, st)
	}
	var names []string
	entries, err := m.ReadDir("/")
	must(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, []string{"g"}) {
		t.Errorf("in the root: %q", names)
	}
}

// TestMemoryInABubble: its times are those of the bubble, and nothing in it waits for anything outside.
func TestMemoryInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(0)
		f, err := NewFault(m, "/attic", 1)
		must(t, err, f.MkdirAll("/d", 0o700))
		time.Sleep(time.Hour)
		must(t, disk.WriteFile(f, "/d/f", []byte("x"), 0o600))
		st, err := f.Stat("/d/f")
		must(t, err)
		if !st.ModTime().Equal(time.Now()) {
			t.Errorf("changed at %v, it is %v", st.ModTime(), time.Now())
		}
		must(t, f.Chtimes("/d/f", time.Unix(5, 0)))
		if st, _ = f.Stat("/d/f"); !st.ModTime().Equal(time.Unix(5, 0)) {
			t.Errorf("changed at %v", st.ModTime())
		}
		must(t, f.PowerOff())
		want(t, m, "/d/f", []byte("x"))
	})
}
