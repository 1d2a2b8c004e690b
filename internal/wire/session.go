package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
)

// endTimeout is how long a session that ends waits for the other side to take the Goodbye and close. Closing at once
// could destroy the Goodbye on its way: TCP answers bytes that nobody reads by a reset.
const endTimeout = 2 * time.Second

// helloTimeout is how long the other side may take for its Hello.
const helloTimeout = 10 * time.Second

// A Session is one end of a conversation. All methods are safe for concurrent use.
//
// Three goroutines carry it: the one in Run reads, one writes, one watches the clock; those that serve come as they are
// needed. What the other side may ask is kept in asks (this side's requests) and serves (the other's).
type Session struct {
	rwc     io.ReadWriteCloser
	handler Handler
	o       Options
	log     hclog.Logger

	ctx    context.Context // of everything that is done for the other side
	cancel context.CancelFunc
	wg     sync.WaitGroup // all goroutines but Run's
	in     input
	out    output
	asks   asks
	serves serves
	pings  pings

	closeOnce sync.Once
	ready     chan struct{} // closed when the other side's Hello is here
	ending    chan struct{} // closed when err is set
	done      chan struct{}

	mu       sync.Mutex
	running  bool
	err      error // why the session ends; nil until it does
	writeErr error // why nothing can be written any more
	linger   *time.Timer

	bytesIn, bytesOut, chunksIn, chunksOut, framesIn atomic.Uint64
}

// NewSession prepares a session over rwc, which it owns from now on: whatever happens, rwc is closed when the session
// ends. Close of rwc must make a blocked Read and Write return. Where rwc has SetReadDeadline, CloseWrite, WriteMore or
// ExpectRead (see package link), the session uses them; nobody else may. Nothing is sent or received before Run.
//
// With a nil handler the session serves nothing and tells the other side so.
func NewSession(rwc io.ReadWriteCloser, h Handler, o Options) *Session {
	o = o.withDefaults()
	s := &Session{
		rwc: rwc, handler: h, o: o, log: o.Logger,
		ready:  make(chan struct{}),
		ending: make(chan struct{}),
		done:   make(chan struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.in.init(s)
	s.out.init()
	s.asks.init(o)
	s.serves.init(o, h != nil)
	return s
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	orDefault(&o.MaxInFlight, DefaultRequests, maxRequests)
	orDefault(&o.MaxRequests, DefaultRequests, maxRequests)
	orDefault(&o.MaxFiles, DefaultFiles, maxFiles)
	if o.KeepAlive <= 0 {
		o.KeepAlive = DefaultKeepAlive
	}
	if o.StallTimeout <= 0 {
		o.StallTimeout = DefaultStallTimeout
	}
	return o
}

func orDefault(v *int, def, most int) {
	if *v <= 0 {
		*v = def
	}
	*v = min(*v, most)
}

// Run speaks until the session has ended and everything that it started has come to an end. It returns nil if one of
// the sides ended it in peace (Close, or a Goodbye of CodeDone from the other), and otherwise Err. If ctx ends, so does
// the session, by a Goodbye. Run must be called once.
func (s *Session) Run(ctx context.Context) error {
	s.mu.Lock()
	if s.running {
		s.mu.Unlock()
		panic("wire: Run is called twice")
	}
	s.running = true
	early := s.err
	s.mu.Unlock()
	if early == nil {
		stop := context.AfterFunc(ctx, func() { s.end(context.Cause(ctx), CodeDone, "this side stops") })
		s.wg.Go(s.write)
		s.wg.Go(s.watch)
		s.readFailed(s.read())
		stop()
	}
	s.closeStream()
	s.wg.Wait()
	s.closeServed()
	s.mu.Lock()
	if s.linger != nil {
		s.linger.Stop()
	}
	s.mu.Unlock()
	close(s.done)
	return s.peaceful(s.Err())
}

// peaceful returns nil for the reasons that are no failure.
func (s *Session) peaceful(err error) error {
	var bye *GoodbyeError
	if err == ErrClosed || errors.As(err, &bye) && bye.Code == CodeDone {
		return nil
	}
	return err
}

// Goodbye begins to end the session: the other side is told code and message (cut at MaxMessage), calls in flight fail
// with ErrEnded. It does not wait. Only the first reason to end counts.
func (s *Session) Goodbye(code Code, message string) { s.end(ErrClosed, code, message) }

// Close ends the session in peace and waits until Run is about to return; it must not be called from a Handler.
func (s *Session) Close() error {
	s.Goodbye(CodeDone, "")
	s.mu.Lock()
	running := s.running
	s.mu.Unlock()
	if !running {
		s.closeStream()
		return nil
	}
	<-s.done
	return nil
}

// Done is closed when the session has ended and Err is final.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err returns nil until the session begins to end, and then why: ErrClosed, ErrStalled, a *GoodbyeError, a
// *ProtocolError, the error of the stream or that of the context.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// ended is what calls return after the end.
func (s *Session) ended() error { return fmt.Errorf("%w: %w", ErrEnded, s.Err()) }

// Stats returns the counts so far.
func (s *Session) Stats() Stats {
	return Stats{
		BytesIn: s.bytesIn.Load(), BytesOut: s.bytesOut.Load(),
		ChunksIn: s.chunksIn.Load(), ChunksOut: s.chunksOut.Load(),
	}
}

// fail ends the session without a word: the stream is of no use any more, or the other side has said Goodbye.
func (s *Session) fail(err error) {
	if s.begin(err) {
		s.out.stop()
		s.closeStream()
	}
}

// end ends the session with a Goodbye, for which the other side has endTimeout.
func (s *Session) end(err error, code Code, message string) {
	if s.begin(err) {
		s.closeSoon()
		s.out.goodbye(code, message)
	}
}

// begin makes err the reason of the end, if it is the first, and lets go of all that waits.
func (s *Session) begin(err error) bool {
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return false
	}
	s.err = err
	close(s.ending)
	s.mu.Unlock()

	s.log.Debug("session ends", "reason", err)
	s.cancel()
	if s.withdrawAll() {
		s.in.kick()
	}
	return true
}

func (s *Session) closeStream() {
	s.closeOnce.Do(func() { s.rwc.Close() })
}

// readFailed ends the session for the reason that reading stopped, unless there is one already or a better one.
func (s *Session) readFailed(err error) {
	var violation *ProtocolError
	var version *versionError
	switch {
	case errors.As(err, &violation):
		s.end(err, CodeProtocol, violation.Frame+": "+violation.What)
		s.in.drain()
	case errors.As(err, &version):
		s.end(err, CodeVersion, version.Error())
		s.in.drain()
	default:
		s.mu.Lock()
		if s.writeErr != nil {
			err = s.writeErr // it came first
		}
		s.mu.Unlock()
		s.fail(err)
	}
}

// writeFailed leaves the other side the chance to be heard: it may have closed after a Goodbye that is still to be
// read.
func (s *Session) writeFailed(err error) {
	s.mu.Lock()
	s.writeErr = fmt.Errorf("write frame: %w", err)
	s.mu.Unlock()
	s.closeSoon()
}

// closeSoon closes the stream after endTimeout, if nothing else does before.
func (s *Session) closeSoon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.linger == nil {
		s.linger = time.AfterFunc(endTimeout, s.closeStream)
	}
}
