package plan

import (
	"iter"
	"maps"
	"time"
)

// Budget bounds the bytes in flight of all jobs of a host, in total and of each peer. A part of both is kept for
// demand. It also keeps what comes in at a rate; demand passes that bound, and the others wait for as long as it takes.
type Budget struct {
	In Throttle // of what comes in

	total, perPeer int
	used           int
	peers          map[Host]int
}

// NewBudget makes a Budget of that many bytes, in total and of each peer.
func NewBudget(total, perPeer int) *Budget {
	return &Budget{total: total, perPeer: perPeer, peers: map[Host]int{}}
}

// Room says whether n bytes may be requested of a peer now. Of a peer that owes nothing, and while nobody owes
// anything, one chunk of any size may.
func (b *Budget) Room(now time.Time, peer Host, n int, prio Priority) bool {
	total, perPeer := b.total, b.perPeer
	if prio < Demand {
		if b.In.Wait(now) > 0 {
			return false
		}
		total -= total / DemandReserve
		perPeer -= perPeer / DemandReserve
	}
	owes := b.peers[peer]
	return (b.used == 0 || b.used+n <= total) && (owes == 0 || owes+n <= perPeer)
}

// Take reserves n bytes of a peer, whether there is room or not: a draw that was granted needs its bytes, and there are
// no more of them than a window has room for.
func (b *Budget) Take(now time.Time, peer Host, n int) {
	b.used += n
	b.peers[peer] += n
	b.In.spend(now, n)
}

// Give returns what Take reserved.
func (b *Budget) Give(peer Host, n int) {
	b.used -= n
	if b.peers[peer] -= n; b.peers[peer] == 0 {
		delete(b.peers, peer)
	}
}

// Owed returns the bytes that each peer owes, of those that owe any.
func (b *Budget) Owed() iter.Seq2[Host, int] { return maps.All(b.peers) }
