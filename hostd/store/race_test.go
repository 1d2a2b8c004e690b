package store

import (
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/virtswarm/virtswarm/internal/content"
)

// TestWritersOfOneChunk: many bring the same chunk; one writes it, and all may read it when they are told so.
func TestWritersOfOneChunk(t *testing.T) {
	s := open(t, t.TempDir())
	p := random(1, 40*testChunk)
	f := create(t, s, p)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for k := range 40 {
				i := (k + w/2) % 40
				if err := f.WriteChunk(i, part(f, p, i)); err != nil {
					t.Error(err)
				}
				if _, err := f.ReadChunk(i, nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	wantContent(t, f, p)
	if n := testutil.ToFloat64(s.metrics.writtenBytes); n != float64(len(p)) {
		t.Errorf("%v bytes were written for a file of %d", n, len(p))
	}
}

// TestSameFileAtOnce: imports and creations of one content agree on one file.
func TestSameFileAtOnce(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	p := random(1, 4*testChunk)
	m := manifestOf(t, p)
	files := make([]*File, 12)
	var wg sync.WaitGroup
	for k := range files {
		wg.Go(func() {
			var err error
			if k%2 == 0 {
				files[k], err = s.Create(context.Background(), m)
			} else {
				files[k], err = s.Import(context.Background(), source(t, p), ImportOptions{ChunkSize: testChunk})
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, f := range files {
		if f != files[0] {
			t.Fatal("two files of one content")
		}
	}
	wantContent(t, files[0], p)
	if u := s.Usage(); u.Files != 1 || u.Arriving != 0 {
		t.Errorf("usage %+v", u)
	}
	wantEmptyDir(t, filepath.Join(dir, "incoming"))
}

// TestEverythingAtOnce does all that a busy host does, on few files, with few descriptors. The race detector and
// the verification of every byte read are the judges.
func TestEverythingAtOnce(t *testing.T) {
	dir, out := t.TempDir(), t.TempDir()
	s := open(t, dir)
	s.handles.limit = 3
	const files, chunks, rounds = 6, 5, 60
	contents := make(map[content.Digest][]byte)
	var ids []content.Digest
	var manifests []*content.Manifest
	for k := range files {
		p := random(uint64(k), chunks*testChunk+k)
		copy(p, random(99, testChunk)) // one chunk in common
		m := manifestOf(t, p)
		contents[m.ID()] = p
		ids, manifests = append(ids, m.ID()), append(manifests, m)
	}
	var exports atomic.Int64
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 0))
			var buf []byte
			for range rounds {
				k, i := rng.IntN(files), rng.IntN(chunks)
				f, err := s.Create(context.Background(), manifests[k])
				if err != nil {
					t.Error(err)
					return
				}
				p := contents[ids[k]]
				switch rng.IntN(12) {
				case 0:
					err = s.Remove(ids[k])
				case 1:
					err = f.Sync(context.Background())
				case 2:
					_, err = f.Verify(context.Background(), nil)
				case 3:
					err = f.Export(context.Background(), filepath.Join(out, strconv.FormatInt(exports.Add(1), 10)), ExportOptions{Mode: ExportMode(rng.IntN(3))}, nil)
				case 4:
					for i := range f.Manifest().Chunks() {
						err = errors.Join(err, f.WriteChunk(i, part(f, p, i)))
					}
				case 5, 6, 7:
					err = f.WriteChunk(i, part(f, p, i))
				default:
					buf, err = f.ReadChunk(i, buf)
					if err == nil && string(buf) != string(part(f, p, i)) {
						t.Error("other bytes")
					}
				}
				if err != nil && !errors.Is(err, ErrMissing) && !errors.Is(err, ErrRemoved) && !errors.Is(err, ErrUnknown) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := testutil.ToFloat64(s.metrics.corrupt); n != 0 {
		t.Errorf("%v chunks were found damaged", n)
	}
	must(t, s.Close())
	s = open(t, dir)
	for _, f := range s.List() {
		have := f.Have()
		for i, ok := have.NextSet(0); ok; i, ok = have.NextSet(i + 1) {
			if _, err := f.ReadChunk(i, nil); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestOpenFilesAreBounded reads from many files and keeps few open.
func TestOpenFilesAreBounded(t *testing.T) {
	s := open(t, t.TempDir())
	s.handles.limit = 4
	var files []*File
	for k := range 20 {
		files = append(files, put(t, s, random(uint64(k), testChunk)))
	}
	for range 3 {
		for k, f := range files {
			wantContent(t, f, random(uint64(k), testChunk))
			if n := s.handles.count(); n > 4 {
				t.Fatalf("%d files are open", n)
			}
		}
	}
	// Files with unsynced writes stay open; synced, they give way.
	var fetched []*File
	for k := range 8 {
		p := random(uint64(100+k), testChunk)
		f := create(t, s, p)
		must(t, f.WriteChunk(0, p))
		fetched = append(fetched, f)
	}
	for _, f := range fetched {
		must(t, f.Sync(t.Context()))
	}
	wantContent(t, files[0], random(0, testChunk))
	if n := s.handles.count(); n > 4 {
		t.Errorf("%d files are open after all was synced", n)
	}
}

// TestFlusher: what was written becomes durable without anybody asking.
func TestFlusher(t *testing.T) {
	durable := make(chan *File, 10)
	s := open(t, t.TempDir(), func(o *Options) { o.OnDurable = func(f *File) { durable <- f } })
	p := random(1, 2*testChunk)
	f := create(t, s, p)
	if <-durable != f {
		t.Fatal("another file")
	}
	must(t, f.WriteChunk(1, part(f, p, 1)))
	<-durable
	if d := f.Durable(); !d.Has(1) || d.Has(0) {
		t.Error("OnDurable came before the fact")
	}
}

func TestHotPathDoesNotAllocate(t *testing.T) {
	s := open(t, t.TempDir())
	p := random(1, 600*testChunk)
	f := create(t, s, p)
	must(t, f.WriteChunk(0, part(f, p, 0))) // opens the file, wakes the flusher
	buf := make([]byte, testChunk)
	next := 1
	write := testing.AllocsPerRun(500, func() {
		if err := f.WriteChunk(next, part(f, p, next)); err != nil {
			t.Fatal(err)
		}
		next++
	})
	read := testing.AllocsPerRun(500, func() {
		next--
		if _, err := f.ReadChunk(next, buf); err != nil {
			t.Fatal(err)
		}
	})
	// Below one: the flusher, which works beside, is counted as well.
	if write >= 1 || read >= 1 {
		t.Errorf("%v allocations in WriteChunk, %v in ReadChunk", write, read)
	}
}
