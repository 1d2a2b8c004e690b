package link

import (
	"net"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/virtswarm/virtswarm/internal/pki"
)

// MuxConfig says who may come in at a port, and how many at a time. Limits that are 0 take the default.
type MuxConfig struct {
	Identity *pki.Identity
	Allow    pki.Allow    // asked in each handshake; nil allows every host of the cluster
	Logger   hclog.Logger // nil is silent

	// HandshakeTimeout is the time from accepting a connection to having agreed on a protocol.
	HandshakeTimeout time.Duration
	// MaxHandshakes bounds the handshakes under way. When one more comes, the oldest is given up: an honest one takes
	// milliseconds, so it is most likely one that will never end.
	MaxHandshakes int
	// Backlog bounds the connections that wait for Accept, for each listener; more are closed.
	Backlog int
}

// A Mux splits one listener into one for each protocol. All methods are safe for concurrent use.
type Mux struct{}

// NewMux returns a Mux over ln, which it owns from now on. Nothing is accepted before Serve.
func NewMux(ln net.Listener, c MuxConfig) *Mux { panic("todo") }

// Listen returns the listener for connections that chose one of the protocols. It must be called before Serve; a
// protocol can be taken once. Its connections are not *tls.Conn: to an http.Server they look plain, which therefore
// needs UnencryptedHTTP2 among its Protocols to speak h2. Closing it turns the protocol away, and no more.
func (m *Mux) Listen(protos ...string) net.Listener { panic("todo") }

// Serve accepts until Close, and returns nil after it, or the error that made accepting impossible.
func (m *Mux) Serve() error { panic("todo") }

// Close closes the port, all listeners and the connections that nobody has accepted yet, and waits until Serve is
// about to return. Accepted connections live on.
func (m *Mux) Close() error { panic("todo") }

// Addr returns the address of the port.
func (m *Mux) Addr() net.Addr { panic("todo") }
