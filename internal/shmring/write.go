package shmring

import (
	"os"
	"runtime/debug"
	"syscall"
)

// Write writes all of p, and waits while the ring is full. The other side sees bytes as they come.
func (c *Conn) Write(p []byte) (int, error) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	n, err := c.write(p)
	return n, c.wrap("write", err)
}

func (c *Conn) write(p []byte) (n int, err error) {
	defer c.m.guard(debug.SetPanicOnFault(true), &err)
	out := &c.out
	for {
		if err := c.writable(); err != nil {
			return n, err
		}
		if n == len(p) {
			return n, nil
		}
		if out.room() < min(uint64(len(p)-n), step) {
			read := out.watch.Load()
			if !out.learn(read) {
				return n, c.broken("it has read up to byte %d, after %d, of %d", read, out.limit, out.pos)
			}
		}
		if out.room() == 0 {
			out.wait(c, out.limit)
			continue
		}
		copied := copy(out.at(min(out.room(), step)), p[n:])
		n += copied
		out.pos += uint64(copied)
		c.own.written.Store(out.pos)
		c.ringFor(c.peer.readerAsleep, &out.side)
		if !c.moved.Load() {
			c.moved.Store(true)
		}
	}
}

// writable says why nothing can be written, whatever room there is.
func (c *Conn) writable() error {
	switch {
	case c.over.Load():
		return c.failure()
	case c.out.ended.Load():
		return os.NewSyscallError("write", syscall.EPIPE)
	case c.out.deadline.passed.Load():
		return os.ErrDeadlineExceeded
	}
	closed := c.peer.flags.Load()&flagClosed != 0
	if !c.current() {
		return ErrGone
	}
	if closed {
		return os.NewSyscallError("write", syscall.EPIPE)
	}
	return nil
}

// CloseWrite ends this direction; the other side reads what was written and then io.EOF. A Write that waits fails.
func (c *Conn) CloseWrite() error {
	c.out.ended.Store(true)
	c.out.side.ring()
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	if c.over.Load() {
		return c.wrap("close", c.failure())
	}
	return c.wrap("close", c.say(flagEOF))
}
