package link

import (
	"context"
	"net"
	"time"

	"github.com/virtswarm/virtswarm/internal/pki"
)

// A Dialer calls hosts of a cluster. It is safe for concurrent use.
type Dialer struct {
	Network  Network // nil means OS
	Identity *pki.Identity
	Allow    pki.Allow     // asked about the host that answers; nil allows every host of the cluster
	Timeout  time.Duration // for connecting and the handshake together; 0 means DefaultTimeout
}

// Dial connects to the host expect ("" for any member) at a URL or host:port and agrees on the protocol. Errors name
// the address; they are (errors.Is) those of package pki, ErrNoProtocol, or of package net.
func (d *Dialer) Dial(ctx context.Context, addr, proto, expect string) (net.Conn, error) {
	panic("todo")
}

// DialJoin connects to a cluster that this host is no member of, for ProtoJoin. The token says which cluster it must
// be; pki.ErrPinMismatch if it is another.
func DialJoin(ctx context.Context, n Network, addr string, token pki.Token) (net.Conn, error) {
	panic("todo")
}

// Refused reports whether an error that a connection of a Dialer returned means that the other side has refused this
// host's certificate. In TLS 1.3 the caller learns it after its own handshake, with the first Read.
func Refused(err error) bool { panic("todo") }
