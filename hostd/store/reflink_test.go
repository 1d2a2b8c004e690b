package store

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"
)

// mountXFS makes a file system that shares blocks between files.
func mountXFS(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	mkfs, err := exec.LookPath("mkfs.xfs")
	if err != nil {
		t.Skip("mkfs.xfs is not installed (package xfsprogs)")
	}
	image := filepath.Join(t.TempDir(), "image")
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 512<<20))
	if out, err := exec.Command(mkfs, "-q", "-m", "reflink=1", image).CombinedOutput(); err != nil {
		t.Skipf("mkfs.xfs: %v: %s", err, out)
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		t.Skipf("cannot mount a loop device here: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestReflink: import, deduplication and export share blocks where the file system can, and verify all the same.
func TestReflink(t *testing.T) {
	top := mountXFS(t)
	s, err := Open(Options{Dir: filepath.Join(top, "store")})
	must(t, err)
	defer s.Close()
	p := random(1, 40<<20+4321)

	path := filepath.Join(top, "source")
	must(t, os.WriteFile(path, p, 0o600))
	src, err := os.Open(path)
	must(t, err)
	defer src.Close()
	free := func() int64 {
		must(t, unix.Syncfs(int(src.Fd()))) // counts what is still on its way
		return s.Usage().Free
	}
	before := free()
	f, err := s.Import(t.Context(), src, ImportOptions{ChunkSize: testChunk})
	must(t, err)
	wantContent(t, f, p)

	q := append([]byte(nil), p...)
	copy(q[5*testChunk:], "changed")
	q = append(q, 1)
	g := create(t, s, q)
	if g.Missing() != 2 || s.noClone.Load() {
		t.Errorf("%d chunks missing, want the changed one and the tail; sharing refused %v", g.Missing(), s.noClone.Load())
	}
	if n := testutil.ToFloat64(s.metrics.dedupBytes); n != float64((g.Manifest().Chunks()-2)*testChunk) {
		t.Errorf("%v bytes counted as copied", n)
	}
	for i := range g.Manifest().Chunks() {
		must(t, g.WriteChunk(i, part(g, q, i)))
	}
	must(t, g.Sync(t.Context()))
	wantContent(t, g, q)

	out := filepath.Join(top, "out")
	must(t, g.Export(t.Context(), out, ExportOptions{Mode: Auto}, nil))
	if got, err := os.ReadFile(out); err != nil || string(got) != string(q) {
		t.Errorf("exported bytes differ (%v)", err)
	}
	if taken := before - free(); taken > 20<<20 {
		t.Errorf("%d bytes taken by what should be shared", taken)
	}

	// The export is a file of its own.
	must(t, os.WriteFile(out, []byte("scribble"), 0o600))
	wantContent(t, g, q)

	// A damaged chunk is neither exported nor lent, though its blocks could be shared.
	flip(t, dataIn(f.dir), 7*testChunk)
	flip(t, dataIn(g.dir), 7*testChunk)
	if err := f.Export(t.Context(), filepath.Join(top, "bad"), ExportOptions{Mode: Auto}, nil); err == nil {
		t.Error("a damaged file was exported")
	}
	h := create(t, s, append(q, 2))
	if h.Has(7) {
		t.Error("a damaged chunk was lent")
	}
	wantNames(t, top, "out", "source", "store")
}
