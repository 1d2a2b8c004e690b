package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/virtswarm/virtswarm/internal/content"
)

func TestImportRefusesWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	d, err := os.Open(t.TempDir())
	must(t, err)
	defer d.Close()
	dev, err := os.Open("/dev/null")
	must(t, err)
	defer dev.Close()
	for _, f := range []*os.File{d, dev} {
		if _, err := s.Import(t.Context(), f, ImportOptions{}); !errors.Is(err, ErrNotRegular) {
			t.Errorf("%s: %v", f.Name(), err)
		}
	}
	wantEmptyDir(t, filepath.Join(dir, "incoming"))
}

// TestImportOfChangingFile changes the source when about half of it is read.
func TestImportOfChangingFile(t *testing.T) {
	size := 64 * testChunk
	for name, change := range map[string]func(path string) error{
		"shrinks":  func(path string) error { return os.Truncate(path, int64(size/2)) },
		"vanishes": func(path string) error { return os.Truncate(path, 0) },
		"grows":    func(path string) error { return os.Truncate(path, int64(size+1)) },
		"rewritten": func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte{1}, 0)
			return errors.Join(err, f.Close())
		},
		"rewritten, time set back": func(path string) error {
			st, err := os.Stat(path)
			if err != nil {
				return err
			}
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte{1}, 0)
			return errors.Join(err, f.Close(), os.Chtimes(path, st.ModTime(), st.ModTime()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			src := source(t, random(1, size))
			done := false
			_, err := s.Import(t.Context(), src, ImportOptions{ChunkSize: testChunk, Progress: func(n, total int64) {
				if total != int64(size) {
					t.Errorf("total %d", total)
				}
				if !done && n > total/2 {
					done = true
					must(t, change(src.Name()))
				}
			}})
			if err == nil && sharesBlocks(t, dir) {
				t.Skip("the source was cloned before it changed")
			}
			if !errors.Is(err, ErrChanged) {
				t.Errorf("import: %v", err)
			}
			wantEmptyDir(t, filepath.Join(dir, "incoming"))
			wantEmptyDir(t, filepath.Join(dir, "files"))
			if u := s.Usage(); u.Arriving != 0 || u.Bytes != 0 {
				t.Errorf("usage %+v", u)
			}
		})
	}
}

// sharesBlocks reports whether files in dir can be clones of one another.
func sharesBlocks(t *testing.T, dir string) bool {
	t.Helper()
	s := open(t, filepath.Join(dir, "probe"))
	src := source(t, random(1, testChunk))
	w, err := s.fs.OpenFile(filepath.Join(dir, "clone"), os.O_RDWR|os.O_CREATE, 0o600)
	must(t, err)
	defer w.Close()
	return w.CloneFrom(src) == nil
}

func TestImportIsCancelled(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := s.Import(ctx, source(t, random(1, 64*testChunk)), ImportOptions{
		ChunkSize: testChunk,
		Progress:  func(int64, int64) { cancel() },
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("import: %v", err)
	}
	wantEmptyDir(t, filepath.Join(dir, "incoming"))
	wantEmptyDir(t, filepath.Join(dir, "files"))
}

// TestCloseEndsImport: Close does not wait for a long import, it ends it.
func TestCloseEndsImport(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(Options{Dir: dir})
	must(t, err)
	running, goOn, ended := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		first := true
		_, err := s.Import(context.Background(), source(t, random(1, 64*testChunk)), ImportOptions{
			ChunkSize: testChunk,
			Progress: func(int64, int64) {
				if first {
					first = false
					close(running)
					<-goOn
				}
			},
		})
		ended <- err
	}()
	<-running
	closed := make(chan error)
	go func() { closed <- s.Close() }()
	for closing := false; !closing; runtime.Gosched() {
		s.mu.Lock()
		closing = s.closed
		s.mu.Unlock()
	}
	close(goOn)
	if err := <-ended; !errors.Is(err, ErrClosed) {
		t.Errorf("import: %v", err)
	}
	must(t, <-closed)
	wantEmptyDir(t, filepath.Join(dir, "incoming"))
	if _, err := s.Import(context.Background(), source(t, nil), ImportOptions{}); !errors.Is(err, ErrClosed) {
		t.Errorf("import after close: %v", err)
	}
}

// TestImportCompletesAFetch: publishing what is half fetched fills the rest from the source.
func TestImportCompletesAFetch(t *testing.T) {
	s := open(t, t.TempDir())
	p := random(1, 6*testChunk+1)
	f := create(t, s, p)
	must(t, f.WriteChunk(3, part(f, p, 3)))
	if g := put(t, s, p); g != f {
		t.Error("a second file of the same content")
	}
	wantContent(t, f, p)
	if !f.Durable().Full() {
		t.Error("not durable")
	}
	if u := s.Usage(); u.Files != 1 || u.Arriving != 0 || u.Bytes != int64(len(p)) {
		t.Errorf("usage %+v", u)
	}
}

// blocks returns how many bytes a file takes on its disk.
func blocks(t testing.TB, path string) int64 {
	t.Helper()
	st, err := os.Stat(path)
	must(t, err)
	return st.Sys().(*syscall.Stat_t).Blocks * 512
}

// TestSparse takes 20 GiB with 50 MiB of data in and out again.
func TestSparse(t *testing.T) {
	const size, data = 20 << 30, 50 << 20
	path := filepath.Join(t.TempDir(), "sparse")
	w, err := os.Create(path)
	must(t, err)
	defer w.Close()
	must(t, w.Truncate(size))
	want := map[int64][]byte{}
	for k := range int64(10) {
		off := k * (size / 10) / content.DefaultChunkSize * content.DefaultChunkSize
		want[off] = random(uint64(k), data/10)
		_, err := w.WriteAt(want[off], off)
		must(t, err)
	}
	if blocks(t, path) > 2*data {
		t.Skip("this file system keeps no holes")
	}
	s := open(t, t.TempDir())
	f, err := s.Import(t.Context(), w, ImportOptions{})
	must(t, err)
	if f.HeldBytes() != data || s.Usage().Bytes != data {
		t.Errorf("%d bytes held", f.HeldBytes())
	}
	dir := t.TempDir()
	for mode := Auto; mode <= Copy; mode++ {
		out := filepath.Join(dir, []string{"auto", "link", "copy"}[mode])
		must(t, f.Export(t.Context(), out, ExportOptions{Mode: mode}, nil))
		if n := blocks(t, out); n > data+data/10 {
			t.Errorf("%s takes %d bytes for %d of data", out, n, data)
		}
		r, err := os.Open(out)
		must(t, err)
		if st, err := r.Stat(); err != nil || st.Size() != size {
			t.Errorf("%s: %d bytes, %v", out, st.Size(), err)
		}
		for off, p := range want {
			got := make([]byte, len(p))
			if _, err := r.ReadAt(got, off); err != nil || !slices.Equal(got, p) {
				t.Errorf("%s differs at %d (%v)", out, off, err)
			}
		}
		r.Close()
	}
}

// TestNewVersionIsMostlyLocal: a second version with 1 % of its chunks changed has the other 99 % at once.
func TestNewVersionIsMostlyLocal(t *testing.T) {
	const chunks, changed = 1000, 10
	dir := t.TempDir()
	s := open(t, dir)
	v1 := random(1, chunks*testChunk+77)
	put(t, s, v1)
	v2 := slices.Clone(v1)
	for k := range changed {
		copy(v2[k*97*testChunk:], "changed")
	}
	v2 = append(v2, v2[:2*testChunk]...) // shifts nothing, but the tail is another; and chunk 1 comes twice
	copy(v2[chunks*testChunk:], v1[testChunk:2*testChunk])
	f := create(t, s, v2)
	if got := f.Missing(); got != changed+2 {
		t.Errorf("%d chunks of %d are missing, want %d and the tail's two", got, f.Manifest().Chunks(), changed)
	}
	if n := testutil.ToFloat64(s.metrics.dedupBytes); n != (chunks-changed+1)*testChunk {
		t.Errorf("%v bytes counted as copied", n)
	}
	for i := range f.Manifest().Chunks() {
		must(t, f.WriteChunk(i, part(f, v2, i)))
	}
	wantContent(t, f, v2)
	s.Close()
	s = open(t, dir)
	f, _ = s.Get(f.ID())
	wantContent(t, f, v2)
}

// TestDamagedChunkIsNotLent: what a local file holds is verified before another believes it.
func TestDamagedChunkIsNotLent(t *testing.T) {
	s := open(t, t.TempDir())
	p := random(1, 5*testChunk)
	f := put(t, s, p)
	flip(t, dataIn(f.dir), 3*testChunk)
	q := append(slices.Clone(p), 1)
	g := create(t, s, q)
	if g.Has(3) || g.Missing() != 2 {
		t.Errorf("%d chunks missing, want the damaged one and the tail", g.Missing())
	}
	if f.Has(3) {
		t.Error("the damage went unnoticed")
	}
}

// TestCreateIsCancelled: a file whose chunks were not all copied does not appear.
func TestCreateIsCancelled(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	p := random(1, 5*testChunk)
	put(t, s, p)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	m := manifestOf(t, append(slices.Clone(p), 1))
	if _, err := s.Create(ctx, m); !errors.Is(err, context.Canceled) {
		t.Errorf("create: %v", err)
	}
	if len(s.List()) != 1 || s.Usage().Arriving != 0 || s.Usage().Bytes != int64(len(p)) {
		t.Errorf("usage %+v", s.Usage())
	}
	wantEmptyDir(t, filepath.Join(dir, "incoming"))
	_, err := s.Create(t.Context(), m)
	must(t, err)
}
