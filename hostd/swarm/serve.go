package swarm

import (
	"context"
	"sync"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/wire"
)

// followers are the links whose peers have opened files here and hear of new chunks. It is safe for concurrent use.
type followers struct {
	mu    sync.Mutex
	files map[content.Digest]map[*link]struct{}
}

// add makes l a follower and returns the others.
func (f *followers) add(file content.Digest, l *link) []*link {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.files == nil {
		f.files = map[content.Digest]map[*link]struct{}{}
	}
	set := f.files[file]
	if set == nil {
		set = map[*link]struct{}{}
		f.files[file] = set
	}
	others := make([]*link, 0, len(set))
	for o := range set {
		if o.peer != l.peer {
			others = append(others, o)
		}
	}
	set[l] = struct{}{}
	return others
}

func (f *followers) remove(file content.Digest, l *link) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.files[file], l)
	if len(f.files[file]) == 0 {
		delete(f.files, file)
	}
}

// tell announces chunks to every follower of a file. It does not wait for them.
func (f *followers) tell(file content.Digest, chunks []int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for l := range f.files[file] {
		l.sess.SendHave(file, chunks...) // fails only if the session or its interest has just ended
	}
}

// Manifest implements wire.Handler.
func (l *link) Manifest(_ context.Context, _ *wire.Session, id content.Digest) ([]byte, error) {
	f, ok := l.swarm.store.Get(id)
	if !ok {
		return nil, wire.ErrNotFound
	}
	return f.Manifest().Encode(), nil
}

// Open implements wire.Handler: the peer follows a file, meets its other followers, and they meet it.
func (l *link) Open(_ context.Context, _ *wire.Session, id content.Digest) (content.Bits, []wire.PeerID, error) {
	s := l.swarm
	f, ok := s.store.Get(id)
	if !ok {
		return content.Bits{}, nil, wire.ErrNotFound
	}
	// A follower first, then the snapshot: what is stored in between is told twice rather than not at all.
	others := s.followers.add(id, l)
	s.metrics.followers.Inc()
	s.peers.use(l, 1)
	have := f.Have()

	known := make([]wire.PeerID, 0, min(len(others), wire.MaxPeers))
	for _, o := range others {
		if len(known) < wire.MaxPeers {
			known = append(known, o.peer)
		}
		o.sess.SendPeers(id, []wire.PeerID{l.peer}) // fails only if the other has just left
	}
	if j := s.running(id); j != nil {
		j.post(met{[]wire.PeerID{l.peer}})
	}
	return have, known, nil
}

// Closed implements wire.Handler.
func (l *link) Closed(_ *wire.Session, id content.Digest) {
	l.swarm.followers.remove(id, l)
	l.swarm.metrics.followers.Dec()
	l.swarm.peers.use(l, -1)
}

// Pull implements wire.Handler.
func (l *link) Pull(p *wire.Pull) {
	if p.Drawn {
		go p.Reject(wire.ErrSpent)
		return
	}
	go func() {
		l.swarm.serving <- struct{}{}
		defer func() { <-l.swarm.serving }()
		p.Send(p.First, p.Length, func(buf []byte) ([]byte, error) { return l.read(p, p.First, buf) })
	}()
}

// Withdrawn implements wire.Handler.
func (l *link) Withdrawn(*wire.Pull) {}

// read reads a chunk for the peer. Whatever keeps this host from reading it, it does not hold it.
func (l *link) read(p *wire.Pull, index int, buf []byte) ([]byte, error) {
	s := l.swarm
	f, ok := s.store.Get(p.File)
	if !ok {
		return nil, wire.ErrNotFound
	}
	data, err := f.ReadChunk(index, buf)
	if err != nil {
		s.metrics.failures.Inc()
		s.log.Warn("cannot give a chunk", "file", p.File.Short(), "chunk", index, "host", l.peer, "error", err)
		return nil, wire.ErrNotHeld
	}
	s.metrics.chunksOut.Inc()
	s.metrics.bytesOut.Add(float64(len(data)))
	return data, nil
}

// Have implements wire.Handler. It hands over to the job's loop, which never waits for a peer.
func (l *link) Have(_ *wire.Session, id content.Digest, chunks []int) {
	if j := l.swarm.running(id); j != nil {
		j.post(has{l, append([]int(nil), chunks...)})
	}
}

// Peers implements wire.Handler.
func (l *link) Peers(_ *wire.Session, id content.Digest, peers []wire.PeerID) {
	if j := l.swarm.running(id); j != nil {
		j.post(met{append([]wire.PeerID(nil), peers...)})
	}
}
