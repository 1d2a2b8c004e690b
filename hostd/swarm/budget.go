package swarm

import (
	"sync"

	"github.com/virtswarm/virtswarm/internal/wire"
)

// budget bounds the bytes in flight of all jobs, in total and from each peer. A part is kept for demand. It is safe for
// concurrent use.
type budget struct {
	total, perPeer int

	mu      sync.Mutex
	used    int
	peers   map[wire.PeerID]int
	waiting map[*job]struct{} // jobs that were refused and want to hear of room
}

func newBudget(total, perPeer int) *budget {
	return &budget{total: total, perPeer: perPeer, peers: map[wire.PeerID]int{}, waiting: map[*job]struct{}{}}
}

// take reserves n bytes from a peer, or says no; the job is then woken when there is room again. Of a peer that owes
// nothing, and while nobody owes anything, one chunk of any size is allowed.
func (b *budget) take(j *job, peer wire.PeerID, n int, prio Priority) bool {
	total, perPeer := b.total, b.perPeer
	if prio < Demand {
		total -= total / DemandReserve
		perPeer -= perPeer / DemandReserve
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used > 0 && b.used+n > total || b.peers[peer] > 0 && b.peers[peer]+n > perPeer {
		b.waiting[j] = struct{}{}
		return false
	}
	b.used += n
	b.peers[peer] += n
	return true
}

// give returns what take reserved.
func (b *budget) give(peer wire.PeerID, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
	if b.peers[peer] -= n; b.peers[peer] == 0 {
		delete(b.peers, peer)
	}
	for j := range b.waiting {
		select {
		case j.room <- struct{}{}:
		default:
		}
	}
	clear(b.waiting)
}

// forget drops a job that has ended.
func (b *budget) forget(j *job) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.waiting, j)
}
