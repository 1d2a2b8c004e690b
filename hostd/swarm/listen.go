package swarm

import (
	"context"
	"fmt"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/wire"
)

// hearing is a file that this host follows at a peer: for a job, to fetch from it, for the uplink, to know what it was
// given, or for both. It is guarded by the link's lock.
type hearing struct {
	users    int
	fetching bool          // the peer was told that this host fetches the file
	ready    chan struct{} // closed when the peer has answered
	err      error
	have     content.Bits // what it is known to have
	peers    []wire.PeerID
}

// listen follows a file at the peer, to fetch it or only to hear of it, until unlisten. It returns what the peer has
// and whom else it knows; what it gets from then on, and maybe some of it before, goes to the job and the uplink.
func (l *link) listen(ctx context.Context, id content.Digest, chunks int, fetching bool) (content.Bits, []wire.PeerID, error) {
	l.mu.Lock()
	h := l.hearings[id]
	if h == nil || fetching && !h.fetching {
		if !l.swarm.enter() {
			l.mu.Unlock()
			return content.Bits{}, nil, ErrClosed
		}
		before := h
		h = &hearing{ready: make(chan struct{}), have: content.NewBits(chunks), fetching: fetching}
		if before != nil {
			h.users = before.users
		}
		l.hearings[id] = h
		go func() {
			defer l.swarm.wg.Done()
			l.open(id, h, before)
		}()
	}
	h.users++
	l.mu.Unlock()
	select {
	case <-h.ready:
	case <-ctx.Done():
		l.unlisten(id)
		return content.Bits{}, nil, ctx.Err()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if h.err != nil {
		return content.Bits{}, nil, h.err
	}
	return h.have.Clone(), h.peers, nil
}

// open asks the peer, for all who listen; anew if it was told before that this host only wants to hear.
func (l *link) open(id content.Digest, h, before *hearing) {
	if before != nil {
		<-before.ready
		l.sess.CloseFile(id) // what comes meanwhile is in the answer
	}
	ctx, cancel := context.WithTimeout(l.swarm.ctx, plan.DialTimeout)
	defer cancel()
	have, peers, err := l.sess.Open(ctx, id, h.have.Len(), h.fetching)
	if before != nil && err == nil {
		l.swarm.server.heard(l, id, indexes(have))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		h.have.Or(have)
		h.peers = peers
	} else {
		h.err = fmt.Errorf("open %s at host %s: %w", id.Short(), l.peer, err)
	}
	if l.hearings[id] == h && (err != nil || h.users == 0) {
		l.unhear(id, h)
	}
	close(h.ready)
}

// unlisten ends what listen began.
func (l *link) unlisten(id content.Digest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.hearings[id]
	if h == nil {
		return // the peer refused
	}
	h.users--
	select {
	case <-h.ready:
		if h.users == 0 {
			l.unhear(id, h)
		}
	default: // open cares for it
	}
}

// unhear closes the file at the peer; l.mu is held.
func (l *link) unhear(id content.Digest, h *hearing) {
	delete(l.hearings, id)
	if h.err == nil {
		l.sess.CloseFile(id)
	}
}

// Have implements wire.Handler. It hands over to the job's loop, which never waits for a peer, and to the uplink.
func (l *link) Have(_ *wire.Session, id content.Digest, chunks []int) {
	l.mu.Lock()
	h := l.hearings[id]
	if h == nil {
		l.mu.Unlock()
		return
	}
	for _, i := range chunks {
		h.have.Set(i)
	}
	l.mu.Unlock()
	l.swarm.server.heard(l, id, chunks)
	if j := l.swarm.running(id); j != nil {
		j.post(has{l, chunks})
	}
}

// Peers implements wire.Handler.
func (l *link) Peers(_ *wire.Session, id content.Digest, peers []wire.PeerID) {
	if j := l.swarm.running(id); j != nil {
		j.post(met{peers})
	}
}

// indexes lists a set.
func indexes(set content.Bits) (all []int) {
	for i, ok := set.NextSet(0); ok; i, ok = set.NextSet(i + 1) {
		all = append(all, i)
	}
	return all
}
