package hostd

import (
	"context"
	"fmt"
	"net"
	"sync"

	"github.com/virtswarm/virtswarm/hostd/swarm"
	"github.com/virtswarm/virtswarm/internal/api"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/link"
	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/raft"
)

// peers calls other hosts. It keeps one API client a host and address, and is safe for concurrent use.
type peers struct {
	dialer  *link.Dialer
	address func(placement.HostID) (string, error)

	mu      sync.Mutex
	clients map[peerKey]*api.Client
}

type peerKey struct {
	host placement.HostID
	addr string
}

func newPeers(dialer *link.Dialer, address func(placement.HostID) (string, error)) *peers {
	return &peers{dialer: dialer, address: address, clients: map[peerKey]*api.Client{}}
}

// client returns the API client of a host at an address.
func (p *peers) client(host placement.HostID, addr string) *api.Client {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := peerKey{host, addr}
	c := p.clients[key]
	if c == nil {
		c = api.NewClient(func(ctx context.Context) (net.Conn, error) {
			return p.dialer.Dial(ctx, addr, link.ProtoHTTP2, string(host))
		})
		p.clients[key] = c
	}
	return c
}

// Forward implements raft.Forwarder.
func (p *peers) Forward(ctx context.Context, host placement.HostID, addr, op string, payload []byte) ([]byte, error) {
	r, err := p.client(host, addr).Cluster.Forward(ctx, &v1.ForwardRequest{Op: op, Payload: payload})
	if err != nil {
		return nil, fmt.Errorf("forward %s to host %s at %s: %w", op, host, addr, err)
	}
	return r.GetResult(), nil
}

// progress asks a host what it holds of a content at this moment.
func (p *peers) progress(ctx context.Context, host placement.HostID, id content.Digest) (*v1.ProgressResponse, error) {
	addr, err := p.address(host)
	if err != nil {
		return nil, err
	}
	r, err := p.client(host, addr).Cluster.Progress(ctx, &v1.ProgressRequest{Id: id.String()})
	if err != nil {
		return nil, fmt.Errorf("ask host %s at %s: %w", host, addr, err)
	}
	return r, nil
}

// report asks a host how it is doing.
func (p *peers) report(ctx context.Context, host placement.Host, rates bool) (*v1.HostReport, error) {
	if !host.State.Serves() {
		return nil, fmt.Errorf("the host is %s", host.State)
	}
	return p.client(host.ID, host.Addr).Cluster.Report(ctx, &v1.ReportRequest{Peers: rates})
}

func (p *peers) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.clients {
		c.Close()
	}
	clear(p.clients)
}

// wireDialer opens wire connections for the swarm.
type wireDialer struct{ peers *peers }

// Dial implements swarm.Dialer.
func (d wireDialer) Dial(ctx context.Context, host placement.HostID) (net.Conn, error) {
	addr, err := d.peers.address(host)
	if err != nil {
		return nil, err
	}
	return d.peers.dialer.Dial(ctx, addr, link.ProtoWire, string(host))
}

// raftStream carries Raft.
type raftStream struct {
	net.Listener
	dialer *link.Dialer
}

// Dial implements raft.Stream.
func (s raftStream) Dial(ctx context.Context, addr string, host placement.HostID) (net.Conn, error) {
	return s.dialer.Dial(ctx, addr, link.ProtoRaft, string(host))
}

// directory tells the swarm who should hold a file.
type directory struct{ node *raft.Node }

// Holders implements swarm.Directory.
func (d directory) Holders(file content.Digest) []placement.HostID {
	var hosts []placement.HostID
	d.node.View(func(s *placement.State) {
		for _, holder := range s.Holders(file) {
			if h, ok := s.Host(holder.Host); ok && h.State.Serves() {
				hosts = append(hosts, h.ID)
			}
		}
	})
	return hosts
}

// Place implements swarm.Directory: labels rack and zone.
func (d directory) Place(host placement.HostID) (p swarm.Place) {
	d.node.View(func(s *placement.State) {
		if h, ok := s.Host(host); ok {
			p = swarm.Place{Zone: h.Labels["zone"], Rack: h.Labels["rack"]}
		}
	})
	return p
}

// address is where a host is reached, as the catalogue has it.
func (h *Host) address(host placement.HostID) (string, error) {
	var found placement.Host
	var ok bool
	h.node.View(func(s *placement.State) { found, ok = s.Host(host) })
	if !ok {
		return "", fmt.Errorf("host %s: %w", host, placement.ErrNoHost)
	}
	return found.Addr, nil
}

// serveWire hands incoming wire connections to the swarm until ctx ends.
func (h *Host) serveWire(ctx context.Context) error {
	var serving sync.WaitGroup
	defer serving.Wait()
	stop := context.AfterFunc(ctx, func() { h.wire.Close() })
	defer stop()
	for {
		conn, err := h.wire.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept a peer: %w", err)
		}
		peer, ok := link.PeerOf(conn)
		if !ok { // the port lets nobody in without a certificate
			conn.Close()
			continue
		}
		serving.Go(func() {
			if err := h.swarm.Serve(ctx, conn, placement.HostID(peer)); err != nil && ctx.Err() == nil {
				h.log.Debug("a peer's session ended", "peer", peer, "error", err)
			}
		})
	}
}
