package swarm

import (
	"context"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/wire"
)

// lobby answers a peer for whom there is no room: it has nothing, but knows who fetches the same.
type lobby struct {
	*link
	told chan<- struct{} // hears, once, that the peer was told
}

// Open implements wire.Handler.
func (l lobby) Open(_ context.Context, _ *wire.Session, id content.Digest, fetching bool) (content.Bits, []wire.PeerID, error) {
	f, ok := l.swarm.store.Get(id)
	if !ok {
		return content.Bits{}, nil, wire.ErrNotFound
	}
	var known []wire.PeerID
	if fetching {
		known = ids(l.swarm.server.introduce(id, l.peer))
		l.swarm.came(id, l.peer)
	}
	select {
	case l.told <- struct{}{}:
	default:
	}
	return content.NewBits(f.Manifest().Chunks()), known, nil
}

// Closed implements wire.Handler.
func (l lobby) Closed(*wire.Session, content.Digest) {}

// Pull implements wire.Handler.
func (l lobby) Pull(p *wire.Pull) { p.Reject(wire.ErrBusy) }

// Withdrawn implements wire.Handler.
func (l lobby) Withdrawn(*wire.Pull) {}

// Have implements wire.Handler.
func (l lobby) Have(*wire.Session, content.Digest, []int) {}

// Peers implements wire.Handler.
func (l lobby) Peers(*wire.Session, content.Digest, []wire.PeerID) {}
