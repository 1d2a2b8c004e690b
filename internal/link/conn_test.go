package link_test

import (
	"crypto/tls"
	"net"
	"path/filepath"
	"testing"

	"github.com/virtswarm/virtswarm/internal/link"
	"github.com/virtswarm/virtswarm/internal/link/linktest"
	"github.com/virtswarm/virtswarm/internal/pki"
)

// TestConns checks every kind of connection; a new one joins with a line.
func TestConns(t *testing.T) {
	memory := func(t testing.TB) (net.Conn, net.Conn) { return pair(t, linktest.NewMemory(), "tcp://here:1") }
	tcp := func(t testing.TB) (net.Conn, net.Conn) { return pair(t, link.OS, "tcp://127.0.0.1:0") }
	unix := func(t testing.TB) (net.Conn, net.Conn) {
		return pair(t, link.OS, "unix://"+filepath.Join(t.TempDir(), "s"))
	}
	for name, kind := range map[string]linktest.Kind{
		"memory":     {Pair: memory, Bubble: true},
		"memory+tls": {Pair: withTLS(memory), Bubble: true, Sealed: true},
		"tcp":        {Pair: tcp, Kill: reset},
		"tcp+tls":    {Pair: withTLS(tcp), Kill: reset, Sealed: true},
		"unix":       {Pair: unix},
		"unix+tls":   {Pair: withTLS(unix), Sealed: true},
		// The guest calls, and is called; TLS goes through as well.
		"hybrid-listen":   {Pair: guestCalls},
		"hybrid-dial":     {Pair: hostCalls},
		"hybrid-dial+tls": {Pair: withTLS(hostCalls), Sealed: true},
		"shm-guest":       {Pair: shm},
		"shm-host":        {Pair: otherWay(shm)},
		"shm+tls":         {Pair: withTLS(shm), Sealed: true},
	} {
		t.Run(name, func(t *testing.T) {
			if !kind.Bubble {
				t.Parallel()
			}
			linktest.Conn(t, kind)
		})
	}
}

// pair returns the two ends of a connection over a network.
func pair(t testing.TB, n link.Network, url string) (a, b net.Conn) {
	t.Helper()
	l, err := n.Listen(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err = n.Dial(t.Context(), l.Addr().Network()+"://"+l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// withTLS puts TLS, as between hosts, over the connections of pair.
func withTLS(pair func(testing.TB) (net.Conn, net.Conn)) func(testing.TB) (net.Conn, net.Conn) {
	return func(t testing.TB) (net.Conn, net.Conn) {
		t.Helper()
		id, err := pki.Init(nil, t.TempDir(), "one")
		if err != nil {
			t.Fatal(err)
		}
		a, b := pair(t)
		underA, underB := &link.Buffered{Conn: a}, &link.Buffered{Conn: b}
		client, server := tls.Client(underA, id.ClientConfig(id.HostID(), nil)), tls.Server(underB, id.ServerConfig(nil))
		done := make(chan error, 1)
		go func() { done <- server.HandshakeContext(t.Context()) }()
		if err := client.HandshakeContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		return link.Secure(client, underA), link.Secure(server, underB)
	}
}

// reset makes a connection end as by a crash.
func reset(c net.Conn) {
	link.Under(c).(*net.TCPConn).SetLinger(0)
	c.Close()
}
