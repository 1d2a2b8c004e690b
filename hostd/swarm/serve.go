package swarm

import (
	"context"
	"time"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/wire"
)

// Manifest implements wire.Handler.
func (l *link) Manifest(_ context.Context, _ *wire.Session, id content.Digest) ([]byte, error) {
	f, ok := l.swarm.store.Get(id)
	if !ok {
		return nil, wire.ErrNotFound
	}
	return f.Manifest().Encode(), nil
}

// Open implements wire.Handler: the peer follows a file. If it fetches it, it meets the others who do, and they meet
// it.
func (l *link) Open(_ context.Context, _ *wire.Session, id content.Digest, fetching bool) (content.Bits, []wire.PeerID, error) {
	s := l.swarm
	f, ok := s.store.Get(id)
	if !ok {
		return content.Bits{}, nil, wire.ErrNotFound
	}
	// A follower first, then the snapshot: what is stored in between is told twice rather than not at all.
	known, welcome := s.server.open(l, id, fetching, s.peers.spare(l))
	if !welcome {
		l.turnAway(id)
		return content.NewBits(f.Manifest().Chunks()), ids(known), nil
	}
	if fetching {
		s.came(id, l.peer)
	}
	s.metrics.followers.Inc()
	s.peers.retain(l)
	return f.Have(), ids(known), nil
}

// came tells the job of a file, if there is one, that a peer fetches it as well.
func (s *Swarm) came(id content.Digest, peer wire.PeerID) {
	if j := s.running(id); j != nil {
		j.post(came{peer})
	}
}

// turnAway ends the session soon, unless it has come to be used: its peer has been told of others.
func (l *link) turnAway(id content.Digest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unwelcome == nil {
		l.unwelcome = map[content.Digest]bool{}
	}
	l.unwelcome[id] = true
	s := l.swarm
	time.AfterFunc(plan.LobbyGrace, func() {
		if s.peers.spare(l) {
			l.sess.Goodbye(wire.CodeBusy, "too many followers")
		}
	})
}

// wasWelcome says whether a file that the peer has closed was open for it.
func (l *link) wasWelcome(id content.Digest) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	turned := l.unwelcome[id]
	delete(l.unwelcome, id)
	return !turned
}

// Closed implements wire.Handler.
func (l *link) Closed(_ *wire.Session, id content.Digest) {
	if !l.wasWelcome(id) {
		return
	}
	l.swarm.server.closed(l, id)
	l.swarm.metrics.followers.Dec()
	l.swarm.peers.release(l)
}

// Pull implements wire.Handler.
func (l *link) Pull(p *wire.Pull) { l.swarm.server.push(l, p) }

// Withdrawn implements wire.Handler.
func (l *link) Withdrawn(p *wire.Pull) { l.swarm.server.withdraw(p) }

// read reads a chunk for the peer. Whatever keeps this host from reading it, it does not hold it.
func (l *link) read(w *plan.Pull, buf []byte) ([]byte, error) {
	s := l.swarm
	f, ok := s.store.Get(w.File)
	if !ok {
		return nil, wire.ErrNotFound
	}
	p, err := buf, error(nil)
	if !s.hot.read(chunkKey{w.File, w.Chunk}, buf) {
		p, err = f.ReadChunk(w.Chunk, buf)
	}
	if err != nil {
		s.metrics.failures.Inc()
		s.log.Warn("cannot give a chunk", "file", w.File.Short(), "chunk", w.Chunk, "host", l.peer, "error", err)
		return nil, wire.ErrNotHeld
	}
	s.metrics.chunksOut.Inc()
	s.metrics.bytesOut.Add(float64(len(p)))
	return p, nil
}
