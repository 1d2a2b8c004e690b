package link

import (
	"errors"
	"os"
	"sync"
	"time"

	"github.com/mdlayher/vsock"
)

// A vsockConn frees its writers, too, when the other side is gone and a reader has come to the end.
//
// The kernel does not always: if the other side ends while bytes of it are left to be read, who polls to write is never
// told (vsock_poll, in net/vmw_vsock/af_vsock.c, looks at the state, which stays that of a connection; seen with Linux
// 6.1, one death of forty), though who tries to write is. So the end of reading makes whoever waits try again, by a
// deadline that is over; what the caller has set as a deadline is kept here meanwhile.
type vsockConn struct {
	*vsock.Conn
	writing sync.Mutex // makes a Write one piece, though it tries twice
	ended   sync.Once

	mu       sync.Mutex
	deadline time.Time // of writes, the caller's
	again    bool      // the deadline that is set is not the caller's, but for whoever writes to try again
}

func newVsockConn(c *vsock.Conn) *vsockConn {
	setBuffer(c)
	return &vsockConn{Conn: c}
}

// Read reads; the first one at the end, or that fails, lets a waiting Write look at the connection again.
func (c *vsockConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.ended.Do(func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.again = true
			c.Conn.SetWriteDeadline(time.Unix(1, 0))
		})
	}
	return n, err
}

func (c *vsockConn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	done := 0
	for {
		n, err := c.Conn.Write(p[done:])
		done += n
		if !errors.Is(err, os.ErrDeadlineExceeded) || !c.retry() {
			return done, err
		}
	}
}

// retry reports whether a Write that was interrupted was not so by the caller's deadline, and puts that back.
func (c *vsockConn) retry() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	again := c.again
	if again {
		c.again = false
		c.Conn.SetWriteDeadline(c.deadline)
	}
	return again
}

// SetWriteDeadline implements net.Conn.
func (c *vsockConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	if c.again {
		return nil // whoever writes sets it, after it has tried again
	}
	return c.Conn.SetWriteDeadline(t)
}

// SetDeadline implements net.Conn.
func (c *vsockConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}
