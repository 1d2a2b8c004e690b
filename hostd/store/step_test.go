package store

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/disk/disktest"
)

// faulty opens a store over a file system that can be told to fail, with p in it.
func faulty(t *testing.T, p []byte) (*disktest.Fault, *Store, *File) {
	t.Helper()
	root := t.TempDir()
	fault, err := disktest.NewFault(disk.OS{}, filepath.Join(root, "attic"), 0)
	must(t, err)
	s := open(t, filepath.Join(root, "store"), func(o *Options) { o.FS = fault })
	return fault, s, put(t, s, p)
}

// TestExportAnywhere fails every step of an export: the destination is whole or not there, and no other name is.
func TestExportAnywhere(t *testing.T) {
	p := random(1, 3*testChunk)
	for _, mode := range []ExportMode{Auto, HardLink, Copy} {
		for step := 1; ; step++ {
			fault, _, f := faulty(t, p)
			dir := t.TempDir()
			dest := filepath.Join(dir, "out")
			before := fault.Ops()
			fault.FailAt(step, syscall.EIO)
			err := f.Export(t.Context(), dest, ExportOptions{Mode: mode}, nil)
			reached := fault.Ops()-before >= step
			got, readErr := os.ReadFile(dest)
			switch {
			case readErr == nil && !slices.Equal(got, p):
				t.Errorf("mode %d, step %d: half a file", mode, step)
			case err == nil && readErr != nil:
				t.Errorf("mode %d, step %d: done, but %v", mode, step, readErr)
			case err == nil && reached:
				t.Errorf("mode %d, step %d: an error was swallowed", mode, step)
			}
			if readErr != nil {
				wantEmptyDir(t, dir)
			} else {
				wantNames(t, dir, "out")
			}
			if !reached {
				break
			}
		}
	}
}

// TestExportSyncsBeforeItNames watches the order of an export.
func TestExportSyncsBeforeItNames(t *testing.T) {
	fault, _, f := faulty(t, random(1, testChunk))
	var order []string
	fault.OnOp(func(op disktest.Op) error {
		if op.N > 0 {
			order = append(order, op.Name)
		}
		return nil
	})
	must(t, f.Export(t.Context(), filepath.Join(t.TempDir(), "out"), ExportOptions{Mode: Copy}, nil))
	fault.OnOp(nil)
	if got, want := strings.Join(order, " "), "create truncate write sync link syncdir"; got != want {
		t.Errorf("steps %q, want %q", got, want)
	}
}

// TestUnreadableChunk: what the medium does not give back is damaged; what it gives at the second try is not.
func TestUnreadableChunk(t *testing.T) {
	p := random(1, 3*testChunk)
	for _, failures := range []int{1, 2} {
		fault, s, f := faulty(t, p)
		left := failures
		fault.OnOp(func(op disktest.Op) error {
			if op.Name == "read" && filepath.Base(op.Path) == "data" && left > 0 {
				left--
				return syscall.EIO
			}
			return nil
		})
		_, err := f.ReadChunk(1, nil)
		fault.OnOp(nil)
		if failures == 1 && (err != nil || !f.Has(1)) {
			t.Errorf("one failure: %v, held %v", err, f.Has(1))
		}
		if failures == 2 && (!errors.Is(err, ErrCorrupt) || f.Has(1)) {
			t.Errorf("two failures: %v, held %v", err, f.Has(1))
		}
		if n := testutil.ToFloat64(s.metrics.corrupt); n != float64(failures-1) {
			t.Errorf("%v chunks counted as damaged", n)
		}
		must(t, f.WriteChunk(1, part(f, p, 1)))
		wantContent(t, f, p)
	}
}

// TestReadOnlyDataIsOpened: a file that was exported by hard link can still be healed by an owner who is not root.
func TestReadOnlyDataIsOpened(t *testing.T) {
	p := random(1, 2*testChunk)
	fault, s, f := faulty(t, p)
	out := filepath.Join(t.TempDir(), "out")
	must(t, f.Export(t.Context(), out, ExportOptions{Mode: HardLink}, nil))
	if st, err := os.Stat(out); err != nil || st.Mode().Perm() != LinkPerm {
		t.Errorf("exported as %v, %v", st.Mode(), err)
	}
	must(t, s.handles.drop(f))
	fault.OnOp(func(op disktest.Op) error { // as for an owner who is not root
		if st, err := os.Stat(op.Path); op.Name == "open" && err == nil && st.Mode().Perm()&0o200 == 0 {
			return syscall.EACCES
		}
		return nil
	})
	flip(t, out, 5)
	if _, err := f.ReadChunk(0, nil); !errors.Is(err, ErrCorrupt) {
		t.Errorf("read: %v", err)
	}
	must(t, f.WriteChunk(0, part(f, p, 0)))
	fault.OnOp(nil)
	wantContent(t, f, p)
	if got, err := os.ReadFile(out); err != nil || !slices.Equal(got, p) {
		t.Errorf("the second name was not healed (%v)", err)
	}
}

// TestUnreadableStore: what cannot be read at all is an error that names the path, not an empty store.
func TestUnreadableStore(t *testing.T) {
	for _, victim := range []string{"files", "manifest", "bitmap", "data"} {
		t.Run(victim, func(t *testing.T) {
			root := t.TempDir()
			dir := filepath.Join(root, "store")
			s := open(t, dir)
			put(t, s, random(1, testChunk))
			s.Close()
			fault, err := disktest.NewFault(disk.OS{}, filepath.Join(root, "attic"), 0)
			must(t, err)
			fault.OnOp(func(op disktest.Op) error {
				if op.N == 0 && filepath.Base(op.Path) == victim {
					return syscall.EIO
				}
				return nil
			})
			s, err = Open(Options{Dir: dir, FS: fault})
			if err == nil {
				s.Close()
			}
			if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), filepath.Join(dir, "files")) {
				t.Errorf("open: %v", err)
			}
		})
	}
}

func TestMetrics(t *testing.T) {
	dir := t.TempDir()
	registry := prometheus.NewRegistry()
	withMetrics := func(o *Options) { o.Metrics = registry }
	s := open(t, dir, withMetrics)
	put(t, s, random(1, testChunk))
	problems, err := testutil.GatherAndLint(registry)
	must(t, err)
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	if n, err := testutil.GatherAndCount(registry, "virtswarm_store_held_bytes", "virtswarm_store_dedup_bytes_total"); err != nil || n != 2 {
		t.Errorf("%d of two metrics, %v", n, err)
	}
	if _, err := Open(Options{Dir: t.TempDir(), Metrics: registry}); err == nil {
		t.Error("two stores in one registry")
	}
	must(t, s.Close())
	open(t, dir, withMetrics)
}
