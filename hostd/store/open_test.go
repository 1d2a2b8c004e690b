package store

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/virtswarm/virtswarm/internal/content"
)

// TestOpenProvesOnce: what is opened was verified since the start, and not again and again; what is damaged or lacking
// is said, and forgotten as for any reader.
func TestOpenProvesOnce(t *testing.T) {
	dir := t.TempDir()
	p := random(1, 6*testChunk+5)
	clear(p[3*testChunk : 4*testChunk])
	put(t, open(t, dir), p).store.Close()

	s := open(t, dir)
	f := s.List()[0]
	all := content.NewBits(7)
	all.SetRange(0, 7)
	read := func() float64 { return testutil.ToFloat64(s.metrics.readBytes) }
	opened := func() []byte {
		t.Helper()
		file, err := f.Open(t.Context(), all)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		got := make([]byte, len(p))
		if _, err := file.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteAt(got[:1], 0); err == nil {
			t.Error("what was opened can be written to")
		}
		return got
	}
	if _, err := f.ReadChunk(1, nil); err != nil {
		t.Fatal(err)
	}
	flip(t, dataIn(f.dir), 3*testChunk+7) // in the hole
	if !bytes.Equal(opened(), p) || read() != 5*testChunk+5 {
		t.Errorf("wrong bytes, or %v read, want every chunk of data once", read())
	}
	if !bytes.Equal(opened(), p) || read() != 5*testChunk+5 {
		t.Errorf("verified again: %v read", read())
	}

	s.Close()
	s = open(t, dir)
	f = s.List()[0]
	flip(t, dataIn(f.dir), 2*testChunk)
	flip(t, dataIn(f.dir), 4*testChunk)
	_, err := f.Open(t.Context(), all)
	if corrupt, ok := errors.AsType[*CorruptError](err); !ok || !slices.Equal(corrupt.Chunks, []int{2, 4}) {
		t.Fatalf("damaged: %v", err)
	}
	if _, err := f.Open(t.Context(), all); !errors.Is(err, ErrMissing) {
		t.Errorf("lacking: %v", err)
	}
	for _, i := range []int{2, 4} {
		must(t, f.WriteChunk(i, part(f, p, i)))
	}
	if !bytes.Equal(opened(), p) {
		t.Error("healed, but wrong")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.Close()
	if _, err := f.Open(ctx, all); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}
