package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	goqemu "github.com/digitalocean/go-qemu/qmp"
	"golang.org/x/time/rate"
)

// session is a connection to a monitor that has greeted and takes commands. Its methods may be used by several
// goroutines; commands run one after the other.
type session struct {
	conn    net.Conn
	times   *times
	lines   *lines
	version goqemu.Version
	dirty   chan struct{} // an event came after which the guest may look different
	turn    chan struct{} // whose command runs
	done    chan struct{} // closed when the connection has ended
	ctx     context.Context
	cancel  context.CancelCauseFunc // with why it ends; the first reason stays
	reading sync.WaitGroup

	mu     sync.Mutex
	sent   uint64       // id of the last command
	answer chan message // takes its reply; nil if nobody waits
	waits  map[*wait]struct{}
}

// wait waits until a device is gone or the guest says that it keeps it.
type wait struct {
	id  string
	end chan error // has room for one
}

// open connects to the monitor of a socket and waits in its line for as long as ctx allows: QEMU greets the next client
// when the one before has gone, and who gives up and comes again leaves a dead client in the line each time. busy is
// called, once at most, when it takes long. When ctx ends the session does.
func open(ctx context.Context, path string, t *times, busy func()) (*session, error) {
	dialer := net.Dialer{Timeout: t.dial}
	conn, err := dialer.DialContext(ctx, "unix", path)
	if errors.Is(err, syscall.EAGAIN) { // what the kernel says when the line is full
		return nil, fmt.Errorf("connect to monitor: %w: %w", errBusy, err)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to monitor: %w", err)
	}
	s := &session{
		conn: conn, times: t,
		lines: &lines{r: bufio.NewReader(conn), deadline: conn.SetReadDeadline, patience: t.reply},
		dirty: make(chan struct{}, 1), turn: make(chan struct{}, 1), done: make(chan struct{}),
		waits: map[*wait]struct{}{},
	}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	context.AfterFunc(s.ctx, func() { s.conn.Close() })

	notice := time.AfterFunc(t.line, busy)
	err = s.greet()
	notice.Stop()
	if err != nil {
		s.cancel(err)
		return nil, fmt.Errorf("await greeting: %w", s.why())
	}
	s.reading.Go(s.read)
	if err := s.do(ctx, "qmp_capabilities", nil, nil); err != nil {
		s.close()
		return nil, fmt.Errorf("negotiate capabilities: %w", err)
	}
	return s, nil
}

// greet waits for the greeting. QEMU may say before what it had to say to the client before this one: events.
func (s *session) greet() error {
	for range maxEarly {
		raw, err := s.lines.next()
		if err != nil {
			return err
		}
		m, err := decode(raw)
		switch {
		case err != nil:
			return err
		case m.greeting != nil:
			s.version = *m.greeting
			return nil
		case m.event == nil:
			return fmt.Errorf("%w: it does not greet", ErrNotQMP)
		}
	}
	return fmt.Errorf("%w: it does not greet, after %d events", ErrNotQMP, maxEarly)
}

// close ends the session and waits for it.
func (s *session) close() {
	s.cancel(ErrEnded)
	s.reading.Wait()
}

// why tells why the session ended.
func (s *session) why() error {
	err := context.Cause(s.ctx)
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return ErrEnded
	}
	return err
}

// read handles what QEMU says until the connection ends.
func (s *session) read() {
	defer close(s.done)
	pace := rate.NewLimiter(readPace, readBurst)
	for {
		raw, err := s.lines.next()
		if err == nil {
			err = s.handle(raw)
		}
		if err == nil { // who says too much too fast is heard slowly, and has to wait
			err = pace.WaitN(s.ctx, max(len(raw), minCost))
		}
		if err != nil {
			s.cancel(err)
			return
		}
	}
}

func (s *session) handle(raw []byte) error {
	m, err := decode(raw)
	switch {
	case err != nil:
		return err
	case m.greeting != nil:
		return fmt.Errorf("%w: it greets twice", ErrNotQMP)
	case m.event != nil:
		s.hear(m.event)
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.id > s.sent {
		return fmt.Errorf("%w: it answers what was not asked", ErrNotQMP)
	}
	if m.id == s.sent && s.answer != nil { // else nobody waits for it any more
		s.answer <- m
		s.answer = nil
	}
	return nil
}

func (s *session) hear(e *goqemu.Event) {
	if telling[e.Event] {
		s.touch()
	}
	id, kept, ok := released(e)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.waits {
		if w.id != id {
			continue
		}
		var err error
		if kept {
			err = fmt.Errorf("%w: %s", ErrKept, e.Event)
		}
		select {
		case w.end <- err:
		default: // it was told before
		}
	}
}

// touch makes the guest be looked at.
func (s *session) touch() {
	select {
	case s.dirty <- struct{}{}:
	default:
	}
}

// command is go-qemu's with an id, by which QEMU's reply is known.
type command struct {
	goqemu.Command
	ID uint64 `json:"id"`
}

// do runs a command and decodes what it returns into result, unless that is nil. When ctx ends first, QEMU may still do
// it. A QEMU that does not answer in time loses its session.
func (s *session) do(ctx context.Context, name string, args, result any) error {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-s.done:
		return fmt.Errorf("run %s: %w", name, s.why())
	case <-ctx.Done():
		return fmt.Errorf("run %s: %w", name, ctx.Err())
	}
	answer, err := s.send(name, args)
	if err != nil {
		return fmt.Errorf("run %s: %w", name, err)
	}
	timer := time.NewTimer(s.times.reply)
	defer timer.Stop()
	select {
	case m := <-answer:
		if m.refusal != nil {
			return fmt.Errorf("run %s: %w", name, m.refusal)
		}
		if result == nil {
			return nil
		}
		if err := json.Unmarshal(m.reply, result); err != nil {
			return fmt.Errorf("decode reply to %s: %w: %.100v", name, ErrNotQMP, err)
		}
		return nil
	case <-s.done:
		return fmt.Errorf("run %s: %w", name, s.why())
	case <-ctx.Done():
		return fmt.Errorf("run %s: %w", name, ctx.Err())
	case <-timer.C:
		s.cancel(fmt.Errorf("%w: %s has no reply after %v", ErrSilent, name, s.times.reply))
		return fmt.Errorf("run %s: %w", name, s.why())
	}
}

// send writes a command and returns where its reply will come. It is for whose turn it is.
func (s *session) send(name string, args any) (<-chan message, error) {
	answer := make(chan message, 1)
	s.mu.Lock()
	s.sent++
	s.answer = answer
	id := s.sent
	s.mu.Unlock()
	line, err := json.Marshal(command{goqemu.Command{Execute: name, Args: args}, id})
	if err != nil {
		return nil, err
	}
	if len(line) > maxCommand {
		return nil, fmt.Errorf("the command has %d bytes, the limit is %d", len(line), maxCommand)
	}
	s.conn.SetWriteDeadline(time.Now().Add(s.times.reply))
	if _, err := s.conn.Write(append(line, '\n')); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = fmt.Errorf("%w: it takes no commands", ErrSilent)
		}
		s.cancel(err) // half a command may be written
		return nil, s.why()
	}
	return answer, nil
}
