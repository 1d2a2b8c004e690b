package guestlink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"
)

// lastWord bounds the time in which the other side can be told why the link ends.
const lastWord = time.Second

// Config says how a side of a link behaves.
type Config struct {
	Guest bool // this is the guest's side
	// Admit is asked for each stream that the other side opens, beside MaxStreams; a no ends the link with CodeBusy.
	// Release is called once for each that was admitted, when both sides have closed it. Neither may block. nil: all are
	// admitted.
	Admit   func() bool
	Release func()
	// Paused says that the other side stands still, and is not to be given up for its silence. nil: it never does.
	Paused func() bool
}

// Session is a link on which both sides have greeted: many streams. Its methods are safe for concurrent use. End or
// Close it, also when it has failed.
type Session struct {
	cfg     Config
	link    net.Conn
	carrier *carrier
	mux     *yamux.Session
	clock   atomic.Int64  // nanoseconds in which neither side stood still
	bulk    atomic.Int64  // streams of this side's at which bulk is being written
	done    chan struct{} // closed when no stream works any more
	closing sync.Once
	helpers sync.WaitGroup
	slots   chan struct{} // one for each stream of this side's
	opening chan struct{} // held by who opens one

	mu      sync.Mutex
	streams map[uint32]*entry // those that one side has not closed yet
	theirs  int               // of them, those that the other side has opened
	last    uint32            // number of the last of these
	why     error             // the first that went wrong
	told    bool              // it is what the other side said
	ended   bool
}

// entry is a stream as the table of its session knows it.
type entry struct {
	theirs  bool
	in, out bool    // the other side, this side has closed it
	stream  *Stream // nil until it is accepted, or opened
	closed  time.Duration
}

// NewSession makes a session of a link on which both sides have greeted, and which is the session's from now on.
func NewSession(link net.Conn, cfg Config) (*Session, error) {
	if err := link.SetDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("make session of guest link: %w", err)
	}
	s := &Session{
		cfg: cfg, link: link, done: make(chan struct{}), streams: map[uint32]*entry{},
		slots: make(chan struct{}, MaxStreams), opening: make(chan struct{}, 1),
	}
	s.carrier = newCarrier(s, link)
	window, side := uint32(HostWindow), yamux.Server
	if cfg.Guest {
		window, side = GuestWindow, yamux.Client
	}
	mux, err := side(s.carrier, &yamux.Config{
		AcceptBacklog: 2 * MaxStreams, MaxStreamWindowSize: window, Logger: log.New(io.Discard, "", 0),
		// What ends a stream or a link is decided here, where a paused guest is known of: see watch.
		KeepAliveInterval: time.Hour, ConnectionWriteTimeout: math.MaxInt64,
	})
	if err != nil {
		return nil, fmt.Errorf("make session of guest link: %w", err)
	}
	s.mux = mux
	s.helpers.Go(s.finish)
	s.helpers.Go(s.watch)
	s.helpers.Go(s.beat)
	return s, nil
}

// finish waits until the multiplexer ends, for whatever reason, and ends all streams.
func (s *Session) finish() {
	<-s.mux.CloseChan()
	err := error(yamux.ErrSessionShutdown)
	for range 2*MaxStreams + 1 { // Accept says why, but may prefer a stream that still waits
		if _, err = s.mux.AcceptStream(); err != nil && !errors.Is(err, yamux.ErrSessionShutdown) {
			break
		}
	}
	switch {
	case errors.Is(err, yamux.ErrSessionShutdown):
		s.fail(net.ErrClosed)
	case errors.Is(err, yamux.ErrRecvWindowExceeded), errors.Is(err, yamux.ErrUnexpectedFlag),
		errors.Is(err, yamux.ErrDuplicateStream):
		s.fail(fmt.Errorf("%w: %w", ErrProtocol, err))
	default:
		s.fail(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.told { // it waits for nothing but that
		s.link.Close()
	}
	s.ended = true
	for id, e := range s.streams {
		s.remove(id, e)
	}
	close(s.done)
}

// fail notes what went wrong first, and returns err.
func (s *Session) fail(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.why == nil {
		s.why = err
	}
	return err
}

// hear notes the other side's last word, and returns it.
func (s *Session) hear(why error) error {
	s.mu.Lock()
	s.told = true
	s.mu.Unlock()
	return why
}

// Done is closed when the session has ended; Err says why.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err is what ended the session, or is about to: a *Failure if the other side said so, io.EOF if it closed the link,
// ErrStalled, ErrProtocol, net.ErrClosed after Close or End. It is nil while the session works.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.why
}

// Open opens a stream for a purpose, which is said with the first Write, or Read. It waits while there are MaxStreams
// of this side's.
func (s *Session) Open(ctx context.Context, purpose Purpose) (*Stream, error) {
	select {
	case s.slots <- struct{}{}:
	case <-s.done:
		return nil, s.broke("open stream", s.Err())
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	raw, err := s.openNext(ctx)
	if err != nil {
		return nil, err
	}
	x := s.bind(raw)
	x.purpose, x.priority = purpose, purpose.Priority()
	x.start.Store(true)
	return x, nil
}

// openNext opens one stream at a time, for their numbers must go out in their order. The caller has a slot, which is
// the stream's if there is one.
func (s *Session) openNext(ctx context.Context) (*yamux.Stream, error) {
	select {
	case s.opening <- struct{}{}:
		defer func() { <-s.opening }()
	case <-ctx.Done():
		<-s.slots
		return nil, ctx.Err()
	}
	raw, err := s.mux.OpenStream()
	if err != nil { // the link has ended, or its numbers have: then it must, too
		s.fail(err)
		return nil, s.broke("open stream", err)
	}
	return raw, nil
}

// Accept waits for the next stream of the other side's, of which nothing is known yet: see Stream.Started.
func (s *Session) Accept() (*Stream, error) {
	raw, err := s.mux.AcceptStream()
	if err != nil {
		return nil, s.broke("accept stream", err)
	}
	return s.bind(raw), nil
}

// broke puts what ended the session, if that is so, in the place of what a stream says of it.
func (s *Session) broke(what string, err error) error {
	if why := s.Err(); why != nil {
		err = why
	}
	return fmt.Errorf("%s of guest link: %w", what, err)
}

// Close ends the session at once.
func (s *Session) Close() error {
	s.closing.Do(func() { s.close() })
	s.helpers.Wait()
	return nil
}

func (s *Session) close() {
	s.fail(net.ErrClosed)
	s.link.Close()
	s.mux.Close()
}

// End ends the session and tells the other side why, if it takes that within a second.
func (s *Session) End(why *Failure) {
	s.closing.Do(func() {
		s.fail(net.ErrClosed)
		stop := time.AfterFunc(lastWord, func() { s.link.Close() })
		defer stop.Stop()
		if payload, err := encode(why); err == nil && s.carrier.last(payload) == nil {
			if link, ok := s.link.(interface{ CloseWrite() error }); ok && link.CloseWrite() == nil {
				s.mux.Close() // leaves the link open
				Linger(s.link)
			}
		}
		s.close()
	})
	s.helpers.Wait()
}

// Linger lets a last word arrive on a link of which the writing end is closed: if it were closed while the other side
// still sends, it would be reset, and the word lost.
func Linger(link net.Conn) {
	if link.SetReadDeadline(time.Now().Add(lastWord)) == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(link, 1<<20))
	}
}

// abandon frees the multiplexer from the link, which stays open for a last word.
func (s *Session) abandon() error { return s.link.SetReadDeadline(time.Unix(1, 0)) }

// later does something that may have to wait for the link, unless that has ended.
func (s *Session) later(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.helpers.Go(do)
	}
}
