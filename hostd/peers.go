package hostd

import (
	"context"
	"fmt"
	"net"
	"sync"

	"github.com/virtswarm/virtswarm/hostd/server"
	"github.com/virtswarm/virtswarm/hostd/swarm"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/link"
	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/raft"
)

// peersBy calls the API of other hosts.
func peersBy(d *link.Dialer) *server.Peers {
	dial := func(proto string) func(ctx context.Context, addr string, host placement.HostID) (net.Conn, error) {
		return func(ctx context.Context, addr string, host placement.HostID) (net.Conn, error) {
			return d.Dial(ctx, addr, proto, string(host))
		}
	}
	return server.NewPeers(dial(link.ProtoHTTP2), dial(link.ProtoJoin))
}

// wireDialer opens wire connections for the swarm.
type wireDialer struct {
	dialer *link.Dialer
	node   *raft.Node
}

// Dial implements swarm.Dialer.
func (d wireDialer) Dial(ctx context.Context, host placement.HostID) (net.Conn, error) {
	var found placement.Host
	var ok bool
	d.node.View(func(s *placement.State) { found, ok = s.Host(host) })
	if !ok {
		return nil, fmt.Errorf("host %s: %w", host, placement.ErrNoHost)
	}
	return d.dialer.Dial(ctx, found.Addr, link.ProtoWire, string(host))
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
