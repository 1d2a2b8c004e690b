package wire

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// readBuffer, in bytes, serves headers and control frames; most of a chunk passes it by, straight into its buffer.
const readBuffer = 4 << 10

// errKicked: a Read was interrupted because its buffer is wanted back.
var errKicked = errors.New("read interrupted")

// deadliner is the part of net.Conn that lets a Read be interrupted. Without it, a caller whose buffer is being filled
// must wait for the bytes that are on their way or for the session's end.
type deadliner interface{ SetReadDeadline(time.Time) error }

// input reads frames. All but kick belongs to the goroutine of Run.
type input struct {
	s             *Session
	buf           *bufio.Reader
	header        [headerSize]byte
	scratch       []byte
	interruptible bool // whether Read may return errKicked
	expecter      expecter

	mu     sync.Mutex
	kicked bool
}

func (in *input) init(s *Session) {
	in.s = s
	in.buf = bufio.NewReaderSize(in, readBuffer)
	in.scratch = make([]byte, maxHello)
	in.expecter, _ = s.rwc.(expecter)
}

// Read reads from the stream, for buf. A kick makes it return errKicked or start again.
func (in *input) Read(p []byte) (int, error) {
	for {
		n, err := in.s.rwc.Read(p)
		in.s.bytesIn.Add(uint64(n))
		if n > 0 || err == nil || !in.settle(err) {
			return n, err
		}
		if in.interruptible {
			return 0, errKicked
		}
	}
}

// settle reports whether err comes of a kick, and makes the stream readable again.
func (in *input) settle(err error) bool {
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		return false
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if !in.kicked {
		return false
	}
	in.kicked = false
	in.s.rwc.(deadliner).SetReadDeadline(time.Time{}) // an error shows in the next Read
	return true
}

// kick makes a blocked Read return. TLS survives it: a record that is half there stays so.
func (in *input) kick() {
	d, ok := in.s.rwc.(deadliner)
	if !ok {
		return
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.kicked = true
	d.SetReadDeadline(time.Unix(1, 0)) // long ago
}

// expecter is a stream that wakes its reader less often when it knows how much comes.
type expecter interface{ ExpectRead(n int) }

// expect says that n more bytes of a frame are on their way.
func (in *input) expect(n int) {
	if in.expecter != nil {
		in.expecter.ExpectRead(n)
	}
}

// next reads and checks the header of the next frame.
func (in *input) next() (header, error) {
	if _, err := io.ReadFull(in.buf, in.header[:]); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF // a Goodbye comes before a proper end
		}
		return header{}, fmt.Errorf("read frame: %w", err)
	}
	return parseHeader(&in.header)
}

// payload reads the payload of a control frame. It is good until the next call.
func (in *input) payload(h header) ([]byte, error) {
	if h.length > len(in.scratch) {
		in.scratch = make([]byte, h.length)
	}
	p := in.scratch[:h.length]
	if _, err := io.ReadFull(in.buf, p); err != nil {
		return nil, fmt.Errorf("read %v: %w", h, err)
	}
	return p, nil
}

// skip drops n bytes.
func (in *input) skip(n int) error {
	if _, err := in.buf.Discard(n); err != nil {
		return fmt.Errorf("read frame: %w", err)
	}
	return nil
}

// drain reads until the other side closes, or this one does after endTimeout.
func (in *input) drain() {
	io.Copy(io.Discard, in.buf) // the error is the end
}

// A versionError is the reason of a session without a common version.
type versionError struct{ theirs uint16 }

func (e *versionError) Error() string {
	return fmt.Sprintf("no common protocol version: one side speaks %d, the other %d", Version, e.theirs)
}

// read handles frames until one of them, or the stream, ends the session.
func (s *Session) read() error {
	if err := s.readHello(); err != nil {
		return err
	}
	for {
		h, err := s.in.next()
		if err != nil {
			return err
		}
		if err := s.handle(h); err != nil {
			return err
		}
		s.framesIn.Add(1)
	}
}

func (s *Session) readHello() error {
	h, err := s.in.next()
	if err != nil {
		return err
	}
	if h.typ == frameGoodbye { // it knew at once that it does not want to talk
		return s.handle(h)
	}
	if h.typ != frameHello {
		return h.violation("the first frame must be Hello")
	}
	p, err := s.in.payload(h)
	if err != nil {
		return err
	}
	m, err := parseHello(p)
	if err != nil {
		return h.violation("%v", err)
	}
	if m.version < Version {
		return &versionError{theirs: m.version}
	}
	s.framesIn.Add(1)
	s.asks.features = m.features
	s.asks.allow(int(m.requests), int(m.files))
	close(s.ready)
	return nil
}

// handle reads the rest of a frame and does what it says.
func (s *Session) handle(h header) error {
	if h.typ == frameData {
		return s.handleData(h)
	}
	p, err := s.in.payload(h)
	if err != nil {
		return err
	}
	if h.typ == frameGoodbye {
		code, message := parseReason(p)
		return &GoodbyeError{Code: code, Message: message}
	}
	if s.Err() != nil {
		return nil // only a Goodbye or the end of the stream matters now
	}
	switch h.typ {
	case frameHello:
		return h.violation("a second Hello")
	case frameOpen:
		m, err := parseOpen(p)
		if err != nil {
			return h.violation("%v", err)
		}
		return s.handleOpen(h, m)
	case frameClose:
		return s.handleClose(h)
	case frameManifest:
		return s.handleManifest(h, p)
	case frameRequest:
		m, err := parseRequest(p)
		if err != nil {
			return h.violation("%v", err)
		}
		return s.handleRequest(h, m)
	case frameDraw:
		m, err := parseDraw(p)
		if err != nil {
			return h.violation("%v", err)
		}
		return s.handleDraw(h, m)
	case frameGrant:
		return s.handleGrant(h, p)
	case frameCancel:
		return s.handleCancel(h)
	case frameReject:
		code, message := parseReason(p)
		return s.handleReject(h, &RejectError{Code: code, Message: message})
	case frameHave:
		return s.handleHave(h, p)
	case framePeers:
		return s.handlePeers(h, p)
	case framePing:
		s.out.sendPong(h.id)
		return nil
	default: // framePong: parseHeader knows no others
		return s.pings.answered(h)
	}
}

// A pings keeps those who wait for an answer to a Ping. Numbers begin at 1 and never wrap: it would take decades.
type pings struct {
	mu       sync.Mutex
	sent     uint32        // number of the latest
	heard    uint32        // highest number answered
	received chan struct{} // closed and renewed at each answer; nil if nobody waits
}

// Ping returns the time that a frame takes to the other side and back, in between its bulk.
func (s *Session) Ping(ctx context.Context) (time.Duration, error) {
	select {
	case <-s.ready:
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-s.ending:
		return 0, s.ended()
	}
	start := time.Now()
	seq := s.ping()
	for {
		heard, received := s.pings.wait()
		if heard >= seq {
			return time.Since(start), nil
		}
		select {
		case <-received:
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-s.ending:
			return 0, s.ended()
		}
	}
}

// ping sends a Ping and returns its number.
func (s *Session) ping() uint32 {
	s.pings.mu.Lock()
	s.pings.sent++
	seq := s.pings.sent
	s.pings.mu.Unlock()
	s.out.sendPing(seq)
	return seq
}

// outstanding reports whether a Ping waits for its answer.
func (p *pings) outstanding() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.heard < p.sent
}

func (p *pings) wait() (heard uint32, received <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.received == nil {
		p.received = make(chan struct{})
	}
	return p.heard, p.received
}

func (p *pings) answered(h header) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if h.id > p.sent {
		return h.violation("the answer to a Ping that was not sent")
	}
	p.heard = max(p.heard, h.id)
	if p.received != nil {
		close(p.received)
		p.received = nil
	}
	return nil
}
