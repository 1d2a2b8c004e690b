package store

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/virtswarm/virtswarm/internal/content"
)

// flip changes one bit of the file at path.
func flip(t testing.TB, path string, off int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b[:], off); err != nil {
		t.Fatal(err)
	}
}

// TestFlippedData: a flipped byte in the data is found by whoever looks first, never handed out, forgotten on
// disk as well, and healed by writing the chunk again.
func TestFlippedData(t *testing.T) {
	for name, look := range map[string]func(t *testing.T, s *Store, f *File) error{
		"read": func(t *testing.T, s *Store, f *File) error {
			_, err := f.ReadChunk(2, nil)
			return err
		},
		"verify": func(t *testing.T, s *Store, f *File) error {
			bad, err := f.Verify(t.Context(), nil)
			if err != nil || !slices.Equal(bad, []int{2}) {
				t.Errorf("bad chunks %v, %v", bad, err)
			}
			return &CorruptError{File: f.ID(), Chunks: bad}
		},
		"scrub": func(t *testing.T, s *Store, f *File) error {
			var found []int
			if err := s.Scrub(t.Context(), 1<<40, func(_ *File, bad []int, err error) { found = append(found, bad...) }); err != nil {
				t.Error(err)
			}
			return &CorruptError{File: f.ID(), Chunks: found}
		},
		"export":      exportFails(Auto),
		"export link": exportFails(HardLink),
		"export copy": exportFails(Copy),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			p := random(1, 5*testChunk+3)
			f := put(t, s, p)
			other := put(t, s, random(2, testChunk))
			flip(t, dataIn(f.dir), 2*testChunk+12345)

			err := look(t, s, f)
			var corrupt *CorruptError
			if !errors.Is(err, ErrCorrupt) || !errors.As(err, &corrupt) || corrupt.File != f.ID() || !slices.Equal(corrupt.Chunks, []int{2}) {
				t.Fatalf("found %v", err)
			}
			if f.Has(2) || f.Durable().Has(2) || f.Complete() || f.Missing() != 1 {
				t.Error("the chunk is still marked")
			}
			if !other.Complete() {
				t.Error("another file has lost something")
			}
			s.Close()

			s = open(t, dir)
			f, _ = s.Get(f.ID())
			if f.Has(2) || f.Missing() != 1 {
				t.Error("the chunk is marked again after a restart")
			}
			if _, err := f.ReadChunk(2, nil); !errors.Is(err, ErrMissing) {
				t.Errorf("read: %v", err)
			}
			if err := f.WriteChunk(2, part(f, p, 2)); err != nil {
				t.Fatal(err)
			}
			wantContent(t, f, p)
			if err := f.Export(t.Context(), filepath.Join(t.TempDir(), "out"), ExportOptions{Mode: Auto}, nil); err != nil {
				t.Error(err)
			}
		})
	}
}

func exportFails(mode ExportMode) func(t *testing.T, s *Store, f *File) error {
	return func(t *testing.T, s *Store, f *File) error {
		dir := t.TempDir()
		err := f.Export(t.Context(), filepath.Join(dir, "out"), ExportOptions{Mode: mode}, nil)
		wantEmptyDir(t, dir)
		return err
	}
}

// TestBytesInHoleAreNotHandedOut: what somebody has written where the manifest has zeros never leaves the store.
func TestBytesInHoleAreNotHandedOut(t *testing.T) {
	for mode := Auto; mode <= Copy; mode++ {
		s := open(t, t.TempDir())
		p := random(1, 4*testChunk)
		clear(p[testChunk : 3*testChunk])
		f := put(t, s, p)
		flip(t, dataIn(f.dir), 2*testChunk+5)
		wantContent(t, f, p)
		dest := filepath.Join(t.TempDir(), "out")
		if err := f.Export(t.Context(), dest, ExportOptions{Mode: mode}, nil); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(dest)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, p) {
			t.Errorf("mode %d: other bytes", mode)
		}
	}
}

// TestDamagedDataFile: a data file that is cut, too long or gone costs what it lost, no more.
func TestDamagedDataFile(t *testing.T) {
	p := random(1, 5*testChunk+3)
	for name, c := range map[string]struct {
		damage func(path string) error
		left   []int
	}{
		"cut":      {func(path string) error { return os.Truncate(path, 3*testChunk+100) }, []int{0, 1, 2}},
		"empty":    {func(path string) error { return os.Truncate(path, 0) }, nil},
		"too long": {func(path string) error { return os.Truncate(path, 1<<30) }, []int{0, 1, 2, 3, 4, 5}},
		"gone":     {os.Remove, nil},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			f := put(t, s, p)
			s.Close()
			if err := c.damage(dataIn(f.dir)); err != nil {
				t.Fatal(err)
			}
			s = open(t, dir)
			f, ok := s.Get(f.ID())
			if !ok {
				t.Fatal("file is gone")
			}
			for i := range f.Manifest().Chunks() {
				if f.Has(i) != slices.Contains(c.left, i) {
					t.Errorf("chunk %d: held %v", i, f.Has(i))
				}
				if err := f.WriteChunk(i, part(f, p, i)); err != nil {
					t.Fatal(err)
				}
			}
			wantContent(t, f, p)
			if st, err := os.Stat(dataIn(f.dir)); err != nil || st.Size() != int64(len(p)) {
				t.Errorf("data file: %v, %v", st.Size(), err)
			}
		})
	}
	t.Run("cut while open", func(t *testing.T) {
		s := open(t, t.TempDir())
		f := put(t, s, p)
		if err := os.Truncate(dataIn(f.dir), 10); err != nil {
			t.Fatal(err)
		}
		if _, err := f.ReadChunk(0, nil); !errors.Is(err, ErrCorrupt) {
			t.Errorf("read: %v", err)
		}
	})
}

// TestFlippedBitmap: whichever byte of a bitmap file is hit, nothing is lost and nothing false is believed; one
// slot is enough, and without either the data itself is asked.
func TestFlippedBitmap(t *testing.T) {
	p := random(1, 20*testChunk+3)
	size := int64(slotSize(21))
	used := int64(len(encodeSlot(content.Digest{}, 1, content.NewBits(21)))) - 1
	for name, at := range map[string][]int64{
		"magic":          {0},
		"length":         {4},
		"generation":     {size + 8},
		"id":             {20},
		"set":            {size + slotHeader + 1},
		"checksum":       {used},
		"both":           {0, size + slotHeader},
		"both checksums": {used, size + used},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			f := create(t, s, p)
			for i := range 10 {
				if err := f.WriteChunk(2*i, part(f, p, 2*i)); err != nil {
					t.Fatal(err)
				}
			}
			s.Close()
			for _, off := range at {
				flip(t, bitmapIn(f.dir), off)
			}
			registry := prometheus.NewRegistry()
			s = open(t, dir, func(o *Options) { o.Metrics = registry })
			if n := testutil.ToFloat64(s.metrics.damagedBitmapSlots); n != float64(len(at)) {
				t.Errorf("%v damaged slots noticed, want %d", n, len(at))
			}
			f, ok := s.Get(f.ID())
			if !ok {
				t.Fatal("file is gone")
			}
			for i := range f.Manifest().Chunks() {
				if f.Has(i) != (i < 20 && i%2 == 0) {
					t.Errorf("chunk %d: held %v", i, f.Has(i))
				}
			}
			if n := testutil.ToFloat64(s.metrics.corrupt); n != 0 {
				t.Errorf("%v chunks were marked that are not there", n)
			}
			s.Close()
			s = open(t, dir)
			if n := testutil.ToFloat64(s.metrics.damagedBitmapSlots); n != 0 {
				t.Errorf("%v slots are still damaged at the next start", n)
			}
		})
	}
}

// TestDamagedManifest: the file is set aside and can be had again; the others go on.
func TestDamagedManifest(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, f *File){
		"flipped": func(t *testing.T, f *File) { flip(t, manifestIn(f.dir), 40) },
		"cut":     func(t *testing.T, f *File) { must(t, os.Truncate(manifestIn(f.dir), 10)) },
		"gone":    func(t *testing.T, f *File) { must(t, os.Remove(manifestIn(f.dir))) },
		"huge":    func(t *testing.T, f *File) { must(t, os.Truncate(manifestIn(f.dir), 1<<40)) },
		"another": func(t *testing.T, f *File) {
			m := manifestOf(t, []byte("something else"))
			must(t, os.WriteFile(manifestIn(f.dir), m.Encode(), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			p, q := random(1, 2*testChunk), random(2, 2*testChunk)
			for round := range 2 { // the second time its name in damaged/ is taken
				s := open(t, dir)
				f, g := put(t, s, p), put(t, s, q)
				s.Close()
				damage(t, f)
				s = open(t, dir)
				if _, ok := s.Get(f.ID()); ok {
					t.Error("the damaged file is still there")
				}
				g, _ = s.Get(g.ID())
				wantContent(t, g, q)
				if n := testutil.ToFloat64(s.metrics.damagedFiles); n != 1 {
					t.Errorf("%v damaged files counted", n)
				}
				entries, err := os.ReadDir(filepath.Join(dir, "damaged"))
				if err != nil || len(entries) != round+1 {
					t.Errorf("%d in damaged/, %v", len(entries), err)
				}
				wantContent(t, put(t, s, p), p)
				s.Close()
			}
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestStrangersAreLeftAlone(t *testing.T) {
	dir := t.TempDir()
	open(t, dir).Close()
	stranger := filepath.Join(dir, "files", "lost+found")
	must(t, os.Mkdir(stranger, 0o700))
	s := open(t, dir)
	if len(s.List()) != 0 {
		t.Error("a stranger is taken for a file")
	}
	if _, err := os.Stat(stranger); err != nil {
		t.Error(err)
	}
}

func FuzzDecodeSlot(f *testing.F) {
	id := content.Sum([]byte("id"))
	for _, n := range []int{0, 1, 100} {
		b := content.NewBits(n)
		b.SetRange(n/3, n/2)
		f.Add(encodeSlot(id, 7, b), n)
		f.Add(append(encodeSlot(id, 1, b), make([]byte, 100)...), n)
	}
	f.Fuzz(func(t *testing.T, p []byte, n int) {
		gen, b, err := decodeSlot(p, id, n)
		if err != nil {
			if !errors.Is(err, errBadSlot) {
				t.Fatalf("not an errBadSlot: %v", err)
			}
			// Most inputs fail at the checksum; see what is behind it.
			if len(p) < slotHeader+content.DigestSize {
				return
			}
			p = append([]byte(nil), p...)
			copy(p, slotMagic)
			copy(p[16:], id[:])
			p[4], p[5], p[6], p[7] = byte(len(p)-slotHeader-content.DigestSize), byte((len(p)-slotHeader-content.DigestSize)>>8), 0, 0
			end := len(p) - content.DigestSize
			sum := content.Sum(p[:end])
			copy(p[end:], sum[:])
			if gen, b, err = decodeSlot(p, id, n); err != nil {
				return
			}
		}
		if b.Len() != n {
			t.Fatalf("a set of %d, want %d", b.Len(), n)
		}
		again := encodeSlot(id, gen, b)
		if len(again) > len(p) || !slices.Equal(again, p[:len(again)]) {
			t.Fatal("a second encoding of the same slot")
		}
	})
}
