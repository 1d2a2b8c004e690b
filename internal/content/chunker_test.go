package content

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
)

func create(t testing.TB, size int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f
}

func fill(t testing.TB, f *os.File, off int64, n int) []byte {
	t.Helper()
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(off), byte(n)}).Read(p)
	if _, err := f.WriteAt(p, off); err != nil {
		t.Fatal(err)
	}
	return p
}

// cutSerially is the plain definition that ChunkFile is measured by.
func cutSerially(t *testing.T, p []byte, chunkSize int) *Manifest {
	t.Helper()
	var ds []Digest
	for chunk := range slices.Chunk(p, chunkSize) {
		d := Sum(chunk)
		if IsZero(chunk) {
			d = Digest{}
		}
		ds = append(ds, d)
	}
	m, err := NewManifest(int64(len(p)), chunkSize, ds)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestChunkFileEqualsSerial(t *testing.T) {
	const c = MinChunkSize
	for _, n := range []int{0, 1, c - 1, c, c + 1, 37*c + 4321} {
		f := create(t, int64(n))
		p := fill(t, f, 0, n)
		if n > 30*c { // zeros that are written, and a hole if the file system makes one
			clear(p[3*c : 5*c+7])
			if _, err := f.WriteAt(p[3*c:5*c+7], 3*c); err != nil {
				t.Fatal(err)
			}
		}
		want := cutSerially(t, p, c)
		for workers := range 5 {
			var mu sync.Mutex
			chunks := map[int][]byte{}
			var progress []int64
			m, err := ChunkFile(context.Background(), f, int64(n), ChunkOptions{
				ChunkSize: c, Workers: workers,
				Each: func(i int, p []byte) error {
					mu.Lock()
					defer mu.Unlock()
					if chunks[i] != nil {
						t.Errorf("chunk %d came twice", i)
					}
					chunks[i] = bytes.Clone(p)
					return nil
				},
				Progress: func(done int64) { progress = append(progress, done) },
			})
			if err != nil {
				t.Fatal(err)
			}
			if m.ID() != want.ID() {
				t.Errorf("%d bytes, %d workers: another manifest than a serial cut", n, workers)
			}
			if len(chunks) != m.DataChunks() {
				t.Errorf("%d bytes: %d chunks handed out, want %d", n, len(chunks), m.DataChunks())
			}
			for i, got := range chunks {
				if !bytes.Equal(got, p[m.Offset(i):m.Offset(i)+int64(m.ChunkLen(i))]) {
					t.Errorf("%d bytes: chunk %d handed out differs", n, i)
				}
			}
			if !slices.IsSorted(progress) || n > 0 && progress[len(progress)-1] != int64(n) {
				t.Errorf("%d bytes: progress %v", n, progress)
			}
		}
	}
}

// countingSource counts the bytes read.
type countingSource struct {
	fileSource
	mu sync.Mutex
	n  int64
}

func (c *countingSource) ReadAt(p []byte, off int64) (int, error) {
	c.mu.Lock()
	c.n += int64(len(p))
	c.mu.Unlock()
	return c.fileSource.ReadAt(p, off)
}

func TestHolesAreNotRead(t *testing.T) {
	const size, c = 20 << 30, DefaultChunkSize
	f := create(t, size)
	data := map[int]Digest{}
	for _, off := range []int64{0, 7 * c, 8 * c, 1 << 30, size - c} {
		data[int(off/c)] = Sum(fill(t, f, off, c))
	}
	small := fill(t, f, 5<<30+17, 10) // widens to its chunk
	chunk := make([]byte, c)
	copy(chunk[17:], small)
	data[5<<30/c] = Sum(chunk)

	src := &countingSource{fileSource: fileSource{f}}
	m, err := Cut(context.Background(), src, size, ChunkOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if m.DataChunks() != len(data) {
		t.Fatalf("%d data chunks, want %d", m.DataChunks(), len(data))
	}
	for i, d := range m.Data {
		if d != data[i] {
			t.Errorf("chunk %d is %s, want %s", i, d.Short(), data[i].Short())
		}
	}
	// A file system may have larger blocks, or round up what it allocates.
	if src.n > 64<<20 {
		if blocks(t, f) > 1<<30 {
			t.Skip("this file system keeps no holes")
		}
		t.Errorf("%d bytes read of %d chunks", src.n, len(data))
	}
}

func TestExtents(t *testing.T) {
	const grain = MinChunkSize
	f := create(t, 20*grain+5)
	for _, at := range []int64{3 * grain, 5*grain + 1, 20 * grain} {
		fill(t, f, at, 5)
	}
	var got []Extent
	for e, err := range Extents(f, 20*grain+5, grain) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	want := []Extent{{3 * grain, grain}, {5 * grain, grain}, {20 * grain, 5}}
	if !slices.Equal(got, want) {
		if blocks(t, f) > 10*grain {
			t.Skip("this file system keeps no holes")
		}
		t.Errorf("extents %v, want %v", got, want)
	}
	for range Extents(f, 20*grain+5, grain) {
		break // an early end must not upset the iterator
	}
}

func TestChunkFileEnds(t *testing.T) {
	f := create(t, 0)
	fill(t, f, 0, 40*MinChunkSize)
	boom := errors.New("boom")
	o := ChunkOptions{ChunkSize: MinChunkSize, Each: func(i int, _ []byte) error {
		if i == 9 {
			return boom
		}
		return nil
	}}
	if _, err := ChunkFile(context.Background(), f, 40*MinChunkSize, o); !errors.Is(err, boom) {
		t.Errorf("error of Each: %v", err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(boom)
	if _, err := ChunkFile(ctx, f, 40*MinChunkSize, ChunkOptions{}); !errors.Is(err, boom) {
		t.Errorf("cancelled: %v", err)
	}
	for _, chunkSize := range []int{MinChunkSize, MaxChunkSize} {
		if _, err := ChunkFile(context.Background(), f, 40*MinChunkSize+1, ChunkOptions{ChunkSize: chunkSize}); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("shorter than it should be, chunks of %d: %v", chunkSize, err)
		}
	}
	if _, err := ChunkFile(context.Background(), f, 1, ChunkOptions{ChunkSize: 12345}); !errors.Is(err, ErrBadManifest) {
		t.Errorf("odd chunk size: %v", err)
	}
}
