package wire

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/virtswarm/virtswarm/internal/content"
)

// TestCancelWhileFilling takes the buffer back in the middle of a part that the other side does not complete.
func TestCancelWhileFilling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 8 * readBuffer
		p := newRaw(t, nil, Options{MaxInFlight: 1})
		p.hello()
		file := content.Digest{1}
		p.open(file)
		ctx, cancel := context.WithCancel(t.Context())
		buf := make([]byte, size)
		done := make(chan error, 1)
		go func() { done <- p.s.Chunk(ctx, file, 1, size, 2, buf) }()
		req := p.expect(frameRequest)
		p.say(header{length: size, typ: frameData, flags: flagLast, id: req.id}.append(nil))
		p.say(bytes.Repeat([]byte{1}, size/2))
		synctest.Wait() // the session waits for more
		begin := time.Now()
		cancel()
		if err := <-done; err != context.Canceled || time.Since(begin) != 0 {
			t.Fatalf("cancelled: %v after %v", err, time.Since(begin))
		}
		clear(buf) // it is ours again: the race detector watches
		if f := p.expect(frameCancel); f.id != req.id {
			t.Errorf("cancelled %d, not %d", f.id, req.id)
		}

		// The only place is taken until the answer is complete.
		short, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		if err := p.s.Chunk(short, file, 1, size, 2, make([]byte, size)); err != context.DeadlineExceeded {
			t.Errorf("a second request while the first one is not answered: %v", err)
		}
		p.say(bytes.Repeat([]byte{2}, size/2))
		if !bytes.Equal(buf, make([]byte, size)) {
			t.Error("bytes came into a buffer that was given back")
		}
		go func() { done <- p.s.Chunk(t.Context(), file, 2, 3, 2, buf) }()
		req = p.expect(frameRequest)
		p.send(frameData, flagLast, req.id, 7, 8, 9)
		if err := <-done; err != nil || !bytes.Equal(buf[:4], []byte{7, 8, 9, 0}) {
			t.Errorf("the next chunk: %v, % x", err, buf[:4])
		}
		if n := p.s.Stats().ChunksIn; n != 1 {
			t.Errorf("%d chunks counted", n)
		}
	})
}

// expecting is a stream that notes how much it is told to wait for.
type expecting struct {
	net.Conn
	now atomic.Int64
}

func (e *expecting) ExpectRead(n int) { e.now.Store(int64(n)) }

// TestCancelledPartIsNotWaitedFor: while the rest of a part is skipped less and less of it is to come, so the stream
// must not wait for as much as was expected before. (It did, and the frames behind the part were not read.)
func TestCancelledPartIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 8 * readBuffer
		a, b := net.Pipe()
		stream := &expecting{Conn: a}
		p := &rawPeer{t: t, s: NewSession(stream, nil, Options{}), conn: b, frames: make(chan rawFrame, 100), ended: make(chan error, 1)}
		go func() { p.ended <- p.s.Run(context.Background()) }()
		defer b.Close()
		go p.read()
		p.hello()
		p.open(content.Digest{1})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.s.Chunk(ctx, content.Digest{1}, 1, size, 2, make([]byte, size)) }()
		req := p.expect(frameRequest)
		p.say(header{length: size, typ: frameData, flags: flagLast, id: req.id}.append(nil))
		p.say(make([]byte, size/2))
		synctest.Wait()
		if n := stream.now.Load(); n != size/2 {
			t.Errorf("half of the part is to come, and %d of %d bytes are expected", n, size)
		}
		cancel()
		<-done
		synctest.Wait() // it skips the rest
		if n := stream.now.Load(); n != 0 {
			t.Errorf("%d bytes are expected while the part is skipped", n)
		}
	})
}

// TestCancelWhileWaiting cancels at each moment that the other side can tell apart.
func TestCancelWhileWaiting(t *testing.T) {
	for name, answer := range map[string]func(p *rawPeer, id uint32){
		"rejected": func(p *rawPeer, id uint32) { p.send(frameReject, 0, id, byte(CodeCancelled), 0) },
		"answered": func(p *rawPeer, id uint32) { p.send(frameData, flagLast, id, make([]byte, 100)...) },
		"in parts": func(p *rawPeer, id uint32) {
			p.send(frameData, 0, id, make([]byte, 99)...)
			p.send(frameData, flagLast, id, 1)
		},
		"cut short": func(p *rawPeer, id uint32) {
			p.send(frameData, 0, id, make([]byte, 99)...)
			p.send(frameReject, 0, id, byte(CodeCancelled), 0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newRaw(t, nil, Options{MaxInFlight: 1})
				p.hello()
				p.open(content.Digest{1})
				for range 3 {
					ctx, cancel := context.WithCancel(t.Context())
					done := make(chan error, 1)
					go func() { done <- p.s.Chunk(ctx, content.Digest{1}, 1, 100, 2, make([]byte, 100)) }()
					req := p.expect(frameRequest)
					cancel()
					if err := <-done; err != context.Canceled {
						t.Fatal(err)
					}
					p.expect(frameCancel)
					answer(p, req.id)
				}
			})
		})
	}
}

// TestCancelBetweenParts: a caller that leaves while its answer is incomplete but nothing of it is on its way.
func TestCancelBetweenParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newRaw(t, nil, Options{})
		p.hello()
		p.open(content.Digest{1})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.s.Chunk(ctx, content.Digest{1}, 1, 100, 2, make([]byte, 100)) }()
		req := p.expect(frameRequest)
		p.send(frameData, 0, req.id, make([]byte, 50)...)
		synctest.Wait()
		cancel()
		if err := <-done; err != context.Canceled {
			t.Fatal(err)
		}
		p.expect(frameCancel)
		p.send(frameData, flagLast, req.id, make([]byte, 51)...) // also what nobody wants must fit
		p.violated("Data")
	})
}

// halfway is a connection that stops in the middle of a write, once.
type halfway struct {
	net.Conn
	skip    int // large writes to let through before; negative: never stop
	stopped chan struct{}
	resume  chan struct{}
}

func (h *halfway) Write(p []byte) (int, error) {
	if len(p) < 5000 || h.skip < 0 { // a handshake is shorter
		return h.Conn.Write(p)
	}
	if h.skip--; h.skip >= 0 {
		return h.Conn.Write(p)
	}
	n, err := h.Conn.Write(p[:len(p)/2])
	if err != nil {
		return n, err
	}
	close(h.stopped)
	<-h.resume
	m, err := h.Conn.Write(p[n:])
	return n + m, err
}

// TestCancelUnderTLS interrupts a Read in the middle of a TLS record; the stream must go on as if nothing had been.
func TestCancelUnderTLS(t *testing.T) {
	in, out := tcpPair(t)
	half := &halfway{Conn: in, skip: 1, stopped: make(chan struct{}), resume: make(chan struct{})}
	server, client := tlsOver(t, half, out)
	file := newFile(1, 4, content.MinChunkSize)
	c := runPair(t, client, server, nil, newHolder(file), Options{}, Options{})
	if _, _, err := c.a.Open(t.Context(), file.id, 4, true); err != nil {
		t.Fatal(err)
	}
	before := c.a.Stats().BytesIn
	ctx, cancel := context.WithCancel(t.Context())
	buf := make([]byte, content.MinChunkSize)
	done := make(chan error, 1)
	go func() { done <- c.a.Chunk(ctx, file.id, 1, len(buf), 2, buf) }()
	<-half.stopped
	for c.a.Stats().BytesIn < before+10000 { // until the first record is in buf
		runtime.Gosched()
	}
	cancel()
	if err := <-done; err != context.Canceled {
		t.Fatal(err)
	}
	clear(buf)
	close(half.resume)
	for i, want := range file.chunks {
		if err := c.a.Chunk(t.Context(), file.id, i, len(buf), 2, buf); err != nil || !bytes.Equal(buf, want) {
			t.Errorf("chunk %d: %v", i, err)
		}
	}
	c.close(t)
}

// plainStream hides all that a stream can do beyond reading, writing and closing.
type plainStream struct{ io.ReadWriteCloser }

// TestCancelWithoutDeadlines: where a Read cannot be interrupted, the caller has to wait for the next bytes or the end.
func TestCancelWithoutDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		p := &rawPeer{t: t, s: NewSession(plainStream{a}, nil, Options{}), conn: b, frames: make(chan rawFrame, 100), ended: make(chan error, 1)}
		go func() { p.ended <- p.s.Run(context.Background()) }()
		go p.read()
		p.hello()
		p.open(content.Digest{1})
		const size = 8 * readBuffer
		for _, trickle := range []bool{true, false} {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- p.s.Chunk(ctx, content.Digest{1}, 1, size, 2, make([]byte, size)) }()
			req := p.expect(frameRequest)
			p.say(header{length: size, typ: frameData, flags: flagLast, id: req.id}.append(nil))
			p.say(make([]byte, size/2))
			synctest.Wait() // the session waits for more
			cancel()
			synctest.Wait()
			select {
			case err := <-done:
				t.Errorf("it returned %v while a Read may still write into its buffer", err)
			default:
			}
			if !trickle {
				break
			}
			p.say(make([]byte, 1))
			if err := <-done; err != context.Canceled {
				t.Error(err)
			}
			p.expect(frameCancel)
			p.say(make([]byte, size/2-1))
			cancel()
		}
		// The other side says nothing any more: the end of the session frees the caller.
		if err := <-p.ended; err != ErrStalled {
			t.Error(err)
		}
	})
}

// TestServedCancel: the handler's context ends when the other side cancels, and only that of the one request.
func TestServedCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := newFile(1, 8, 1000)
		h := newHolder(file)
		release := make(chan struct{})
		h.onReadChunk = func(ctx context.Context, i int) error {
			if i == 0 {
				return nil
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-release:
				return nil
			}
		}
		p := newRaw(t, h, Options{})
		p.hello()
		p.follow(file.id)
		for i := range uint32(5) { // three are read, two wait
			p.say(request{0, i + 1, 1000, 2}.append(nil, i))
		}
		for _, i := range []uint32{1, 4} { // one that is read, one that waits
			p.send(frameCancel, 0, i)
			p.send(frameCancel, 0, i) // twice is once
		}
		if f := p.expect(frameReject); f.id != 1 {
			t.Errorf("%v", f.header)
		}
		close(release)
		rejected := 0
		for range 4 {
			switch f := <-p.frames; {
			case f.typ == frameReject && f.id == 4:
				rejected++
				if code, _ := parseReason(f.payload); code != CodeCancelled {
					t.Errorf("code %v", code)
				}
			case f.typ != frameData:
				t.Errorf("%v", f.header)
			}
		}
		if rejected != 1 {
			t.Errorf("%d rejected", rejected)
		}
		p.send(frameCancel, 0, 2) // too late: it has been answered
		for id := range uint32(5) {
			p.say(request{0, 0, 1000, 2}.append(nil, id))
			p.expect(frameData)
		}
	})
}

// TestCancelHitsNoOther: a manifest that was cancelled before its turn, and is so again while its Reject cannot go out,
// must not take along the one that its worker is at by then.
func TestCancelHitsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHolder()
		release := make(chan struct{})
		h.onManifest = func(ctx context.Context) ([]byte, error) {
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-release:
				return []byte("manifest"), nil
			}
		}
		p := newMute(t, h, Options{})
		readRaw(p.conn)
		p.say(hello{version: Version}.append(nil))
		ask := header{length: manifestSize, typ: frameManifest}
		for ask.id = range manifestsAtOnce + 2 {
			p.say(append(ask.append(nil), make([]byte, manifestSize)...))
		}
		synctest.Wait() // all workers are at one, two requests wait
		const waits = manifestsAtOnce
		p.send(frameCancel, 0, waits)
		synctest.Wait()
		release <- struct{}{} // one is answered, which nobody reads; its worker goes on to the last
		synctest.Wait()
		p.send(frameCancel, 0, waits)
		synctest.Wait()
		close(release)
		for range manifestsAtOnce + 2 {
			want := frameData
			f, err := readRaw(p.conn)
			if f.id == waits {
				want = frameReject
			}
			if err != nil || f.typ != want {
				t.Errorf("answer: %v, %v", f.header, err)
			}
		}
	})
}

// TestCancelCutsShort: a large chunk that is cancelled on its way stops at the next part.
func TestCancelCutsShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := newFile(1, 1, 5*PartSize)
		p := newMute(t, newHolder(file), Options{})
		read := func() rawFrame {
			f, err := readRaw(p.conn)
			if err != nil {
				t.Fatal(err)
			}
			return f
		}
		go func() { // in this order
			p.say(hello{version: Version}.append(nil))
			p.say(open{file: file.id}.append(nil, 0))
		}()
		read()
		read()
		go func() {
			p.say(request{0, 0, 5 * PartSize, 2}.append(nil, 3))
			p.send(frameCancel, 0, 3)
		}()
		var got []byte
		for {
			// The session is in the middle of writing: Cancel has been read before it comes back to look.
			synctest.Wait()
			f := read()
			if f.typ == frameReject {
				break
			}
			if got = append(got, f.payload...); f.flags == flagLast {
				t.Error("it came in full")
				break
			}
		}
		if len(got) > PartSize {
			t.Errorf("%d bytes came", len(got))
		}
	})
}

// TestChaos fetches over a real TLS connection, both ways, while callers leave at random moments.
func TestChaos(t *testing.T) {
	server, client := tlsPair(t)
	sizes := []int{1, 5000, content.MinChunkSize, PartSize + 5000}
	var files []*testFile
	for i, size := range sizes {
		files = append(files, newFile(uint64(i), 12, size))
	}
	h := newHolder(files...)
	h.onReadChunk = func(ctx context.Context, i int) error {
		if i == 5 {
			return ErrBusy
		}
		return nil
	}
	c := runPair(t, client, server, h, h, Options{MaxInFlight: 7}, Options{MaxRequests: 5})
	var wg sync.WaitGroup
	for _, s := range []*Session{c.a, c.b} {
		for _, f := range files {
			if _, _, err := s.Open(t.Context(), f.id, len(f.chunks), true); err != nil {
				t.Fatal(err)
			}
		}
		for g := range 6 {
			wg.Go(func() { fetchAtRandom(t, s, files, rand.New(rand.NewPCG(uint64(g), 1))) })
		}
	}
	wg.Wait()
	c.close(t)
}

func fetchAtRandom(t *testing.T, s *Session, files []*testFile, rng *rand.Rand) {
	buf := make([]byte, 2*PartSize)
	for range 150 {
		f := files[rng.IntN(len(files))]
		i := rng.IntN(len(f.chunks))
		n := len(f.chunks[i])
		ctx, cancel := context.WithCancel(t.Context())
		if rng.IntN(2) == 0 {
			time.AfterFunc(time.Duration(rng.IntN(2000))*time.Microsecond, cancel)
		}
		err := s.Chunk(ctx, f.id, i, n, 2, buf)
		switch {
		case err == nil && !bytes.Equal(buf[:n], f.chunks[i]):
			t.Errorf("chunk %d of %d bytes differs", i, n)
		case err != nil && err != context.Canceled && !(i == 5 && errors.Is(err, ErrBusy)):
			t.Errorf("chunk %d: %v", i, err)
		}
		clear(buf[:n]) // the race detector sees who else writes
		cancel()
	}
}
