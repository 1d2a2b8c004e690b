package shmring

import (
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// A channelAddr names a side of a channel.
type channelAddr struct {
	Path    string // of the region
	Channel int    // -1: all
}

// Network returns "shm".
func (channelAddr) Network() string { return "shm" }

func (a channelAddr) String() string {
	if a.Channel < 0 {
		return a.Path
	}
	return fmt.Sprintf("%s#%d", a.Path, a.Channel)
}

// A Conn is one side of a connection over a channel of a region: a net.Conn, safe for concurrent use as that says. It
// ends as a socket does: what was written before CloseWrite or Close can still be read at the other side, followed by
// io.EOF; a Write to a side that has closed is EPIPE. If a side ends without a word, the other one has ErrGone within
// Options.Timeout. Close it, also after an error: until then the channel is taken.
type Conn struct {
	m    *mapping
	addr channelAddr
	o    Options
	host bool

	own, peer  page
	call       *atomic.Uint64 // the generation as the guest says
	generation uint64
	answered   atomic.Bool    // guest: the host has taken the call
	epochWord  *atomic.Uint64 // guest: of the host now
	epoch      uint64         // guest: of the host that it talks to

	in   inbox
	out  outbox
	over atomic.Bool // err or closed is set

	fence atomic.Uint64 // orders loads before it and after it

	mu     sync.Mutex
	err    error // the connection broke
	closed bool

	closing  sync.Mutex  // held by Close
	detached bool        // guarded by in.mu and out.mu, either is enough to read: touch the mapping no more
	vacant   atomic.Bool // host: detached, the channel may be given to the next
	moved    atomic.Bool // bytes went through lately

	beat    uint64        // guest: own counter, as told
	heard   uint64        // the peer's counter
	silence time.Duration // for which it has stood still; the hub's
	free    func()        // frees the channel; guest
	muted   atomic.Bool   // tests: stand still as if dead
}

// newConn makes the connection that generation names. Nobody knows of it yet.
func newConn(m *mapping, l layout, channel int, host bool, generation uint64, o Options) *Conn {
	c := &Conn{m: m, addr: channelAddr{m.path, channel}, o: o, host: host, generation: generation}
	c.own, c.peer = m.page(l.guestPage(channel)), m.page(l.hostPage(channel))
	in, out := l.ring(channel, 0), l.ring(channel, 1)
	if host {
		c.own, c.peer = c.peer, c.own
		in, out = out, in
	}
	c.call = m.word(callsPage + 8*channel)
	c.epochWord = m.word(offEpoch)
	c.in.data = m.mem[in : in+l.capacity : in+l.capacity]
	c.out.data = m.mem[out : out+l.capacity : out+l.capacity]
	c.in.side = side{watch: c.peer.written, flag: flagEOF | flagClosed, asleep: c.own.readerAsleep}
	c.out.side = side{watch: c.peer.read, flag: flagClosed, asleep: c.own.writerAsleep}
	for _, s := range []*side{&c.in.side, &c.out.side} {
		s.bell = make(chan struct{}, 1)
		s.spinMax, s.spinNow = o.Spin, o.Spin
	}
	return c
}

// LocalAddr and RemoteAddr name the channel: both sides have the same memory.
func (c *Conn) LocalAddr() net.Addr  { return c.addr }
func (c *Conn) RemoteAddr() net.Addr { return c.addr }

// Wake tells that a bell rang: whoever waits looks at the region now.
func (c *Conn) Wake() { c.bells() }

func (c *Conn) bells() {
	c.in.side.ring()
	c.out.side.ring()
}

// current says whether the region is still about this connection. What was loaded or copied before was then the peer's
// doing for this connection; if not, the peer has been replaced meanwhile.
func (c *Conn) current() bool {
	if c.host {
		return c.call.Load() == c.generation
	}
	if c.peer.generation.Load() != c.generation {
		return false
	}
	// A host that closed the connection and stopped serving then has left behind what can still be read.
	return c.epochWord.Load() == c.epoch || c.peer.flags.Load()&flagClosed != 0
}

// broken says what is wrong when the peer wrote what it may not: it may be another one.
func (c *Conn) broken(format string, args ...any) error {
	if !c.current() {
		return ErrGone
	}
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

// fail ends the connection with err, and says so to the peer.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over.Load() {
		return
	}
	c.err = err
	c.over.Store(true)
	c.bells()
	if !errors.Is(err, errTruncated) {
		c.renounce()
	}
}

// renounce makes the peer see that this side knows nothing of the connection any more.
func (c *Conn) renounce() {
	var fault error
	defer c.m.guard(debug.SetPanicOnFault(true), &fault)
	if c.host {
		c.own.generation.Store(0)
	} else {
		c.call.Store(0)
	}
}

// failure says why the connection is over.
func (c *Conn) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	return c.err
}

// wrap ends the connection if err says that, and dresses err as package net does.
func (c *Conn) wrap(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	if errors.Is(err, ErrGone) || errors.Is(err, ErrCorrupt) {
		c.fail(err)
		err = c.failure()
	}
	return &net.OpError{Op: op, Net: "shm", Source: c.addr, Addr: c.addr, Err: err}
}

// ringFor rings the bell if the peer sleeps and was not woken from this nap. s published what it waits for.
func (c *Conn) ringFor(asleep *atomic.Uint64, s *side) {
	if c.o.Ring == nil {
		return
	}
	if nap := asleep.Load(); nap&1 == 1 && nap != s.rung {
		s.rung = nap
		c.o.Ring()
	}
}

// say sets this side's flags and rings for whoever sleeps at the other side.
func (c *Conn) say(flags uint64) (err error) {
	defer c.m.guard(debug.SetPanicOnFault(true), &err)
	c.own.flags.Store(flags)
	if c.o.Ring != nil && (c.peer.readerAsleep.Load()|c.peer.writerAsleep.Load())&1 == 1 {
		c.o.Ring()
	}
	return nil
}

// Close ends both directions. The other side can still read what was written.
func (c *Conn) Close() error {
	c.closing.Lock()
	defer c.closing.Unlock()
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	clean := c.err == nil
	c.closed = true
	c.over.Store(true)
	c.mu.Unlock()
	if !c.host {
		theHub.remove(c)
	}
	c.detach(clean)
	if c.free != nil {
		c.free()
	}
	return nil
}

// detach waits until no Read and Write is at work, of which each ends at once when over is set, and leaves the mapping.
func (c *Conn) detach(clean bool) {
	c.bells()
	c.in.deadline.set(time.Time{}, c.in.side.ring)
	c.out.deadline.set(time.Time{}, c.out.side.ring)
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	if c.detached {
		return
	}
	c.detached = true
	if clean {
		c.say(flagEOF | flagClosed)
	}
	c.vacant.Store(true)
	c.m.release()
}

// SetDeadline sets the time after which Read, Peek and Write fail with os.ErrDeadlineExceeded, also those that wait
// already; the zero time is never. They lose no byte by it, and can be repeated after it was moved.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline is SetDeadline of Read and Peek.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadline(&c.in.side, t) }

// SetWriteDeadline is SetDeadline of Write.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(&c.out.side, t) }

func (c *Conn) setDeadline(s *side, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return &net.OpError{Op: "set", Net: "shm", Source: c.addr, Addr: c.addr, Err: net.ErrClosed}
	}
	s.deadline.set(t, s.ring)
	return nil
}
