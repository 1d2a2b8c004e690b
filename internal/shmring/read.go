package shmring

import (
	"io"
	"os"
	"runtime"
	"runtime/debug"
)

// weaklyOrdered processors may load what the program loads first after what it loads next.
const weaklyOrdered = runtime.GOARCH != "amd64"

// Read reads what there is, at most len(p) bytes, and waits if there is none.
func (c *Conn) Read(p []byte) (int, error) {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	n, err := c.read(p)
	return n, c.wrap("read", err)
}

func (c *Conn) read(p []byte) (n int, err error) {
	defer c.m.guard(debug.SetPanicOnFault(true), &err)
	if len(p) == 0 {
		return 0, c.readable()
	}
	if err := c.await(); err != nil {
		return 0, err
	}
	for n < len(p) && c.in.unread() > 0 {
		piece := c.in.at(min(c.in.unread(), step))
		copied := copy(p[n:], piece)
		if weaklyOrdered {
			c.fence.Store(0) // or the bytes might be loaded after the look at whose they are
		}
		if !c.current() { // the bytes may be somebody else's
			return n, ErrGone
		}
		n += copied
		c.consume(uint64(copied))
	}
	return n, nil
}

// readable says why nothing can be read, whatever is there.
func (c *Conn) readable() error {
	if c.over.Load() {
		return c.failure()
	}
	if c.in.deadline.passed.Load() {
		return os.ErrDeadlineExceeded
	}
	return nil
}

// await waits until there is something to read.
func (c *Conn) await() error {
	in := &c.in
	for {
		if err := c.readable(); err != nil {
			return err
		}
		if in.unread() > 0 {
			return nil
		}
		if in.final {
			return io.EOF
		}
		flags := c.peer.flags.Load()
		written := in.watch.Load()
		if !in.learn(written) {
			return c.broken("it has written up to byte %d, after %d, in a ring of %d", written, in.limit, len(in.data))
		}
		if !c.current() {
			return ErrGone
		}
		in.final = flags&in.flag != 0
		if in.unread() == 0 && !in.final {
			c.tell()
			in.wait(c, in.limit)
		}
	}
}

// consume frees n bytes.
func (c *Conn) consume(n uint64) {
	in := &c.in
	in.pos += n
	if in.pos-in.told >= min(untold, uint64(len(in.data))/4) || in.pos == in.limit {
		c.tell()
	}
	if !c.moved.Load() {
		c.moved.Store(true)
	}
}

// tell publishes how far this side has read.
func (c *Conn) tell() {
	if c.in.told == c.in.pos {
		return
	}
	c.in.told = c.in.pos
	c.own.read.Store(c.in.pos)
	c.ringFor(c.peer.writerAsleep, &c.in.side)
}

// Peek waits as Read does and returns bytes that are next to be read, at least one and at most max (> 0), where they
// are: in the mapping, in one piece. The other side can write there, so they may change between two looks, and a later
// Read or Peek may find that they were not of this connection. They stay mapped, also over Close, until Discard, which
// must follow, or the next Peek. If the file becomes shorter, touching them is a fault (see debug.SetPanicOnFault).
func (c *Conn) Peek(max int) ([]byte, error) {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	b, err := c.peek(max)
	return b, c.wrap("read", err)
}

func (c *Conn) peek(max int) (b []byte, err error) {
	defer c.m.guard(debug.SetPanicOnFault(true), &err)
	if max <= 0 {
		return nil, c.readable()
	}
	if err := c.await(); err != nil {
		return nil, err
	}
	if !c.in.held {
		c.in.held = true
		c.m.refs.Add(1)
	}
	return c.in.at(min(c.in.unread(), uint64(max))), nil
}

// Discard drops the next n bytes, no more than the last Peek returned, and ends the use of what that returned.
func (c *Conn) Discard(n int) {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	if c.in.held {
		c.in.held = false
		defer c.m.release()
	}
	var err error
	c.discard(n, &err)
	c.wrap("read", err)
}

func (c *Conn) discard(n int, err *error) {
	defer c.m.guard(debug.SetPanicOnFault(true), err)
	if n <= 0 || c.detached || c.over.Load() {
		return
	}
	c.consume(min(uint64(n), c.in.unread()))
}
