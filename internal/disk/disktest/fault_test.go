package disktest

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtswarm/virtswarm/internal/disk"
)

// TestWriteFileIsAtomic kills the machine at every step of WriteFile, with all kinds of luck: the file holds the
// old or the new, whole, and the new once WriteFile has returned.
func TestWriteFileIsAtomic(t *testing.T) {
	before, after := bytes.Repeat([]byte("old"), 3000), bytes.Repeat([]byte("newer"), 3000)
	for step := 1; ; step++ {
		finished := false
		for seed := range uint64(20) {
			dir := t.TempDir()
			path := filepath.Join(dir, "inside", "file")
			if err := errors.Join(os.Mkdir(filepath.Dir(path), 0o700), os.WriteFile(path, before, 0o600)); err != nil {
				t.Fatal(err)
			}
			f := newFault(t, disk.OS{}, dir, seed)
			f.KillAt(step)
			err := disk.WriteFile(f, path, after, 0o600)
			finished = err == nil
			if finished == f.Killed() {
				t.Fatalf("step %d: killed %v, error %v", step, f.Killed(), err)
			}
			if err := f.PowerOff(); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, after) && (finished || !bytes.Equal(got, before)) {
				t.Fatalf("step %d seed %d: %d bytes that are neither old nor new, or old too late", step, seed, len(got))
			}
		}
		if finished {
			return
		}
	}
}

// losses runs do, cuts the power and returns which of the states that look tells were seen, over many seeds.
func losses(t *testing.T, do func(f *Fault, dir string), look func(f disk.FS, dir string) string) map[string]int {
	t.Helper()
	seen := map[string]int{}
	for seed := range uint64(60) {
		for i, base := range bases {
			under, dir := base.make(t)
			f := newFault(t, under, dir, seed*7+uint64(i))
			inside := filepath.Join(dir, "inside")
			must(t, under.MkdirAll(inside, 0o700))
			do(f, inside)
			must(t, f.PowerOff())
			seen[look(under, inside)]++
		}
	}
	return seen
}

func state(f disk.FS, dir string) string {
	p, err := disk.ReadFile(f, filepath.Join(dir, "f"), 1<<20)
	if err != nil {
		return "missing"
	}
	return string(bytes.Trim(p, "\x00")) + map[bool]string{true: "", false: "+zeros"}[len(p) == len(bytes.Trim(p, "\x00"))]
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestPowerOffLosesWhatIsNotSynced(t *testing.T) {
	page := func(c string) []byte { return bytes.Repeat([]byte(c), faultPage) }
	two := func(a, b string) string { return string(page(a)) + string(page(b)) }

	t.Run("pages one by one", func(t *testing.T) {
		seen := losses(t, func(f *Fault, dir string) {
			w := write(t, f, filepath.Join(dir, "f"), []byte(two("a", "b")))
			must(t, w.Sync(), f.SyncDir(dir))
			_, err := w.WriteAt([]byte(two("c", "d")), 0)
			must(t, err)
		}, state)
		for _, s := range []string{two("a", "b"), two("c", "d"), two("a", "d"), two("c", "b")} {
			if seen[s] == 0 {
				t.Errorf("never seen: %q", s[:1]+s[len(s)-1:])
			}
			delete(seen, s)
		}
		if len(seen) != 0 {
			t.Errorf("%d unexpected states", len(seen))
		}
	})
	t.Run("synced stays", func(t *testing.T) {
		seen := losses(t, func(f *Fault, dir string) {
			w := write(t, f, filepath.Join(dir, "f"), page("a"))
			must(t, w.Sync(), f.SyncDir(dir))
		}, state)
		if len(seen) != 1 || seen[string(page("a"))] == 0 {
			t.Errorf("%d states", len(seen))
		}
	})
	t.Run("a failed sync dooms", func(t *testing.T) {
		seen := losses(t, func(f *Fault, dir string) {
			w := write(t, f, filepath.Join(dir, "f"), page("a"))
			must(t, w.Sync(), f.SyncDir(dir))
			_, err := w.WriteAt(page("b"), 0)
			must(t, err)
			f.FailAt(1, errors.New("medium error"))
			if w.Sync() == nil {
				t.Fatal("sync did not fail")
			}
			must(t, w.Sync())
		}, state)
		if len(seen) != 1 || seen[string(page("a"))] == 0 {
			t.Errorf("%d states, want the old page always", len(seen))
		}
	})
	t.Run("writing again saves", func(t *testing.T) {
		seen := losses(t, func(f *Fault, dir string) {
			w := write(t, f, filepath.Join(dir, "f"), page("b"))
			must(t, f.SyncDir(dir))
			f.FailAt(1, errors.New("medium error"))
			if w.Sync() == nil {
				t.Fatal("sync did not fail")
			}
			_, err := w.WriteAt(page("b"), 0)
			must(t, err, w.Sync())
		}, state)
		if len(seen) != 1 || seen[string(page("b"))] == 0 {
			t.Errorf("%d states, want the page always", len(seen))
		}
	})
}

func TestPowerOffLosesNames(t *testing.T) {
	look := func(f disk.FS, dir string) string {
		s := ""
		for _, name := range []string{"a", "b", "d/x", "e/x"} {
			if _, err := f.Lstat(filepath.Join(dir, name)); err == nil {
				s += name + " "
			}
		}
		return s
	}
	check := func(t *testing.T, seen map[string]int, want ...string) {
		t.Helper()
		for _, s := range want {
			if seen[s] == 0 {
				t.Errorf("never seen: %q", s)
			}
			delete(seen, s)
		}
		if len(seen) != 0 {
			t.Errorf("unexpected: %v", seen)
		}
	}
	t.Run("in reverse order", func(t *testing.T) {
		check(t, losses(t, func(f *Fault, dir string) {
			write(t, f, filepath.Join(dir, "a"), nil)
			write(t, f, filepath.Join(dir, "b"), nil)
		}, look), "", "a ", "a b ")
	})
	t.Run("not after SyncDir", func(t *testing.T) {
		check(t, losses(t, func(f *Fault, dir string) {
			write(t, f, filepath.Join(dir, "a"), nil)
			must(t, f.SyncDir(dir))
			must(t, f.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "b")))
		}, look), "a ", "b ")
	})
	t.Run("removed ones come back", func(t *testing.T) {
		check(t, losses(t, func(f *Fault, dir string) {
			write(t, f, filepath.Join(dir, "a"), nil)
			must(t, f.SyncDir(dir), f.Remove(filepath.Join(dir, "a")))
		}, look), "", "a ")
	})
	t.Run("there and back again", func(t *testing.T) {
		check(t, losses(t, func(f *Fault, dir string) {
			a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
			write(t, f, a, nil)
			must(t, f.Rename(a, b), f.Rename(b, a))
		}, look), "", "a ", "b ")
	})
	t.Run("inside a directory that was renamed", func(t *testing.T) {
		check(t, losses(t, func(f *Fault, dir string) {
			must(t, f.MkdirAll(filepath.Join(dir, "d"), 0o700), f.SyncDir(dir))
			write(t, f, filepath.Join(dir, "d/x"), nil)
			must(t, f.Rename(filepath.Join(dir, "d"), filepath.Join(dir, "e")))
		}, look), "", "d/x ", "e/x ")
		check(t, losses(t, func(f *Fault, dir string) {
			must(t, f.MkdirAll(filepath.Join(dir, "d"), 0o700), f.SyncDir(dir))
			write(t, f, filepath.Join(dir, "d/x"), nil)
			must(t, f.Rename(filepath.Join(dir, "d"), filepath.Join(dir, "e")), f.SyncDir(dir))
		}, look), "", "e/x ")
	})
}

func TestTornWrite(t *testing.T) {
	dir := t.TempDir()
	f := newFault(t, disk.OS{}, dir, 0)
	w := write(t, f, filepath.Join(dir, "f"), []byte("12345678"))
	f.FailAt(1, errors.Join(ErrTorn, NoSpace()))
	n, err := w.WriteAt([]byte("abcdefgh"), 0)
	if n != 4 || !errors.Is(err, disk.ErrNoSpace) {
		t.Errorf("%d bytes, %v", n, err)
	}
	want(t, disk.OS{}, filepath.Join(dir, "f"), []byte("abcd5678"))
}

func TestKillEndsEverything(t *testing.T) {
	dir := t.TempDir()
	f := newFault(t, disk.OS{}, dir, 0)
	w := write(t, f, filepath.Join(dir, "f"), []byte("1"))
	f.Kill()
	_, readErr := w.ReadAt(make([]byte, 1), 0)
	_, writeErr := w.WriteAt([]byte("2"), 0)
	_, openErr := f.OpenFile(filepath.Join(dir, "g"), os.O_RDWR|os.O_CREATE, 0o600)
	for name, err := range map[string]error{"read": readErr, "write": writeErr, "open": openErr, "sync": w.Sync(), "rename": f.Rename("a", "b")} {
		if !errors.Is(err, ErrKilled) {
			t.Errorf("%s: %v", name, err)
		}
	}
	want(t, disk.OS{}, filepath.Join(dir, "f"), []byte("1"))
}

func TestLocksEndWithTheProcess(t *testing.T) {
	for _, base := range bases {
		under, dir := base.make(t)
		f := newFault(t, under, dir, 0)
		path := filepath.Join(dir, "LOCK")
		dead, err := f.Lock(path)
		must(t, err)
		f.Kill()
		alive, err := under.Lock(path)
		must(t, err, dead.Close())
		if _, err := under.Lock(path); !errors.Is(err, disk.ErrLocked) {
			t.Errorf("%s: the dead has given up a lock of the living: %v", base.name, err)
		}
		must(t, alive.Close())
	}
}

// TestPowerOffAfterUnsyncedReplacements: a name that is replaced over and over, and never made durable, has one of its
// contents afterwards or none; and what was replaced in a directory that is removed for good does not come back.
func TestPowerOffAfterUnsyncedReplacements(t *testing.T) {
	replace := func(f *Fault, dir, text string) {
		t.Helper()
		must(t, write(t, f, filepath.Join(dir, "next"), []byte(text)).Sync())
		must(t, f.Rename(filepath.Join(dir, "next"), filepath.Join(dir, "note")))
	}
	look := func(f disk.FS, dir string) string {
		p, err := disk.ReadFile(f, filepath.Join(dir, "kept", "note"), 100)
		if err != nil {
			p = []byte("none")
		}
		left, err := f.ReadDir(dir)
		must(t, err)
		text := string(p)
		for _, e := range left {
			text += " " + e.Name()
		}
		return text
	}
	seen := losses(t, func(f *Fault, dir string) {
		kept, gone := filepath.Join(dir, "kept"), filepath.Join(dir, "gone")
		must(t, errors.Join(f.MkdirAll(kept, 0o700), f.MkdirAll(gone, 0o700), f.SyncDir(dir)))
		for _, text := range []string{"one", "two", "three"} {
			replace(f, kept, text)
			replace(f, gone, text)
		}
		must(t, errors.Join(f.Rename(gone, filepath.Join(dir, "grave")), f.RemoveAll(filepath.Join(dir, "grave")), f.SyncDir(dir)))
	}, look)
	for state := range seen {
		switch state {
		case "none kept", "one kept", "two kept", "three kept":
		default:
			t.Errorf("found %q", state)
		}
	}
	if len(seen) != 4 {
		t.Errorf("seen: %v", seen)
	}
}
