package guestlink

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"
)

// Purpose is what a stream is for.
type Purpose uint8

// Purposes. A side answers one that it does not know with a Failure of CodeUnknownStream, and closes the stream.
const (
	ForRequests Purpose = 1 + iota // Ping and List
	ForWatch                       // one Watch
	ForPull                        // Open and Read
	ForPush                        // one Push
	ForBell                        // Bell, of either side

	lastPurpose = ForBell
)

var purposeNames = [...]string{"", "requests", "watch", "pull", "push", "bell"}

// String returns the name.
func (p Purpose) String() string {
	if p > 0 && p <= lastPurpose {
		return purposeNames[p]
	}
	return fmt.Sprintf("purpose %d", uint8(p))
}

// Priority of a stream: what is sent on it waits for what of others.
type Priority uint8

const (
	// Control goes before bulk: in pieces of MaxPiece.
	Control Priority = iota
	// Bulk goes in pieces of which those of all streams that write it make up one of MaxPiece, or of leastPiece. Whoever
	// writes waits for one piece of each other stream.
	Bulk
)

// leastPiece is that of bulk, in bytes, however many streams write some.
const leastPiece = 16 << 10

// Priority is the one that streams of this purpose have.
func (p Purpose) Priority() Priority {
	if p == ForPull || p == ForPush {
		return Bulk
	}
	return Control
}

// Stream is one of the streams of a link. One goroutine may read while another writes; Close may be called at any time.
// A side that closes a stream wants no more of it: what the other side writes after that fails.
type Stream struct {
	session  *Session
	raw      *yamux.Stream
	purpose  Purpose
	priority Priority
	gone     chan struct{}
	patience time.Duration // 0: as long as the link lives
	start    atomic.Bool   // what it is for is still to be said

	mu     sync.Mutex
	hungUp bool // gone is closed
	closed bool
	timed  bool // a read has a deadline
}

func newStream(s *Session, raw *yamux.Stream) *Stream {
	return &Stream{session: s, raw: raw, gone: make(chan struct{})}
}

// Gone is closed when the other side, or this one, has closed the stream, or the link has ended. What came before can
// be read.
func (x *Stream) Gone() <-chan struct{} { return x.gone }

// SetPatience sets how long a Read waits for the next bytes; 0 is as long as the link lives. It is for the one who
// reads.
func (x *Stream) SetPatience(d time.Duration) { x.patience = d }

// begin appends the frame that says what the stream is for.
func (x *Stream) begin(b []byte) []byte {
	p := []byte{byte(x.purpose), byte(x.priority)}
	return append(appendHeader(b, Start, 0, len(p), p), p...)
}

// Started waits for what the other side says that a stream is for, for StartTimeout at most.
func (x *Stream) Started() (Purpose, error) {
	x.patience = StartTimeout
	defer func() { x.patience = 0 }()
	f, err := NewConn(x).Receive()
	if err != nil {
		return 0, err
	}
	if f.Kind != Start || len(f.Payload) < 2 || f.Payload[0] == 0 || f.Payload[1] > byte(Bulk) {
		return 0, fmt.Errorf("%w: a stream begins with a %s frame, %.16x", ErrProtocol, f.Kind, f.Payload)
	}
	x.purpose, x.priority = Purpose(f.Payload[0]), Priority(f.Payload[1])
	return x.purpose, nil
}

// Read reads what there is, and waits if there is nothing.
func (x *Stream) Read(p []byte) (int, error) {
	if x.start.Load() { // the other side has to know before it can say anything
		if _, err := x.Write(nil); err != nil {
			return 0, err
		}
	}
	began := x.session.clock.Load()
	for {
		if err := x.expect(); err != nil {
			return 0, err
		}
		n, err := x.raw.Read(p)
		switch {
		case n > 0 || err == nil:
			return n, nil
		case errors.Is(err, yamux.ErrTimeout):
			if x.patience > 0 && time.Duration(x.session.clock.Load()-began) >= x.patience {
				return 0, ErrStalled
			}
		case err == io.EOF:
			return 0, x.end()
		default:
			return 0, x.session.broke("read stream", err)
		}
	}
}

// end is io.EOF if the other side has closed the stream, and not the link.
func (x *Stream) end() error {
	select {
	case <-x.session.mux.CloseChan():
		if why := x.session.Err(); why != nil && why != io.EOF {
			return why
		}
		return io.ErrUnexpectedEOF
	default:
		return io.EOF
	}
}

// expect sets how long the next look at what there is to read takes.
func (x *Stream) expect() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return net.ErrClosed
	}
	switch {
	case x.patience > 0:
		x.timed = true
		return x.raw.SetReadDeadline(time.Now().Add(tick))
	case x.timed:
		x.timed = false
		return x.raw.SetReadDeadline(time.Time{})
	}
	return nil
}

// Write writes all of p, in pieces. The other side has IdleTimeout to take each: it makes room in its window by halves.
func (x *Stream) Write(p []byte) (int, error) {
	if !x.start.Swap(false) {
		return x.write(p)
	}
	begin := x.begin(make([]byte, 0, headerSize+2+min(len(p), inOneWrite)))
	first := min(len(p), inOneWrite) // goes out together with it
	n, err := x.write(append(begin, p[:first]...))
	if n = max(0, n-len(begin)); err != nil || first == len(p) {
		return n, err
	}
	m, err := x.write(p[first:])
	return n + m, err
}

func (x *Stream) write(p []byte) (n int, err error) {
	if x.priority == Bulk {
		x.session.bulk.Add(1)
		defer x.session.bulk.Add(-1)
	}
	for began := x.session.clock.Load(); n < len(p); {
		if err := x.mayWrite(); err != nil {
			return n, err
		}
		k, err := x.raw.Write(p[n:min(n+x.piece(), len(p))])
		if n += k; k > 0 {
			began = x.session.clock.Load()
		}
		switch {
		case err == nil:
		case !errors.Is(err, yamux.ErrTimeout):
			return n, x.session.broke("write stream", err)
		case time.Duration(x.session.clock.Load()-began) >= IdleTimeout:
			return n, ErrStalled
		}
	}
	return n, nil
}

// piece is how many bytes of this stream go at a time.
func (x *Stream) piece() int {
	if x.priority == Control {
		return MaxPiece
	}
	return max(leastPiece, MaxPiece/int(max(1, x.session.bulk.Load())))
}

// mayWrite sets how long the next piece may take before it is looked again.
func (x *Stream) mayWrite() error {
	x.mu.Lock()
	closed, hungUp := x.closed, x.hungUp
	if !hungUp {
		_ = x.raw.SetWriteDeadline(time.Now().Add(tick))
	}
	x.mu.Unlock()
	switch { // not under mu: the session's lock comes before it
	case closed:
		return net.ErrClosed
	case hungUp:
		return x.session.broke("write stream", syscall.EPIPE)
	}
	return nil
}

// hangUp frees whoever writes to a stream that the other side has closed. It does not block.
func (x *Stream) hangUp() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.hungUp {
		return
	}
	x.hungUp = true
	close(x.gone)
	_ = x.raw.SetWriteDeadline(time.Unix(1, 0))
}

// Close ends the stream, and frees whoever reads or writes. It does not wait until the other side is told.
func (x *Stream) Close() error {
	x.hangUp()
	x.mu.Lock()
	closed := x.closed
	x.closed = true
	_ = x.raw.SetReadDeadline(time.Unix(1, 0))
	x.mu.Unlock()
	if !closed {
		x.session.later(func() { _ = x.raw.Close() })
	}
	return nil
}
