package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/virtswarm/virtswarm/internal/pki"
)

// DefaultTimeout is how long a Dialer takes to connect and to agree, and a Mux to agree. A loaded host on a link with
// losses needs a few seconds at worst.
const DefaultTimeout = 10 * time.Second

// A Dialer calls hosts of a cluster. It is safe for concurrent use.
type Dialer struct {
	Network  Network // nil means OS
	Identity *pki.Identity
	Allow    pki.Allow     // asked about the host that answers; nil allows every host of the cluster
	Timeout  time.Duration // for connecting and the handshake together; 0 means DefaultTimeout
	Live     *Live         // lists the connections; may be nil
}

// Dial connects to the host expect ("" for any member) at a URL or host:port and agrees on the protocol. Errors name
// the address; they are (errors.Is) those of package pki, ErrRefused, ErrNoProtocol, or of package net.
//
// That the other side refuses this host, its first Read tells: by an error that is ErrRefused.
func (d *Dialer) Dial(ctx context.Context, addr, proto, expect string) (net.Conn, error) {
	conn, err := dial(ctx, d.Network, addr, proto, d.Timeout, d.Identity.ClientConfig(expect, d.Allow))
	if err != nil {
		return nil, err
	}
	d.Live.add(conn)
	return conn, nil
}

// DialJoin connects to a cluster that this host is no member of, for ProtoJoin. The token says which cluster it must
// be; pki.ErrPinMismatch if it is another. A nil network means OS.
func DialJoin(ctx context.Context, n Network, addr string, token pki.Token) (net.Conn, error) {
	conn, err := dial(ctx, n, addr, ProtoJoin, 0, pki.JoinClientConfig(token))
	if err != nil {
		return nil, err
	}
	return conn, nil
}

func dial(ctx context.Context, n Network, addr, proto string, timeout time.Duration, config *tls.Config) (*secured, error) {
	if n == nil {
		n = OS
	}
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	raw, err := n.Dial(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", addr, err)
	}
	under := &buffered{Conn: raw}
	config.NextProtos = []string{proto}
	c := tls.Client(under, config)
	if err := c.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("call %s: %w", addr, explain(err))
	}
	if err := pki.CheckTime(c.ConnectionState(), time.Now()); err != nil {
		raw.Close()
		return nil, fmt.Errorf("call %s: %w", addr, err)
	}
	// A server that knows nothing of ALPN agrees to anything by saying nothing.
	if got := c.ConnectionState().NegotiatedProtocol; got != proto {
		raw.Close()
		return nil, fmt.Errorf("call %s: %w: %s", addr, ErrNoProtocol, proto)
	}
	return secure(c, under), nil
}

// explain adds what an alert of the other side means here.
func explain(err error) error {
	var op *net.OpError
	switch {
	case refused(err):
		return fmt.Errorf("%w: %w", ErrRefused, err)
	case errors.As(err, &op) && op.Op == "remote error" && op.Err != nil && op.Err.Error() == "tls: no application protocol":
		return fmt.Errorf("%w: %w", ErrNoProtocol, err)
	}
	return err
}

// Refused reports whether an error of a connection of a Dialer means that the other side has refused this host's
// certificate.
func Refused(err error) bool { return errors.Is(err, ErrRefused) || refused(err) }
