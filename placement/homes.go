package placement

import (
	"hash/fnv"
	"math/bits"
	"slices"

	"github.com/virtswarm/virtswarm/internal/content"
)

// Homes are chosen by weighted rendezvous hashing (Thaler and Ravishankar, "Using name-based mappings to increase
// hit rates", 1998; weights by Schindelhauer and Schomaker's logarithmic method, "Weighted distributed hash tables",
// 2005): every host draws a number h in (0,1) for every shard and the hosts with the highest w / -ln(h) win. Each
// host's share is in proportion to its weight, and when a host comes or goes only its own shards move.
//
// The logarithm is to base 2 (a constant factor does not change the order), in fixed point, by repeated squaring:
// the same bits on every platform, which floating point does not promise.

//
// Who takes part: every alive host; and for a shard that a down host holds, that host too. So a host that is down for
// a moment leaves a gap in what it held and moves nothing, but is not waited for with what it never had.

// ring is the alive and down hosts as rendezvous sees them. It is immutable; a new one is made when they change, so
// that a memo belongs to a ring by its pointer.
type ring struct {
	hosts []seat // sorted by id
	index map[HostID]int
	alive int  // how many of the hosts are alive
	equal bool // all weights are equal, so the draw alone decides
}

type seat struct {
	id     HostID
	key    uint64
	weight uint64
	down   bool
}

func newRing(members []*Host) *ring {
	r := &ring{hosts: make([]seat, len(members)), index: make(map[HostID]int, len(members)), equal: true}
	for i, h := range members {
		r.hosts[i] = seat{h.ID, hostKey(h.ID), uint64(h.Weight), h.State == Down}
		r.index[h.ID] = i
		r.equal = r.equal && h.Weight == members[0].Weight
		if h.State == Alive {
			r.alive++
		}
	}
	return r
}

func hostKey(id HostID) uint64 {
	h := fnv.New64a()
	h.Write([]byte(id))
	return mix(h.Sum64())
}

// shardKey spreads a content's shards over 64 bits. The digest is uniform already.
func shardKey(id content.Digest, shard int) uint64 {
	var k uint64
	for i := range 8 {
		k |= uint64(id[i]) << (8 * i)
	}
	return mix(k + uint64(shard)*0x9e3779b97f4a7c15)
}

// mix is the finalizer of MurmurHash3 in Stafford's variant 13 (as in SplitMix64): a bijection whose every output
// bit depends on every input bit.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// cost returns -log2((h+1)/2^64) in fixed point with 32 fractional bits, rounded up by less than one unit, so that
// it is never zero. It falls as h rises.
func cost(h uint64) uint64 {
	const fraction = 32
	if h == ^uint64(0) {
		return 1
	}
	h++
	whole := uint64(bits.Len64(h) - 1)
	m := h << (63 - whole) // mantissa in [1,2) with 63 fractional bits
	log := whole
	for range fraction {
		hi, _ := bits.Mul64(m, m) // [1,4) with 62
		carry := hi >> 63
		log = log<<1 | carry
		m = hi << (1 - carry) // the bit shifted in is zero: rounding down, the same everywhere
	}
	return 64<<fraction - log
}

// draw is one host's ticket for a shard.
type draw struct {
	host   int
	luck   uint64 // the host's number; higher is better
	cost   uint64 // of luck, if weights differ
	weight uint64
}

// beats is the order of draws: w/cost, then luck, then the host's place by id.
func (d draw) beats(o draw) bool {
	if d.cost != 0 {
		if mine, other := d.weight*o.cost, o.weight*d.cost; mine != other {
			return mine > other
		}
	}
	if d.luck != o.luck {
		return d.luck > o.luck
	}
	return d.host < o.host
}

// pick writes the winners for a shard of c, best first, and returns how many they are: len(best), or all who take
// part if they are fewer.
func (r *ring) pick(c *contentRecord, shard int, best []draw) int {
	key := shardKey(c.id, shard)
	n := 0
	for i := range r.hosts {
		if r.hosts[i].down && !c.held(r.hosts[i].id).Has(shard) {
			continue
		}
		d := draw{host: i, luck: mix(key ^ r.hosts[i].key), weight: r.hosts[i].weight}
		if !r.equal {
			d.cost = cost(d.luck)
		}
		if n == len(best) && !d.beats(best[n-1]) {
			continue
		}
		at := min(n, len(best)-1)
		for ; at > 0 && d.beats(best[at-1]); at-- {
			best[at] = best[at-1]
		}
		best[at] = d
		n = min(n+1, len(best))
	}
	return n
}

// homeTable is the homes of a content's shards on one ring: k seats a shard, best first. It depends on what down
// hosts hold, and is forgotten when that changes (see setHolder).
type homeTable struct {
	ring  *ring
	k     int
	seats []uint16 // noSeat where fewer hosts than k take part
}

const noSeat = 1<<16 - 1 // beyond MaxHosts

func (t *homeTable) of(shard int) []uint16 { return t.seats[shard*t.k : (shard+1)*t.k] }

// has reports whether the host in a seat is a home of the shard.
func (t *homeTable) has(shard, seat int) bool {
	for _, s := range t.of(shard) {
		if int(s) == seat {
			return true
		}
	}
	return false
}

// homeTable returns the homes of c, made or remembered. It is nil if every host that takes part is a home: every
// alive host, and every down one for what it holds.
func (s *State) homeTable(c *contentRecord) *homeTable {
	k := c.replicas
	if k == 0 || k >= len(s.ring.hosts) {
		return nil
	}
	if t := c.homes.Load(); t != nil && t.ring == s.ring && t.k == k {
		return t
	}
	t := &homeTable{ring: s.ring, k: k, seats: make([]uint16, c.shards*k)}
	best := make([]draw, k)
	for shard := range c.shards {
		n := s.ring.pick(c, shard, best)
		for i := range k {
			t.seats[shard*k+i] = noSeat
			if i < n {
				t.seats[shard*k+i] = uint16(best[i].host)
			}
		}
	}
	c.homes.Store(t)
	return t
}

// Homes returns the hosts that must keep a shard, the first choice first: alive ones, and down ones that hold it;
// fewer than wanted if there are no more. It returns nil for an unknown content or shard.
func (s *State) Homes(id content.Digest, shard int) []HostID {
	c := s.contents[id]
	if c == nil || shard < 0 || shard >= c.shards {
		return nil
	}
	k := len(s.ring.hosts)
	if c.replicas != 0 {
		k = min(k, c.replicas)
	}
	if k == 0 {
		return nil
	}
	best := make([]draw, k)
	best = best[:s.ring.pick(c, shard, best)]
	homes := make([]HostID, len(best))
	for i, d := range best {
		homes[i] = s.ring.hosts[d.host].id
	}
	return homes
}

// HomeShards returns the shards that a host must hold: those it is a home of, and all if it is a target. A target
// remains one in whatever state it is.
func (s *State) HomeShards(host HostID, id content.Digest) ShardSet {
	c := s.contents[id]
	if c == nil {
		return ShardSet{}
	}
	if c.isTarget(host) && s.hosts[host] != nil {
		return AllShards()
	}
	seat, ok := s.ring.index[host]
	if !ok {
		return ShardSet{}
	}
	t := s.homeTable(c)
	switch {
	case t == nil && s.ring.hosts[seat].down:
		return c.held(host)
	case t == nil:
		return AllShards()
	}
	var set ShardSet
	for shard := range c.shards {
		if t.has(shard, seat) {
			set = set.append(shard)
		}
	}
	if set.Full(c.shards) {
		return AllShards()
	}
	return set
}

func (c *contentRecord) isTarget(host HostID) bool {
	if c.targets.All {
		return true
	}
	return slices.Contains(c.targets.Hosts, host) || slices.Contains(c.follows, host)
}

// append adds a shard above all others; the receiver must not be used any more.
func (s ShardSet) append(shard int) ShardSet {
	if n := len(s.spans); n > 0 && s.spans[n-1].hi == shard {
		s.spans[n-1].hi++
	} else {
		s.spans = append(s.spans, span{shard, shard + 1})
	}
	return s
}
