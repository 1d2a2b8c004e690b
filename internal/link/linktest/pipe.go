package linktest

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	// pipeBuffer is how many bytes a direction of a Pipe holds before Write blocks, like a socket's buffers.
	pipeBuffer = 64 << 10
	// roadBuffer is the same where a road can be slow or cut: more than is ever written while others wait for the
	// writer's mutex, as a bubble's clock, and with it the road, stands still for them.
	roadBuffer = 4 << 20
	// firstRing is what a direction's memory begins with; it grows with its use.
	firstRing = 4 << 10
)

// Pipe returns the two ends of a connection within the process: buffered, with deadlines and half-close, and fit for a
// testing/synctest bubble. Like a socket, an end that is closed while bytes wait to be read resets the connection.
func Pipe() (net.Conn, net.Conn) {
	addr := memoryAddr{"memory", "pipe"}
	a, b := newPipe(addr, addr)
	return a, b
}

func newPipe(local, remote net.Addr) (a, b *pipeEnd) {
	ab, ba := newStream(), newStream()
	return &pipeEnd{in: ba, out: ab, local: local, remote: remote},
		&pipeEnd{in: ab, out: ba, local: remote, remote: local}
}

// A pipeEnd is one end of a Pipe. It offers CloseWrite as *net.TCPConn does.
type pipeEnd struct {
	in, out       *stream
	local, remote net.Addr
	closed        func() // told of Close; may be nil
}

func (p *pipeEnd) Read(b []byte) (int, error) {
	n, err := p.in.read(b)
	return n, p.wrap("read", err)
}

func (p *pipeEnd) Write(b []byte) (int, error) {
	n, err := p.out.write(b)
	return n, p.wrap("write", err)
}

func (p *pipeEnd) wrap(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: p.local.Network(), Source: p.local, Addr: p.remote, Err: err}
}

func (p *pipeEnd) Close() error {
	unread := p.in.closeRead()
	p.out.closeWrite(unread)
	if p.closed != nil {
		p.closed()
	}
	return nil
}

// CloseWrite ends this direction: the other end reads what is there and then io.EOF.
func (p *pipeEnd) CloseWrite() error {
	p.out.closeWrite(false)
	return nil
}

func (p *pipeEnd) LocalAddr() net.Addr  { return p.local }
func (p *pipeEnd) RemoteAddr() net.Addr { return p.remote }

func (p *pipeEnd) SetDeadline(t time.Time) error {
	p.in.readDeadline.set(p.in, t)
	p.out.writeDeadline.set(p.out, t)
	return nil
}

func (p *pipeEnd) SetReadDeadline(t time.Time) error {
	p.in.readDeadline.set(p.in, t)
	return nil
}

func (p *pipeEnd) SetWriteDeadline(t time.Time) error {
	p.out.writeDeadline.set(p.out, t)
	return nil
}

// A stream is one direction of a Pipe.
type stream struct {
	// writing makes a Write one piece. A channel, because a bubble's clock stands still while somebody waits for a mutex.
	writing chan struct{}

	mu                          sync.Mutex
	changed                     sync.Cond
	limit                       int // how long the ring may get
	ring                        []byte
	start, length               int
	readClosed                  bool // by the reader
	writeClosed                 bool // by the writer
	reset                       bool // by the writer, with bytes of the other direction unread
	readDeadline, writeDeadline deadline

	// What follows is for streams of a Fabric.
	road    *road  // nil: whatever is written arrives at once
	arrived int    // of length, what the reader may have
	marks   []mark // when the rest arrives, soonest first
	alarm   *time.Timer
	alarmAt time.Time
	mute    bool // one side is gone, and the other is not told
	broken  bool // for both sides
}

func newStream() *stream {
	s := &stream{limit: pipeBuffer, writing: make(chan struct{}, 1)}
	s.changed.L = &s.mu
	return s
}

func (s *stream) read(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		ready, all := s.ready()
		switch {
		case s.readClosed:
			return 0, net.ErrClosed
		case s.readDeadline.passed:
			return 0, os.ErrDeadlineExceeded
		case len(b) == 0:
			return 0, nil
		case s.broken || s.reset && all:
			return 0, os.NewSyscallError("read", syscall.ECONNRESET)
		case ready > 0:
			n := s.take(b[:min(ready, len(b))])
			s.changed.Broadcast()
			return n, nil
		case s.writeClosed && all:
			return 0, io.EOF
		}
		s.changed.Wait()
	}
}

// take moves the first bytes of the ring to b, which is no longer than what is there.
func (s *stream) take(b []byte) int {
	n := copy(b, s.ring[s.start:])
	n += copy(b[n:], s.ring) // the rest is at the ring's beginning
	s.start = (s.start + n) % len(s.ring)
	s.length -= n
	s.arrived -= n
	return n
}

// put moves the first bytes of b into the ring, as many as there is room for. The ring grows with its use.
func (s *stream) put(b []byte) int {
	if need := s.length + len(b); need > len(s.ring) && len(s.ring) < s.limit {
		ring := make([]byte, min(s.limit, max(need, 2*len(s.ring), firstRing)))
		n := copy(ring, s.ring[s.start:min(s.start+s.length, len(s.ring))])
		copy(ring[n:s.length], s.ring)
		s.ring, s.start = ring, 0
	}
	end := (s.start + s.length) % len(s.ring)
	n := copy(s.ring[end:min(end+len(s.ring)-s.length, len(s.ring))], b)
	s.length += n
	s.sent(n)
	return n
}

func (s *stream) write(b []byte) (int, error) {
	s.writing <- struct{}{}
	defer func() { <-s.writing }()
	s.mu.Lock()
	defer s.mu.Unlock()
	done := 0
	for {
		switch {
		case s.writeClosed:
			return done, net.ErrClosed
		case s.writeDeadline.passed:
			return done, os.ErrDeadlineExceeded
		case s.broken:
			return done, os.NewSyscallError("write", syscall.ECONNRESET)
		case s.readClosed && !s.mute:
			return done, os.NewSyscallError("write", syscall.EPIPE)
		case done == len(b):
			return done, nil
		case s.length < s.limit:
			done += s.put(b[done:])
			s.changed.Broadcast()
			continue
		}
		s.changed.Wait()
	}
}

// closeRead reports whether bytes are lost.
func (s *stream) closeRead() (unread bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	unread = s.length > 0 && !s.readClosed
	s.readClosed, s.length = true, 0
	s.arrived, s.marks = 0, nil
	s.readDeadline.stop()
	if s.alarm != nil {
		s.alarm.Stop()
	}
	s.changed.Broadcast()
	return unread
}

func (s *stream) closeWrite(reset bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.writeClosed {
		s.sent(0)
	}
	s.writeClosed = true
	s.reset = s.reset || reset
	s.writeDeadline.stop()
	s.changed.Broadcast()
}

// A deadline of one direction. Guarded by the stream's mu.
type deadline struct {
	timer  *time.Timer
	passed bool
}

func (d *deadline) set(s *stream, t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d.stop()
	d.passed = false
	if t.IsZero() {
		return
	}
	wait := time.Until(t)
	if wait <= 0 {
		d.passed = true
		s.changed.Broadcast()
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(wait, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if d.timer == timer { // and not set anew meanwhile
			d.passed = true
			s.changed.Broadcast()
		}
	})
	d.timer = timer
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}
