package guest_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtswarm/virtswarm/guestagent"
)

// TestPullIsItsOwnersAlone: unless the caller asks for more, in a directory that was named through a link too.
func TestPullIsItsOwnersAlone(t *testing.T) {
	w := newWorld(t)
	w.publish("file", "all", []byte("hush"))
	if err := errors.Join(os.MkdirAll(filepath.Join(w.dir, "real/deep"), 0o700), os.Symlink("real/deep", filepath.Join(w.dir, "link"))); err != nil {
		t.Fatal(err)
	}
	for i, want := range map[string]fs.FileMode{"a": 0o600, "b": 0o644, "c": 0o400} {
		o := guestagent.PullOptions{Perm: new(want)}
		if want == 0o600 {
			o.Perm = nil
		}
		if _, err := w.agent(dbUUID).Pull(t.Context(), "file", w.dir+"/link/../"+i, o); err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(filepath.Join(w.dir, "real", i)); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: mode %v, want %v (%v)", i, st.Mode(), want, err)
		}
	}
	dir := filepath.Join(w.dir, "kept")
	if err := w.agent(dbUUID).Sync(t.Context(), "", dir, guestagent.SyncOptions{Once: true, Perm: new(fs.FileMode(0o640))}); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(filepath.Join(dir, "file")); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("synchronised: %v, %v", st.Mode(), err)
	}
}

// TestPushRefusesSizesThatAreNoSizes: it would publish a file of /proc as empty.
func TestPushRefusesSizesThatAreNoSizes(t *testing.T) {
	w := newWorld(t)
	for _, path := range []string{"/proc/cpuinfo", "/proc/sys/kernel/ostype", "/sys/kernel/mm/transparent_hugepage/enabled"} {
		if _, err := os.Stat(path); err != nil {
			t.Logf("there is no %s", path)
			continue
		}
		if _, err := w.agent(webUUID).Push(t.Context(), path, "x", nil); !errors.Is(err, guestagent.ErrOddSize) {
			t.Errorf("%s: %v", path, err)
		}
	}
	empty := filepath.Join(w.dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := w.agent(webUUID).Push(t.Context(), empty, "empty", nil); err != nil {
		t.Errorf("an empty file: %v", err)
	}
}
