package link

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"github.com/virtswarm/virtswarm/internal/pki"
)

// recordsAtOnce is how many bytes TLS may write before they go to the socket in one system call: two full records of
// 16 KiB and their 22 bytes of framing. One record at a time, as TLS does it by itself, costs an eighth more processor
// time; with more at a time, or a buffer for reading too, the other side waits longer and data leave the caches: bytes
// per second fall by a quarter (BenchmarkBulk, two processors).
const recordsAtOnce = 2 * (16<<10 + 22)

// secured is TLS over a buffered connection. It is what a Mux and a Dialer return. It shows nothing of a tls.Conn,
// above all no ConnectionState: net/http would take it for a connection on which it must not look for HTTP/2 itself.
type secured struct {
	net.Conn // a *tls.Conn
	under    *buffered
	peer     string // host id, empty if the other side showed no certificate
	wakes    wakes
	live     *Live // where it is listed; nil: nowhere
}

// secure is called when the handshake is done.
func secure(c *tls.Conn, under *buffered) *secured {
	s := &secured{Conn: c, under: under}
	s.wakes.of(under.Conn)
	if certs := c.ConnectionState().PeerCertificates; len(certs) > 0 {
		s.peer = pki.HostIDOf(certs[0])
	}
	under.gather.Store(true)
	return s
}

// Peer returns the id of the host at the other end.
func (c *secured) Peer() (hostID string, ok bool) { return c.peer, c.peer != "" }

// Write sends all of p before it returns.
func (c *secured) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil {
		return n, err
	}
	if err := c.under.Flush(); err != nil {
		return 0, err // how much of p has gone out cannot be told
	}
	return n, nil
}

// WriteMore is Write for bytes behind which more is written at once: they may wait for the next Write.
func (c *secured) WriteMore(p []byte) (int, error) { return c.Conn.Write(p) }

// ExpectRead says that n more bytes are certain to come, or the end: a Read that waits need not return before as many
// of them are here as the kernel likes to keep. It is for the goroutine that reads.
func (c *secured) ExpectRead(n int) { c.wakes.expect(n - tlsAhead) }

// Read reads what the other side wrote. In TLS 1.3 it is the first Read that says if the other side refuses this host's
// certificate: the caller's handshake is over before.
func (c *secured) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && refused(err) {
		err = fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return n, err
}

// CloseWrite ends this direction; the other side reads io.EOF behind what was written.
func (c *secured) CloseWrite() error {
	c.under.gather.Store(false) // TLS allows no flush behind its last record
	return c.Conn.(*tls.Conn).CloseWrite()
}

// Close says so to the other side unless a Write is stuck, and closes.
func (c *secured) Close() error {
	c.under.gather.Store(false)
	c.live.remove(c)
	return c.Conn.Close()
}

// refused reports whether err is the alert by which the other side turns down a certificate. Package tls has no type
// for it outside QUIC.
func refused(err error) bool {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" || op.Err == nil {
		return false
	}
	switch op.Err.Error() {
	case "tls: bad certificate", "tls: unknown certificate authority", "tls: certificate required",
		"tls: expired certificate", "tls: unknown certificate", "tls: revoked certificate":
		return true
	}
	return false
}

// buffered is the connection under TLS. While gather is set, what is written waits for more, or for Flush; in the
// handshake and at the end, of which TLS alone knows, it does not.
type buffered struct {
	net.Conn
	gather atomic.Bool

	mu  sync.Mutex
	w   []byte
	err error // what a write failed with: bytes are lost, so nothing may follow
}

func (b *buffered) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.w = append(b.w, p...)
	if len(b.w) >= recordsAtOnce || !b.gather.Load() {
		b.flush()
	}
	return len(p), b.err
}

// Flush sends what Write has kept.
func (b *buffered) Flush() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.flush()
}

func (b *buffered) flush() error {
	if b.err == nil && len(b.w) > 0 {
		_, b.err = b.Conn.Write(b.w)
		b.w = b.w[:0]
	}
	return b.err
}
