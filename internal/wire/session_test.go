package wire

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/virtswarm/virtswarm/internal/content"
)

func TestChunks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, size := range []int{1, 4095, content.MinChunkSize, PartSize, PartSize + 1, 3*PartSize + 17} {
			file := newFile(1, 9, size)
			c := pipePair(t, newHolder(), newHolder(file))
			have, _, err := c.a.Open(t.Context(), file.id, len(file.chunks), true)
			if err != nil || !have.Full() || have.Len() != len(file.chunks) {
				t.Fatalf("open: %v, %d chunks", err, have.Count())
			}
			var wg sync.WaitGroup
			for range 3 {
				for i, want := range file.chunks {
					wg.Go(func() {
						buf := make([]byte, size+1)
						buf[size] = 0x5a
						if err := c.a.Chunk(t.Context(), file.id, i, size, 2, buf); err != nil {
							t.Errorf("chunk %d: %v", i, err)
						} else if !bytes.Equal(buf[:size], want) || buf[size] != 0x5a {
							t.Errorf("chunk %d of %d bytes differs", i, size)
						}
					})
				}
			}
			wg.Wait()
			synctest.Wait() // the writer counts when it is back from writing
			if got := c.a.Stats(); got.ChunksIn != 27 || got.BytesIn != c.b.Stats().BytesOut {
				t.Errorf("stats %+v against %+v", got, c.b.Stats())
			}
			c.close(t)
			if _, _, err := c.a.Open(t.Context(), file.id, 1, true); !errors.Is(err, ErrEnded) || !errors.Is(err, ErrClosed) {
				t.Errorf("open after the end: %v", err)
			}
		}
	})
}

func TestBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fa, fb := newFile(1, 40, content.MinChunkSize), newFile(2, 40, content.MinChunkSize)
		c := pipePair(t, newHolder(fa), newHolder(fb))
		var wg sync.WaitGroup
		fetch := func(s *Session, f *testFile) {
			if _, _, err := s.Open(t.Context(), f.id, len(f.chunks), true); err != nil {
				t.Error(err)
				return
			}
			for i, want := range f.chunks {
				wg.Go(func() {
					buf := make([]byte, len(want))
					if err := s.Chunk(t.Context(), f.id, i, len(buf), 2, buf); err != nil || !bytes.Equal(buf, want) {
						t.Errorf("chunk %d: %v", i, err)
					}
				})
			}
		}
		wg.Go(func() { fetch(c.a, fb) })
		wg.Go(func() { fetch(c.b, fa) })
		wg.Wait()
		c.close(t)
	})
}

func TestRejections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := newFile(1, 4, 1000)
		file.have.Clear(2)
		h := newHolder(file)
		h.onReadChunk = func(_ context.Context, i int) error {
			switch i {
			case 1:
				return errors.New("secret path")
			case 3:
				return &RejectError{Code: CodeRefused, Message: "not\nfor you"}
			}
			return nil
		}
		c := pipePair(t, nil, h)
		ctx, buf := t.Context(), make([]byte, 2000)
		if err := c.a.Chunk(ctx, file.id, 0, 1000, 2, buf); err != ErrNotOpen {
			t.Errorf("chunk of a file that is not open: %v", err)
		}
		if _, err := c.a.Manifest(ctx, content.Digest{1}); !errors.Is(err, ErrNotFound) {
			t.Errorf("unknown manifest: %v", err)
		}
		if _, _, err := c.a.Open(ctx, content.Digest{1}, 4, true); !errors.Is(err, ErrNotFound) || !errors.Is(err, ErrRejected) {
			t.Errorf("unknown file: %v", err)
		}
		if m, err := c.a.Manifest(ctx, file.id); err != nil || string(m) != "manifest of "+file.id.String() {
			t.Errorf("manifest: %q, %v", m, err)
		}
		if _, _, err := c.a.Open(ctx, file.id, 4, true); err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.a.Open(ctx, file.id, 4, true); !errors.Is(err, ErrOpen) {
			t.Errorf("second open: %v", err)
		}
		for i, want := range []string{
			2: "chunk 2",
			1: "rejected by the other side: internal error",
			3: "rejected by the other side: not?for you (refused)",
			0: "",
		} {
			err := c.a.Chunk(ctx, file.id, i, 1000, 2, buf)
			switch {
			case i == 2 && !errors.Is(err, ErrNotHeld), i == 0 && err != nil, i&1 == 1 && (err == nil || err.Error() != want):
				t.Errorf("chunk %d: %v", i, err)
			}
		}
		if err := c.a.Chunk(ctx, file.id, 0, 1001, 2, buf); !errors.As(err, new(*RejectError)) {
			t.Errorf("chunk of another length: %v", err)
		}
		if err := c.a.Chunk(ctx, file.id, 4, 1000, 2, buf); err == nil {
			t.Error("a chunk beyond the end")
		}
		if err := c.b.Chunk(ctx, file.id, 0, 1000, 2, buf); !errors.Is(err, ErrRejected) {
			t.Errorf("asked one that serves nothing: %v", err)
		}
		c.close(t)
	})
}

// TestNoGarbage: in a steady flow a chunk costs both sides together no more than a Pull and what its goroutine needs.
func TestNoGarbage(t *testing.T) {
	in, out := tcpPair(t)
	const size = content.MinChunkSize
	hold := &pattern{newHolder(), make([]byte, size)}
	c := runPair(t, in, out, nil, hold, Options{}, Options{})
	file := content.Digest{1}
	if _, _, err := c.a.Open(t.Context(), file, content.MaxChunks, true); err != nil {
		t.Fatal(err)
	}
	ctx, buf := context.Background(), make([]byte, size)
	got := testing.AllocsPerRun(500, func() {
		if err := c.a.Chunk(ctx, file, 7, size, 2, buf); err != nil {
			t.Error(err)
		}
	})
	// The race detector makes pools forget now and then: not always, as it would be if a chunk had its own garbage.
	if got > 5 {
		t.Errorf("%v allocations a chunk", got)
	}
	c.close(t)
}
