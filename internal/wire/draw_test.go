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

// TestDraws: many draws, each answered by a chunk of the holder's choice, with large and small chunks.
func TestDraws(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, size := range []int{1, 5000, PartSize, 2*PartSize + 3} {
			file := newFile(1, 12, size)
			h := newHolder(file)
			var mu sync.Mutex
			next := 4
			h.onDraw = func(p *Pull) (int, error) {
				mu.Lock()
				defer mu.Unlock()
				if p.First != 4 || p.Count != 8 || p.Priority != 3 || p.Length != 0 {
					t.Errorf("draw %+v", p)
				}
				if next == 12 {
					return 0, ErrSpent
				}
				next++
				return next - 1, nil
			}
			c := pipePair(t, nil, h)
			if _, _, err := c.a.Open(t.Context(), file.id, 12, true); err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			got, spent := content.NewBits(12), 0
			for range 10 {
				wg.Go(func() {
					var buf []byte
					i, err := c.a.Draw(t.Context(), file.id, 4, 12, 3, func(int) ([]byte, bool) {
						buf = make([]byte, size)
						return buf, true
					})
					mu.Lock()
					defer mu.Unlock()
					switch {
					case errors.Is(err, ErrSpent):
						spent++
					case err != nil || !bytes.Equal(buf, file.chunks[i]):
						t.Errorf("chunk %d: %v", i, err)
					default:
						got.Set(i)
					}
				})
			}
			wg.Wait()
			if got.Count() != 8 || got.Has(3) || spent != 2 {
				t.Errorf("%d chunks, %d draws in vain", got.Count(), spent)
			}
			c.close(t)
		}
	})
}

// TestDrawWaits: a draw that is not granted can be taken back, and the handler hears of it.
func TestDrawWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := newFile(1, 4, 1000)
		h := newHolder(file)
		withdrawn := make(chan *Pull, 10)
		h.onDraw = func(p *Pull) (int, error) { return 0, errors.New("unused") }
		waiting := &waiter{holder: h, pulls: make(chan *Pull, 10), withdrawn: withdrawn}
		c := pipePair(t, nil, waiting)
		if _, _, err := c.a.Open(t.Context(), file.id, 4, true); err != nil {
			t.Fatal(err)
		}
		begin := func(ctx context.Context) chan error {
			done := make(chan error, 1)
			go func() {
				_, err := c.a.Draw(ctx, file.id, 0, 4, 1, func(int) ([]byte, bool) { return make([]byte, 1000), true })
				done <- err
			}()
			return done
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := begin(ctx)
		p := <-waiting.pulls
		cancel()
		if err := <-done; err != context.Canceled {
			t.Error(err)
		}
		if <-withdrawn != p {
			t.Error("another draw was withdrawn")
		}
		if err := p.Send(1, 1000, func([]byte) ([]byte, error) { t.Error("it is read"); return nil, nil }); err != errWithdrawn {
			t.Errorf("sent after it was withdrawn: %v", err)
		}
		p.Reject(ErrBusy) // no harm

		done = begin(t.Context())
		p = <-waiting.pulls
		c.a.CloseFile(file.id)
		if <-withdrawn != p {
			t.Error("the file is closed, and the draw waits")
		}
		if err := <-done; !errors.Is(err, ErrRejected) {
			t.Error(err)
		}

		if _, _, err := c.a.Open(t.Context(), file.id, 4, true); err != nil {
			t.Fatal(err)
		}
		done = begin(t.Context())
		p = <-waiting.pulls
		c.close(t)
		if <-withdrawn != p {
			t.Error("the session has ended, and the draw waits")
		}
		if err := <-done; !errors.Is(err, ErrEnded) {
			t.Error(err)
		}
		if err := p.Send(1, 1000, nil); !errors.Is(err, ErrEnded) {
			t.Error(err)
		}
	})
}

// waiter is a handler that leaves its pulls to the test.
type waiter struct {
	*holder
	pulls, withdrawn chan *Pull
}

func (w *waiter) Pull(p *Pull)      { w.pulls <- p }
func (w *waiter) Withdrawn(p *Pull) { w.withdrawn <- p }

// TestDrawDeclined: the drawer has the chunk already, and says so; the place is free again after the answer.
func TestDrawDeclined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newRaw(t, nil, Options{MaxInFlight: 1})
		p.hello()
		p.open(content.Digest{1})
		for range 3 {
			done := make(chan error, 1)
			go func() {
				i, err := p.s.Draw(t.Context(), content.Digest{1}, 2, 8, 1, func(int) ([]byte, bool) { return nil, false })
				if i != 5 {
					t.Errorf("granted %d", i)
				}
				done <- err
			}()
			f := p.expect(frameDraw)
			p.send(frameGrant, 0, f.id, le(5)...)
			if err := <-done; err != ErrDeclined {
				t.Error(err)
			}
			p.expect(frameCancel)
			p.send(frameData, flagLast, f.id, make([]byte, 77)...) // how long it is, nobody knows here
		}
	})
}

// TestDrawCancelled: the caller leaves before the Grant, after it, and while it is asked for a buffer.
func TestDrawCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newRaw(t, nil, Options{MaxInFlight: 1})
		p.hello()
		p.open(content.Digest{1})
		for _, when := range []string{"before", "during", "after"} {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() {
				_, err := p.s.Draw(ctx, content.Digest{1}, 0, 8, 1, func(int) ([]byte, bool) {
					if when == "before" {
						t.Error("granted to nobody")
					}
					if when == "during" {
						cancel()
					}
					return make([]byte, 10), true
				})
				done <- err
			}()
			f := p.expect(frameDraw)
			if when == "before" {
				cancel()
				p.expect(frameCancel)
			}
			p.send(frameGrant, 0, f.id, le(7)...)
			synctest.Wait()
			if when == "after" {
				cancel()
			}
			if err := <-done; err != context.Canceled {
				t.Errorf("%s: %v", when, err)
			}
			if when != "before" {
				p.expect(frameCancel)
			}
			p.send(frameReject, 0, f.id, byte(CodeCancelled), 0)
		}
	})
}

// TestDrawViolations: the holder breaks the rules of a draw of chunks 2 to 5.
func TestDrawViolations(t *testing.T) {
	for name, test := range map[string]struct {
		frame string
		do    func(p *rawPeer, id uint32)
	}{
		"no grant":  {"Data", func(p *rawPeer, id uint32) { p.send(frameData, flagLast, id, make([]byte, 10)...) }},
		"below":     {"Grant", func(p *rawPeer, id uint32) { p.send(frameGrant, 0, id, le(1)...) }},
		"above":     {"Grant", func(p *rawPeer, id uint32) { p.send(frameGrant, 0, id, le(6)...) }},
		"huge":      {"Grant", func(p *rawPeer, id uint32) { p.send(frameGrant, 0, id, le(0xffffffff)...) }},
		"twice":     {"Grant", func(p *rawPeer, id uint32) { p.send(frameGrant, 0, id, le(3)...); p.send(frameGrant, 0, id, le(3)...) }},
		"too short": {"Data", func(p *rawPeer, id uint32) { p.send(frameGrant, 0, id, le(3)...); p.send(frameData, flagLast, id, 1) }},
		"too long": {"Data", func(p *rawPeer, id uint32) {
			p.send(frameGrant, 0, id, le(3)...)
			p.send(frameData, 0, id, make([]byte, 11)...)
		}},
		"much longer": {"Grant", func(p *rawPeer, id uint32) { p.send(frameGrant, 0, id, le(3, 4)...) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newRaw(t, nil, Options{})
				p.hello()
				p.open(content.Digest{1})
				done := make(chan error, 1)
				go func() {
					_, err := p.s.Draw(context.Background(), content.Digest{1}, 2, 6, 1, func(int) ([]byte, bool) { return make([]byte, 10), true })
					done <- err
				}()
				f := p.expect(frameDraw)
				test.do(p, f.id)
				p.violated(test.frame)
				if err := <-done; !errors.Is(err, ErrEnded) {
					t.Error(err)
				}
			})
		})
	}
}

// TestOldVersion: a side that speaks the version without draws is told so.
func TestOldVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newRaw(t, nil, Options{})
		p.say(hello{version: 1}.append(nil))
		code, message := p.goodbye()
		if want := "no common protocol version: one side speaks 2, the other 1"; code != CodeVersion || message != want {
			t.Errorf("goodbye: %v, %q", code, message)
		}
	})
}
