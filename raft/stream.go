package raft

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	hraft "github.com/hashicorp/raft"

	"github.com/virtswarm/virtswarm/placement"
)

// Raft knows a host by an address "<host id>@<host:port>": unique even when a host takes over the address of
// another, and good enough to find the others when the whole cluster restarts and no catalogue is there yet.

func serverAddress(id placement.HostID, addr string) hraft.ServerAddress {
	return hraft.ServerAddress(string(id) + "@" + addr)
}

func splitAddress(a hraft.ServerAddress) (placement.HostID, string) {
	id, addr, _ := strings.Cut(string(a), "@")
	return placement.HostID(id), addr
}

// byID makes hashicorp/raft ask for a host and not for an address: raft.ServerAddressProvider. Which addresses the
// host may have is for Dial to find out.
type byID struct{}

func (byID) ServerAddr(id hraft.ServerID) (hraft.ServerAddress, error) {
	return serverAddress(placement.HostID(id), ""), nil
}

// streamLayer adapts a Stream to raft.StreamLayer. It keeps track of connections, as hashicorp's transport closes
// none that it accepted.
type streamLayer struct {
	stream    Stream
	local     hraft.ServerAddress
	addresses func(placement.HostID) []string // where a host may be, the likeliest first
	heard     func(placement.HostID, error)   // told of every success (nil) and failure to speak to a host
	greet     func(net.Conn, placement.HostID) (hello, error)
	welcome   func(net.Conn) (hello, error)

	// called is the end of a connection to this host itself that Accept hands out first; Dial hands out the other, calling.
	called, calling net.Conn

	ctx    context.Context
	cancel context.CancelFunc
	mu     sync.Mutex
	conns  map[*trackedConn]struct{} // nil once closed
}

func newStreamLayer(n *Node) *streamLayer {
	ctx, cancel := context.WithCancel(context.Background())
	called, calling := net.Pipe()
	return &streamLayer{
		called: called, calling: calling, stream: n.cfg.Stream, local: serverAddress(n.cfg.ID, n.cfg.Advertise), addresses: n.addresses, heard: n.heard, greet: n.greet,
		welcome: n.welcome, ctx: ctx, cancel: cancel, conns: map[*trackedConn]struct{}{},
	}
}

// Accept implements net.Listener.
func (s *streamLayer) Accept() (net.Conn, error) {
	if conn := s.called; conn != nil {
		s.called = nil // Accept is called by one goroutine
		return conn, nil
	}
	conn, err := s.stream.Accept()
	if err != nil {
		return nil, err
	}
	return s.track(conn, "", hello{})
}

// Dial implements raft.StreamLayer; it tries the host's addresses in turn.
func (s *streamLayer) Dial(address hraft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	host, _ := splitAddress(address)
	if self, _ := splitAddress(s.local); host == self {
		return s.calling, nil
	}
	err := fmt.Errorf("dial host %s: no address is known", host)
	for _, addr := range s.addresses(host) {
		ctx, cancel := context.WithTimeout(s.ctx, min(timeout, dialTimeout))
		var conn net.Conn
		conn, err = s.stream.Dial(ctx, addr, host)
		cancel()
		if err == nil {
			var peer hello
			if peer, err = s.greet(conn, host); err == nil {
				s.heard(host, nil)
				return s.track(conn, host, peer)
			}
			_ = conn.Close()
		}
		s.heard(host, err)
	}
	return nil, err
}

// Addr implements net.Listener: what the others shall know this host by.
func (s *streamLayer) Addr() net.Addr { return raftAddr(s.local) }

type raftAddr string

func (a raftAddr) Network() string { return "raft" }
func (a raftAddr) String() string  { return string(a) }

// Close stops accepting, and closes every connection.
func (s *streamLayer) Close() error {
	s.cancel()
	s.mu.Lock()
	conns := s.conns
	s.conns = nil
	s.mu.Unlock()
	if conns == nil {
		return nil // closed before
	}
	err := errors.Join(s.calling.Close(), s.stream.Close())
	for c := range conns {
		_ = c.Conn.Close()
	}
	return err
}

// requalify closes the connections to hosts of another lineage than this host now has: they have to greet again.
func (s *streamLayer) requalify(lineage string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if c.greeted && c.lineage != lineage {
			_ = c.Conn.Close()
		}
	}
}

func (s *streamLayer) track(conn net.Conn, host placement.HostID, peer hello) (net.Conn, error) {
	c := &trackedConn{Conn: conn, layer: s, host: host}
	if host != "" {
		c.greeted, c.lineage = true, peer.lineage()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	s.conns[c] = struct{}{}
	return c, nil
}

// trackedConn reports how it goes with the host that was dialled. One that was accepted is greeted at its first Read,
// in the goroutine that will serve it.
type trackedConn struct {
	net.Conn
	layer *streamLayer
	host  placement.HostID // "" if accepted

	// guarded by layer.mu
	greeted bool
	lineage string // the peer's, when it greeted
}

func (c *trackedConn) Read(p []byte) (int, error) {
	if c.host == "" && !c.isGreeted() { // one goroutine reads
		peer, err := c.layer.welcome(c.Conn)
		if err != nil {
			return 0, err
		}
		c.layer.mu.Lock()
		c.greeted, c.lineage = true, peer.lineage()
		c.layer.mu.Unlock()
	}
	n, err := c.Conn.Read(p)
	if c.host != "" && n == 0 && err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		c.layer.heard(c.host, err)
	}
	return n, err
}

func (c *trackedConn) isGreeted() bool {
	c.layer.mu.Lock()
	defer c.layer.mu.Unlock()
	return c.greeted
}

func (c *trackedConn) Close() error {
	c.layer.mu.Lock()
	delete(c.layer.conns, c)
	c.layer.mu.Unlock()
	return c.Conn.Close()
}
