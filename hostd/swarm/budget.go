package swarm

import (
	"maps"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/internal/wire"
)

// budget bounds the bytes in flight of all jobs, in total and from each peer. A part is kept for demand. It is safe for
// concurrent use.
type budget struct {
	total, perPeer int
	throttle       *throttle // of what comes in

	mu      sync.Mutex
	used    int
	peers   map[wire.PeerID]int
	waiting map[*job]struct{} // jobs that were refused and want to hear of room
	alarm   *time.Timer       // rings when the throttle has room
}

func newBudget(total, perPeer int) *budget {
	b := &budget{total: total, perPeer: perPeer, throttle: newThrottle(), peers: map[wire.PeerID]int{}, waiting: map[*job]struct{}{}}
	b.alarm = time.AfterFunc(time.Hour, b.wake)
	b.alarm.Stop()
	return b
}

// take reserves n bytes from a peer, or says no; the job is then woken when there is room again. Of a peer that owes
// nothing, and while nobody owes anything, one chunk of any size is allowed.
func (b *budget) take(j *job, peer wire.PeerID, n int, prio Priority) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.room(j, peer, n, prio) {
		return false
	}
	b.charge(peer, n)
	return true
}

// may says whether take would succeed, for a draw, which reserves nothing. If not, the job is woken as with take.
func (b *budget) may(j *job, peer wire.PeerID, n int, prio Priority) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.room(j, peer, n, prio)
}

// force reserves n bytes for a draw that was granted. There are no more of them than a window has room for.
func (b *budget) force(peer wire.PeerID, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.charge(peer, n)
}

func (b *budget) charge(peer wire.PeerID, n int) {
	b.used += n
	b.peers[peer] += n
	b.throttle.spend(time.Now(), n)
}

func (b *budget) room(j *job, peer wire.PeerID, n int, prio Priority) bool {
	total, perPeer := b.total, b.perPeer
	if prio < Demand {
		if wait := b.throttle.wait(time.Now()); wait > 0 {
			b.waiting[j] = struct{}{}
			b.alarm.Reset(wait)
			return false
		}
		total -= total / DemandReserve
		perPeer -= perPeer / DemandReserve
	}
	if b.used > 0 && b.used+n > total || b.peers[peer] > 0 && b.peers[peer]+n > perPeer {
		b.waiting[j] = struct{}{}
		return false
	}
	return true
}

// give returns what take or force reserved.
func (b *budget) give(peer wire.PeerID, n int) {
	b.mu.Lock()
	b.used -= n
	if b.peers[peer] -= n; b.peers[peer] == 0 {
		delete(b.peers, peer)
	}
	b.mu.Unlock()
	b.wake()
}

// wake tells the jobs that were refused that there may be room.
func (b *budget) wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for j := range b.waiting {
		select {
		case j.room <- struct{}{}:
		default:
		}
	}
	clear(b.waiting)
}

// owed returns how many bytes each peer owes this host.
func (b *budget) owed() map[wire.PeerID]int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.peers)
}

// forget drops a job that has ended.
func (b *budget) forget(j *job) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.waiting, j)
}
