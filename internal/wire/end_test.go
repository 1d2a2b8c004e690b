package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/virtswarm/virtswarm/internal/content"
)

func TestGoodbye(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := pipePair(t, newHolder(), newHolder())
		if _, err := c.a.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.a.Goodbye(CodeCorrupt, "chunk 7 does not match\x1b[31m its digest"+strings.Repeat("é", MaxMessage))
		var bye *GoodbyeError
		if err := <-c.errB; !errors.As(err, &bye) || bye.Code != CodeCorrupt || len(bye.Message) > MaxMessage {
			t.Fatalf("the other side heard %v", err)
		}
		if !strings.HasPrefix(bye.Message, "chunk 7 does not match?[31m its digest") || strings.Contains(bye.Message, "?é") {
			t.Errorf("message %q", bye.Message)
		}
		if err := <-c.errA; err != nil || c.a.Err() != ErrClosed {
			t.Errorf("this side: %v, %v", err, c.a.Err())
		}
		if _, err := c.b.Ping(t.Context()); !errors.As(err, &bye) || !errors.Is(err, ErrEnded) {
			t.Errorf("after the end: %v", err)
		}
	})
}

// TestGoodbyeSurvivesFlood: on TCP, whoever closes with bytes unread resets the connection. The reason must arrive all
// the same.
func TestGoodbyeSurvivesFlood(t *testing.T) {
	for range 20 {
		server, client := tlsPair(t)
		file := newFile(1, 8, PartSize)
		c := runPair(t, client, server, newHolder(), newHolder(file), Options{}, Options{})
		if _, _, err := c.a.Open(t.Context(), file.id, 8, true); err != nil {
			t.Fatal(err)
		}
		asked := make(chan error, 32)
		for i := range cap(asked) {
			go func() { asked <- c.a.Chunk(t.Context(), file.id, i%8, PartSize, 2, make([]byte, PartSize)) }()
		}
		if err := <-asked; err != nil {
			t.Fatal(err)
		}
		c.a.Goodbye(CodeRefused, "enough")
		var bye *GoodbyeError
		if err := <-c.errB; !errors.As(err, &bye) || bye.Message != "enough" {
			t.Fatalf("the other side heard %v", err)
		}
		if err := <-c.errA; err != nil {
			t.Errorf("this side: %v", err)
		}
		for range cap(asked) - 1 {
			if err := <-asked; err != nil && !errors.Is(err, ErrEnded) {
				t.Error(err)
			}
		}
	}
}

func TestContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		sa, sb := NewSession(a, nil, Options{}), NewSession(b, newHolder(), Options{})
		ctx, cancel := context.WithCancel(t.Context())
		errA, errB := make(chan error, 1), make(chan error, 1)
		go func() { errA <- sa.Run(ctx) }()
		go func() { errB <- sb.Run(context.Background()) }()
		if _, err := sa.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := <-errA; err != context.Canceled {
			t.Error(err)
		}
		if err := <-errB; err != nil {
			t.Error(err)
		}
		<-sb.Done()
		sa.Close()
	})
}

func TestCloseBeforeRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		s := NewSession(a, nil, Options{})
		s.Close()
		if _, err := b.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the stream is open: %v", err)
		}
		if err := s.Chunk(t.Context(), content.Digest{}, 0, 1, 2, make([]byte, 1)); !errors.Is(err, ErrEnded) {
			t.Error(err)
		}
		if err := s.Run(t.Context()); err != nil {
			t.Error(err)
		}
		<-s.Done()
	})
}

// TestDeath: the stream breaks; everything that waits ends, with the reason.
func TestDeath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := newFile(1, 8, 1000)
		h := newHolder(file)
		h.onReadChunk = func(ctx context.Context, i int) error {
			<-ctx.Done()
			return ctx.Err()
		}
		p := newRaw(t, h, Options{})
		p.hello()
		p.open(content.Digest{1})
		p.follow(file.id)
		p.say(request{0, 1, 1000, 2}.append(nil, 0)) // the handler is at work
		waiting := make(chan error, 3)
		go func() { waiting <- p.s.Chunk(t.Context(), content.Digest{1}, 1, 5, 2, make([]byte, 5)) }()
		go func() { _, err := p.s.Manifest(t.Context(), content.Digest{1}); waiting <- err }()
		go func() { _, _, err := p.s.Open(t.Context(), content.Digest{2}, 5, true); waiting <- err }()
		for range cap(waiting) {
			<-p.frames
		}
		p.conn.Close()
		for range cap(waiting) {
			if err := <-waiting; !errors.Is(err, ErrEnded) || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Error(err)
			}
		}
		if err := <-p.ended; !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Error(err)
		}
		if got := <-h.closed; got != file.id || len(h.closed) != 0 {
			t.Errorf("closed %v and %d more", got, len(h.closed))
		}
	})
}

// TestKeepAlive: a session without anything to say lives on, and measures the way there and back.
func TestKeepAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := pipePair(t, nil, nil)
		time.Sleep(24 * time.Hour) // of the bubble
		if rtt, err := c.a.Ping(t.Context()); err != nil || rtt != 0 {
			t.Errorf("%v, %v", rtt, err)
		}
		if in := c.a.Stats().BytesIn; in > 24*3600/5*headerSize {
			t.Errorf("%d bytes in a day of silence", in)
		}
		c.close(t)
	})
}

// TestStalls: each way in which the other side can stop to be of use.
func TestStalls(t *testing.T) {
	file := newFile(1, 8, PartSize)
	for name, test := range map[string]struct {
		after time.Duration
		do    func(t *testing.T) *rawPeer
	}{
		"no hello": {helloTimeout, func(t *testing.T) *rawPeer { return newRaw(t, nil, Options{}) }},
		"silent": {DefaultStallTimeout, func(t *testing.T) *rawPeer {
			p := newRaw(t, nil, Options{})
			p.hello()
			return p
		}},
		"byte by byte": {DefaultStallTimeout, func(t *testing.T) *rawPeer {
			p := newRaw(t, nil, Options{})
			p.hello()
			p.open(content.Digest{1})
			go p.s.Chunk(context.Background(), content.Digest{1}, 1, 1000, 2, make([]byte, 1000))
			req := p.expect(frameRequest)
			go func() {
				p.say(header{length: 1000, typ: frameData, id: req.id}.append(nil))
				for range 1000 {
					time.Sleep(time.Second)
					if _, err := p.conn.Write([]byte{1}); err != nil {
						return
					}
				}
			}()
			return p
		}},
		"talks but does not read": {DefaultStallTimeout, func(t *testing.T) *rawPeer {
			p := newMute(t, newHolder(file), Options{})
			readRaw(p.conn)
			p.say(hello{version: Version}.append(nil))
			go func() {
				p.say(open{file: file.id}.append(nil, 1))
				for {
					if _, err := p.conn.Write(header{typ: framePing, id: 1}.append(nil)); err != nil {
						return
					}
					time.Sleep(time.Second)
				}
			}()
			return p
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				p := test.do(t)
				if err := <-p.ended; err != ErrStalled {
					t.Error(err)
				}
				late := time.Since(begin) - test.after
				if late < 0 || late > test.after/2+endTimeout {
					t.Errorf("it took %v, the limit is %v", time.Since(begin), test.after)
				}
				time.Sleep(2 * time.Second) // of the bubble: those who still talk notice
			})
		})
	}
}

// TestFloods: requests that are not answered, because nobody reads the answers, take their places and no more.
func TestFloods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := newFile(1, 8, 1000)
		file.have = content.NewBits(8) // so that everything is rejected
		p := newMute(t, newHolder(file), Options{MaxRequests: 50})
		readRaw(p.conn)
		p.say(hello{version: Version}.append(nil))
		p.say(open{file: file.id}.append(nil, 1))
		readRaw(p.conn)
		for id := range uint32(50) {
			p.say(request{0, 1, 1000, 2}.append(nil, id))
			p.send(framePing, 0, id)
			p.send(frameCancel, 0, id)
		}
		synctest.Wait()
		p.s.out.mu.Lock()
		waiting := len(p.s.out.control)
		p.s.out.mu.Unlock()
		if waiting > 50*(headerSize+reasonSize) {
			t.Errorf("%d bytes wait to be sent", waiting)
		}
		// At most what is being written at this moment may be asked for again; then it is too much.
		for range 2 {
			for id := range uint32(50) {
				p.say(request{0, 1, 1000, 2}.append(nil, id))
			}
		}
		var violation *ProtocolError
		if err := <-p.ended; !errors.As(err, &violation) {
			t.Error(err)
		}
	})
}

// TestControlOvertakesBulk: a Ping is answered between the parts of a large chunk.
func TestControlOvertakesBulk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := newFile(1, 2, 20*PartSize)
		p := newMute(t, newHolder(file), Options{})
		readRaw(p.conn)
		p.say(hello{version: Version}.append(nil))
		p.say(open{file: file.id}.append(nil, 1))
		readRaw(p.conn)
		for i := range uint32(2) {
			p.say(request{0, i, 20 * PartSize, 2}.append(nil, i))
		}
		readRaw(p.conn)
		p.send(framePing, 0, 9)
		synctest.Wait()
		for i := range 3 {
			f, err := readRaw(p.conn)
			if err != nil {
				t.Fatal(err)
			}
			if f.typ == framePong {
				return
			}
			if i == 2 {
				t.Error("the answer is stuck behind a chunk")
			}
		}
	})
}
