package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/disk/disktest"
)

// mount makes a small file system of its own and returns where it is.
func mount(t *testing.T, fstype, source, options string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount(source, dir, fstype, 0, options); err != nil {
		t.Skipf("cannot mount %s here: %v", fstype, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestQuota(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, func(o *Options) { o.Quota.Bytes = 5 * testChunk })
	p := random(1, 3*testChunk)
	f := put(t, s, p)
	if u := s.Usage(); u.Files != 1 || u.Bytes != 3*testChunk || u.Arriving != 0 || u.Quota != 5*testChunk || u.Budget != u.Quota || u.Free <= 0 {
		t.Errorf("usage %+v", u)
	}
	q := random(2, 3*testChunk)
	g := create(t, s, q) // what counts is what is there, not what may come
	must(t, errors.Join(g.WriteChunk(0, part(g, q, 0)), g.WriteChunk(2, part(g, q, 2))))
	if err := g.WriteChunk(1, part(g, q, 1)); !errors.Is(err, ErrNoSpace) || !strings.Contains(err.Error(), "quota of 327680 bytes") {
		t.Errorf("write beyond the quota: %v", err)
	}
	if err := importError(t, s, random(3, testChunk)); !errors.Is(err, ErrNoSpace) || !strings.Contains(err.Error(), "quota of 327680 bytes") {
		t.Errorf("import beyond the quota: %v", err)
	}
	if err := s.MakeRoom(t.Context(), 1); !errors.Is(err, ErrNoSpace) {
		t.Errorf("room beyond the quota: %v", err)
	}
	wantEmptyDir(t, filepath.Join(dir, "incoming"))
	if u := s.Usage(); u.Arriving != 0 || u.Bytes != 5*testChunk {
		t.Errorf("usage after failures %+v", u)
	}
	put(t, s, make([]byte, 10*testChunk))  // holes take nothing
	if again := put(t, s, p); again != f { // nor does what is here already
		t.Error("the same content, another file")
	}
	s.SetQuota(Quota{Bytes: 6 * testChunk})
	must(t, errors.Join(s.MakeRoom(t.Context(), testChunk), g.WriteChunk(1, part(g, q, 1))))
	must(t, s.Remove(g.ID()))
	s.SetQuota(Quota{})
	put(t, s, random(3, 9*testChunk))
	s.SetQuota(Quota{Bytes: testChunk}) // nothing is lost by a smaller quota
	wantContent(t, f, p)
	if u := s.Usage(); u.Bytes != 12*testChunk || u.Arriving != 0 || u.Excess() != 12*testChunk-u.Low {
		t.Errorf("usage at last %+v", u)
	}
}

func importError(t *testing.T, s *Store, p []byte) error {
	t.Helper()
	f, err := s.Import(context.Background(), source(t, p), ImportOptions{ChunkSize: testChunk})
	if err == nil {
		t.Errorf("import of %s went well", f.ID())
	}
	return err
}

func TestKeepFree(t *testing.T) {
	s := open(t, t.TempDir(), func(o *Options) { o.KeepFree = 1 << 60 })
	f := create(t, s, random(1, 1))
	if err := f.WriteChunk(0, random(1, 1)); !errors.Is(err, ErrNoSpace) {
		t.Error(err)
	}
	put(t, s, make([]byte, testChunk)) // nothing but a hole
}

// TestFullDisk fills a real file system: whatever does not fit is refused, leaves nothing, and costs nothing that
// was there.
func TestFullDisk(t *testing.T) {
	const size = 8 << 20
	top := mount(t, "tmpfs", "none", "size=8m")
	dir := filepath.Join(top, "store")
	s := open(t, dir)
	p := random(1, 2<<20)
	f := put(t, s, p)

	if err := importError(t, s, random(2, size)); !errors.Is(err, ErrNoSpace) {
		t.Errorf("import: %v", err)
	} else {
		t.Log(err)
	}
	if err := s.MakeRoom(t.Context(), size); !errors.Is(err, ErrNoSpace) {
		t.Errorf("room: %v", err)
	} else {
		t.Log(err)
	}
	wantEmptyDir(t, filepath.Join(dir, "incoming"))
	if len(s.List()) != 1 {
		t.Errorf("%d files", len(s.List()))
	}

	// A file that fits when it is created; then somebody else takes the room.
	q := random(4, 2<<20)
	g := create(t, s, q)
	must(t, g.WriteChunk(0, part(g, q, 0)))
	hog := filepath.Join(top, "hog")
	fillUp(t, hog)
	full := 0
	for i := range g.Manifest().Chunks() {
		if err := g.WriteChunk(i, part(g, q, i)); errors.Is(err, ErrNoSpace) {
			if full++; full == 1 {
				t.Log(err)
			}
		} else if err != nil {
			t.Fatal(err)
		} else if i > 0 {
			t.Errorf("chunk %d was written to a full disk", i)
		}
	}
	if err := g.Sync(t.Context()); err != nil {
		t.Errorf("sync on a full disk: %v", err)
	}
	if !g.Durable().Has(0) || g.Missing() != full {
		t.Errorf("%d missing, %d failed", g.Missing(), full)
	}
	if err := f.Export(t.Context(), filepath.Join(top, "out"), ExportOptions{Mode: Copy}, nil); !errors.Is(err, ErrNoSpace) {
		t.Errorf("export to a full disk: %v", err)
	}
	wantContent(t, f, p)
	must(t, s.Close())
	s = open(t, dir) // a full disk does not keep a store from opening

	must(t, os.Remove(hog))
	g, _ = s.Get(g.ID())
	for i := range g.Manifest().Chunks() {
		must(t, g.WriteChunk(i, part(g, q, i)))
	}
	wantContent(t, g, q)
	f, _ = s.Get(f.ID())
	wantContent(t, f, p)
	wantNames(t, top, "store")
}

// fillUp writes a file until the disk is full.
func fillUp(t *testing.T, path string) {
	t.Helper()
	w, err := os.Create(path)
	must(t, err)
	defer w.Close()
	p := make([]byte, 4096)
	for {
		if _, err := w.Write(p); errors.Is(err, unix.ENOSPC) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// TestHalfChunkIsPunched: what a failed write has left of a chunk is given back to the disk.
func TestHalfChunkIsPunched(t *testing.T) {
	s := newStory(t, 1)
	store, err := Open(Options{Dir: s.dir, FS: s.fs})
	must(t, err)
	defer store.Close()
	f, err := store.Create(t.Context(), s.manifest)
	must(t, err)
	s.fs.FailAt(1, errors.Join(disktest.ErrTorn, disktest.NoSpace()))
	if err := f.WriteChunk(1, part(f, s.b, 1)); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("write: %v", err)
	}
	data, err := disk.OS{}.OpenFile(dataIn(f.dir), os.O_RDONLY, 0)
	must(t, err)
	defer data.Close()
	for e := range data.Extents(s.manifest.Size(), testChunk) {
		t.Errorf("%d bytes are left at %d", e.N, e.Off)
	}
	must(t, f.WriteChunk(1, part(f, s.b, 1)))
}
