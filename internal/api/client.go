package api

import (
	"context"
	"net"
	"net/http"
	"os"
	"time"

	"connectrpc.com/connect"

	"github.com/virtswarm/virtswarm/internal/api/virtswarm/v1/virtswarmv1connect"
)

const (
	// DefaultSocket is where a daemon listens unless told otherwise.
	DefaultSocket = "/run/virtswarm/virtswarm.sock"
	// SocketVariable is the environment variable that names another socket.
	SocketVariable = "VIRTSWARM_SOCKET"

	// MaxMessage bounds a message of this API in either direction. The largest are a page of names (1000
	// of up to 512 bytes and their facts) and a forwarded report of holdings.
	MaxMessage = 8 << 20

	// A connection that says nothing for pingAfter is asked; without an answer in pingTimeout it is given
	// up. Calls may be quiet for long, so this is how a dead host is noticed.
	pingAfter   = 10 * time.Second
	pingTimeout = 10 * time.Second
)

// SocketPath returns the socket to use: the one asked for, else that of VIRTSWARM_SOCKET, else
// DefaultSocket.
func SocketPath(asked string) string {
	if asked != "" {
		return asked
	}
	if s := os.Getenv(SocketVariable); s != "" {
		return s
	}
	return DefaultSocket
}

// Client speaks to one host. It dials at the first call, shares one HTTP/2 connection among its calls
// and is safe for concurrent use. Errors of its calls are understood by AsError.
type Client struct {
	Control virtswarmv1connect.ControlClient
	Setup   virtswarmv1connect.SetupClient
	Cluster virtswarmv1connect.ClusterClient
	Join    virtswarmv1connect.JoinServiceClient

	transport *http.Transport
}

// NewUnixClient returns a client of the daemon that listens at the socket path.
func NewUnixClient(path string) *Client {
	return NewClient(func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	})
}

// NewClient returns a client over the connections that dial makes. Where TLS is meant, dial has done the
// handshake already and chosen HTTP/2; an *Error that it returns reaches the caller.
func NewClient(dial func(ctx context.Context) (net.Conn, error)) *Client {
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		Protocols:   new(http.Protocols),
		HTTP2:       &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		// The bytes come from local memory or a fast network: gzip would cost more than it saves.
		DisableCompression: true,
	}
	t.Protocols.SetUnencryptedHTTP2(true) // as far as this transport knows

	// The host part is for logs only: dial decides where to.
	const base = "http://virtswarm"
	hc := &http.Client{Transport: t}
	opts := []connect.ClientOption{
		connect.WithReadMaxBytes(MaxMessage),
		connect.WithInterceptors(textCheck{}),
		connect.WithAcceptCompression("gzip", nil, nil),
	}
	return &Client{
		Control:   virtswarmv1connect.NewControlClient(hc, base, opts...),
		Setup:     virtswarmv1connect.NewSetupClient(hc, base, opts...),
		Cluster:   virtswarmv1connect.NewClusterClient(hc, base, opts...),
		Join:      virtswarmv1connect.NewJoinServiceClient(hc, base, opts...),
		transport: t,
	}
}

// Close gives up idle connections. Calls under way go on; their contexts end them.
func (c *Client) Close() { c.transport.CloseIdleConnections() }
