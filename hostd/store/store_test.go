package store

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk"
)

const testChunk = content.MinChunkSize

// open opens a store at dir on the real file system and closes it with the test.
func open(t testing.TB, dir string, options ...func(*Options)) *Store {
	t.Helper()
	o := Options{Dir: dir}
	for _, set := range options {
		set(&o)
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close store: %v", err)
		}
	})
	return s
}

// random returns n bytes that depend on the seed only.
func random(seed uint64, n int) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}).Read(p)
	return p
}

// source writes p to a new file and opens it.
func source(t testing.TB, p []byte) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(path, p, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// put imports p in chunks of testChunk.
func put(t testing.TB, s *Store, p []byte) *File {
	t.Helper()
	f, err := s.Import(context.Background(), source(t, p), ImportOptions{ChunkSize: testChunk})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// manifestOf cuts p in chunks of testChunk.
func manifestOf(t testing.TB, p []byte) *content.Manifest {
	t.Helper()
	m, err := content.ChunkFile(context.Background(), source(t, p), int64(len(p)), content.ChunkOptions{ChunkSize: testChunk})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// create makes an empty file for p in s.
func create(t testing.TB, s *Store, p []byte) *File {
	t.Helper()
	f, err := s.Create(context.Background(), manifestOf(t, p))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// part returns chunk i of p.
func part(f *File, p []byte, i int) []byte {
	off := f.Manifest().Offset(i)
	return p[off : off+int64(f.Manifest().ChunkLen(i))]
}

// wantContent fails unless f is complete and reads as p.
func wantContent(t testing.TB, f *File, p []byte) {
	t.Helper()
	if !f.Complete() {
		t.Fatalf("%d chunks are missing", f.Missing())
	}
	for i := range f.Manifest().Chunks() {
		got, err := f.ReadChunk(i, nil)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, part(f, p, i)) {
			t.Fatalf("chunk %d differs", i)
		}
	}
}

// wantEmptyDir fails if there is anything in dir.
func wantEmptyDir(t testing.TB, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		t.Errorf("%s is left in %s", e.Name(), dir)
	}
}

func TestRoundTripOfSizes(t *testing.T) {
	s := open(t, t.TempDir())
	for _, n := range []int{0, 1, testChunk - 1, testChunk, testChunk + 1, 5*testChunk + 17} {
		p := random(uint64(n), n)
		f := put(t, s, p)
		wantContent(t, f, p)
		for mode := Auto; mode <= Copy; mode++ {
			dest := filepath.Join(t.TempDir(), "räum mich auf")
			if err := f.Export(t.Context(), dest, ExportOptions{Mode: mode}, nil); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(dest)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, p) {
				t.Errorf("%d bytes come back different in mode %d", n, mode)
			}
			wantNames(t, filepath.Dir(dest), "räum mich auf")
		}
	}
}

func wantNames(t testing.TB, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if len(got) != len(want) {
		t.Fatalf("names in %s: %q, want %q", dir, got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("names in %s: %q, want %q", dir, got, want)
		}
	}
}

func TestFetchedFileSurvivesReopen(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	p := random(1, 10*testChunk+5)
	f := create(t, s, p)
	if f.Complete() || f.HeldBytes() != 0 {
		t.Fatal("a new file is not empty")
	}
	for i := range f.Manifest().Chunks() {
		if _, err := f.ReadChunk(i, nil); !errors.Is(err, ErrMissing) {
			t.Fatalf("read of a missing chunk: %v", err)
		}
		if err := f.WriteChunk(i, part(f, p, i)); err != nil {
			t.Fatal(err)
		}
	}
	wantContent(t, f, p)
	if err := f.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !f.Durable().Full() {
		t.Error("not durable after Sync")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.WriteChunk(0, part(f, p, 0)); !errors.Is(err, ErrClosed) {
		t.Errorf("write after close: %v", err)
	}
	f, ok := open(t, dir).Get(f.ID())
	if !ok {
		t.Fatal("file is gone")
	}
	wantContent(t, f, p)
}

func TestWriteRefusesWrongBytes(t *testing.T) {
	s := open(t, t.TempDir())
	p := random(1, 3*testChunk)
	clear(p[testChunk : 2*testChunk])
	f := create(t, s, p)
	bad := bytes.Clone(part(f, p, 0))
	bad[7] ^= 1
	for name, err := range map[string]error{
		"flipped":  f.WriteChunk(0, bad),
		"short":    f.WriteChunk(0, part(f, p, 0)[1:]),
		"other":    f.WriteChunk(0, part(f, p, 2)),
		"hole":     f.WriteChunk(1, part(f, p, 0)),
		"hole cut": f.WriteChunk(1, part(f, p, 1)[1:]),
	} {
		if !errors.Is(err, content.ErrMismatch) {
			t.Errorf("%s: %v, want a mismatch", name, err)
		}
	}
	if err := f.WriteChunk(1, part(f, p, 1)); err != nil {
		t.Errorf("zeros into a hole: %v", err)
	}
	if f.Missing() != 2 {
		t.Errorf("%d chunks missing, want 2", f.Missing())
	}
}

func TestRemove(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, func(o *Options) { o.Quota.Bytes = 3 * testChunk })
	p := random(1, 3*testChunk)
	f := put(t, s, p)
	if err := s.Remove(f.ID()); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(f.ID()); !errors.Is(err, ErrUnknown) {
		t.Errorf("second remove: %v", err)
	}
	if _, err := f.ReadChunk(0, nil); !errors.Is(err, ErrRemoved) {
		t.Errorf("read after remove: %v", err)
	}
	if err := f.Sync(t.Context()); !errors.Is(err, ErrRemoved) {
		t.Errorf("sync after remove: %v", err)
	}
	if u := s.Usage(); u.Files != 0 || u.Bytes != 0 || u.Arriving != 0 {
		t.Errorf("usage after remove: %+v", u)
	}
	wantEmptyDir(t, filepath.Join(dir, "files"))
	wantEmptyDir(t, filepath.Join(dir, "incoming"))
	wantContent(t, put(t, s, p), p)
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if _, err := Open(Options{Dir: dir}); !errors.Is(err, ErrLocked) {
		t.Errorf("second open: %v", err)
	}
	s.Close()
	open(t, dir)
}

func TestDamagedStore(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"future version": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "VERSION"), []byte("virtswarm store 2\n"), 0o600)
		},
		"garbled version": func(dir string) error { return os.WriteFile(filepath.Join(dir, "VERSION"), []byte("gurk"), 0o600) },
		"version too long": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "VERSION"), make([]byte, 1<<20), 0o600)
		},
		"lost version": func(dir string) error { return os.Remove(filepath.Join(dir, "VERSION")) },
		"files is a file": func(dir string) error {
			return errors.Join(os.RemoveAll(filepath.Join(dir, "files")), os.WriteFile(filepath.Join(dir, "files"), nil, 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			put(t, s, []byte("x"))
			s.Close()
			if err := damage(dir); err != nil {
				t.Fatal(err)
			}
			_, err := Open(Options{Dir: dir})
			if !errors.Is(err, ErrDamaged) {
				t.Fatalf("open: %v", err)
			}
			t.Log(err)
			if lock, err := (disk.OS{}).Lock(filepath.Join(dir, "LOCK")); err != nil {
				t.Errorf("the lock was not given up: %v", err)
			} else {
				lock.Close()
			}
		})
	}
}

func TestExportErrors(t *testing.T) {
	s := open(t, t.TempDir())
	p := random(1, 3*testChunk)
	f := put(t, s, p)
	out := t.TempDir()
	taken := filepath.Join(out, "taken")
	if err := os.Symlink("nowhere", taken); err != nil {
		t.Fatal(err)
	}
	for mode := Auto; mode <= Copy; mode++ {
		if err := f.Export(t.Context(), taken, ExportOptions{Mode: mode}, nil); !errors.Is(err, ErrExists) {
			t.Errorf("export over a name that is taken: %v", err)
		}
		if err := f.Export(t.Context(), filepath.Join(out, "no/such"), ExportOptions{Mode: mode}, nil); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("export into a directory that is not there: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := f.Export(ctx, filepath.Join(out, "cancelled"), ExportOptions{Mode: mode}, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled export: %v", err)
		}
		if err := create(t, s, random(2, 1)).Export(t.Context(), filepath.Join(out, "new"), ExportOptions{Mode: mode}, nil); !errors.Is(err, ErrMissing) {
			t.Errorf("export of an incomplete file: %v", err)
		}
	}
	wantNames(t, out, "taken")
}
