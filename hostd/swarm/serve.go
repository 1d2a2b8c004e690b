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
	files map[content.Digest]map[*link]bool // whether it fetches the file, too
}

// add makes l a follower.
func (f *followers) add(file content.Digest, l *link, fetching bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.files == nil {
		f.files = map[content.Digest]map[*link]bool{}
	}
	set := f.files[file]
	if set == nil {
		set = map[*link]bool{}
		f.files[file] = set
	}
	set[l] = fetching
}

// fetching returns the followers who fetch a file, but for one.
func (f *followers) fetching(file content.Digest, but wire.PeerID) (others []*link) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for l, fetches := range f.files[file] {
		if fetches && l.peer != but {
			others = append(others, l)
		}
	}
	return others
}

// anyFetching says whether a follower fetches a file.
func (f *followers) anyFetching(file content.Digest) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, fetches := range f.files[file] {
		if fetches {
			return true
		}
	}
	return false
}

func (f *followers) remove(file content.Digest, l *link) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.files[file], l)
	if len(f.files[file]) == 0 {
		delete(f.files, file)
	}
}

// tell announces chunks to every follower of a file, soon to those who wait for news. It does not wait for them.
func (f *followers) tell(file content.Digest, chunks []int, news bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for l, fetching := range f.files[file] {
		if news && fetching {
			l.sess.SendHave(file, chunks...) // fails only if the session or its interest has just ended
		} else {
			l.sess.SendHaveLater(file, chunks...)
		}
	}
}

// announce tells followers and drawers that chunks of a file are here now. They are news if no fellow of theirs gave them.
func (s *Swarm) announce(file content.Digest, chunks []int, news bool) {
	if len(chunks) > 0 {
		s.followers.tell(file, chunks, news)
		s.uplink.held(file, chunks)
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

// Open implements wire.Handler: the peer follows a file. If it fetches it, it meets the others who do, and they meet it.
func (l *link) Open(_ context.Context, _ *wire.Session, id content.Digest, fetching bool) (content.Bits, []wire.PeerID, error) {
	s := l.swarm
	f, ok := s.store.Get(id)
	if !ok {
		return content.Bits{}, nil, wire.ErrNotFound
	}
	// A follower first, then the snapshot: what is stored in between is told twice rather than not at all.
	s.followers.add(id, l, fetching)
	s.metrics.followers.Inc()
	s.peers.use(l, 1)
	have := f.Have()
	if !fetching {
		return have, nil, nil
	}
	return have, s.introduce(id, l.peer), nil
}

// introduce makes a peer that fetches a file known to the others who do, and to this host's job, and returns them.
func (s *Swarm) introduce(id content.Digest, peer wire.PeerID) (known []wire.PeerID) {
	for _, o := range s.followers.fetching(id, peer) {
		if len(known) < wire.MaxPeers {
			known = append(known, o.peer)
		}
		o.sess.SendPeers(id, []wire.PeerID{peer}) // fails only if the other has just left
	}
	if j := s.running(id); j != nil {
		j.post(came{peer})
	}
	return known
}

// Closed implements wire.Handler.
func (l *link) Closed(_ *wire.Session, id content.Digest) {
	l.swarm.uplink.left(l, id)
	l.swarm.followers.remove(id, l)
	l.swarm.metrics.followers.Dec()
	l.swarm.peers.use(l, -1)
}

// Pull implements wire.Handler.
func (l *link) Pull(p *wire.Pull) { l.swarm.uplink.push(l, p) }

// Withdrawn implements wire.Handler.
func (l *link) Withdrawn(p *wire.Pull) { l.swarm.uplink.withdraw(p) }

// read reads a chunk for the peer. Whatever keeps this host from reading it, it does not hold it.
func (l *link) read(w *wish, buf []byte) ([]byte, error) {
	s := l.swarm
	f, ok := s.store.Get(w.pull.File)
	if !ok {
		return nil, wire.ErrNotFound
	}
	p, err := buf, error(nil)
	if !s.hot.read(chunkKey{w.pull.File, w.index}, buf) {
		p, err = f.ReadChunk(w.index, buf)
	}
	if err != nil {
		s.metrics.failures.Inc()
		s.log.Warn("cannot give a chunk", "file", w.pull.File.Short(), "chunk", w.index, "host", l.peer, "error", err)
		return nil, wire.ErrNotHeld
	}
	s.metrics.chunksOut.Inc()
	s.metrics.bytesOut.Add(float64(len(p)))
	return p, nil
}
