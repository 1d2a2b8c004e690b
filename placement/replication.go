package placement

import (
	"fmt"

	"github.com/virtswarm/virtswarm/internal/content"
)

// Replication says how far a content is from what was asked for. A copy counts if its host is alive and must keep
// it (home or target): a copy that its host may evict at any time is no promise.
type Replication struct {
	Wanted          int // copies of each shard asked for; for "every host" the number of alive hosts
	Possible        int // copies that every shard can have now: its homes that are alive, at most Wanted
	Shards          int
	MinCopies       int // copies of the shard that has the fewest
	UnderReplicated int // shards with fewer copies than Wanted
	Lost            int // shards that no alive or leaving host holds, kept or not: nobody to fetch them from
	// ToGo is how many copies alive homes have still to make, of all shards together; ToGoBytes what they weigh. Awaited
	// is how many copies lie on homes that are down: they come back with their hosts, or are made anew once those are
	// lost.
	ToGo, Awaited int
	ToGoBytes     int64
	// Targets is the number of hosts that must hold all of it by Distribute, TargetsFull how many do.
	Targets, TargetsFull int
}

// OK reports whether every shard has its copies.
func (r Replication) OK() bool { return r.UnderReplicated == 0 }

// replicationMemo is a Replication that holds as long as the ring and the record do.
type replicationMemo struct {
	ring *ring
	r    Replication
}

// Replication returns how well a content is kept.
func (s *State) Replication(id content.Digest) (Replication, bool) {
	c := s.contents[id]
	if c == nil {
		return Replication{}, false
	}
	return s.replicationOf(c), true
}

func (s *State) replicationOf(c *contentRecord) Replication {
	if m := c.replication.Load(); m != nil && m.ring == s.ring {
		return m.r
	}
	m := &replicationMemo{ring: s.ring, r: s.countCopies(c)}
	c.replication.Store(m)
	return m.r
}

// shardCount is who keeps and holds one shard. MaxHosts is far below what 16 bits count.
type shardCount struct {
	copies    uint16 // on alive hosts that must keep it
	homes     uint16 // homes, whether they hold it or not
	alive     uint16 // homes that are alive
	holding   uint16 // homes that are alive and hold it
	reachable bool   // some alive or leaving host holds it
}

// wanted is how many copies of each shard are asked for.
func (s *State) wanted(c *contentRecord) int {
	if c.replicas == 0 {
		return s.ring.alive
	}
	return c.replicas
}

// counts counts the copies of every shard. It walks over what each host holds, as that is far less than all shards of
// all hosts.
func (s *State) counts(c *contentRecord) []shardCount {
	table := s.homeTable(c)
	n := make([]shardCount, c.shards)
	s.countHomes(c, table, n)
	for _, h := range c.holders {
		switch s.hosts[h.Host].State {
		case Alive:
			seat, target := s.ring.index[h.Host], c.isTarget(h.Host)
			h.Shards.each(c.shards, func(shard int) {
				n[shard].reachable = true
				home := table == nil || table.has(shard, seat)
				if home {
					n[shard].holding++
				}
				if home || target {
					n[shard].copies++
				}
			})
		case Leaving:
			h.Shards.each(c.shards, func(shard int) { n[shard].reachable = true })
		}
	}
	return n
}

// countHomes counts the homes of every shard, and the alive ones among them.
func (s *State) countHomes(c *contentRecord, table *homeTable, n []shardCount) {
	if table != nil {
		for shard := range n {
			for _, seat := range table.of(shard) {
				if seat == noSeat {
					break
				}
				n[shard].homes++
				if !s.ring.hosts[seat].down {
					n[shard].alive++
				}
			}
		}
		return
	}
	for shard := range n {
		n[shard].homes, n[shard].alive = uint16(s.ring.alive), uint16(s.ring.alive)
	}
	if s.ring.alive == len(s.ring.hosts) {
		return
	}
	for _, h := range c.holders {
		if s.hosts[h.Host].State == Down {
			h.Shards.each(c.shards, func(shard int) { n[shard].homes++ })
		}
	}
}

func (s *State) countCopies(c *contentRecord) Replication {
	r := Replication{Wanted: s.wanted(c), Shards: c.shards}
	r.Possible = r.Wanted
	r.MinCopies = len(c.holders)
	for _, n := range s.counts(c) {
		r.Possible = min(r.Possible, int(n.alive))
		r.MinCopies = min(r.MinCopies, int(n.copies))
		r.ToGo += int(n.alive - n.holding)
		r.Awaited += int(n.homes - n.alive)
		if int(n.copies) < r.Wanted {
			r.UnderReplicated++
		}
		if !n.reachable {
			r.Lost++
		}
	}
	r.ToGoBytes = int64(r.ToGo) * c.shardBytes()
	s.countTargets(c, &r)
	return r
}

// shardBytes is what a shard weighs, the holes taken to be spread evenly.
func (c *contentRecord) shardBytes() int64 { return c.dataBytes / int64(c.shards) }

func (s *State) countTargets(c *contentRecord, r *Replication) {
	targets := s.allTargets(c)
	r.Targets = len(targets)
	for _, t := range targets {
		if c.held(t).Full(c.shards) {
			r.TargetsFull++
		}
	}
}

// SafeWithout returns the shards of a content that a host may drop at any time: it need not keep them, and each has
// all the copies that are wanted of it on other hosts, alive ones that must keep it. The answer holds for the
// catalogue as it is here: who acts on it calls ReadIndex first.
func (s *State) SafeWithout(host HostID, id content.Digest) ShardSet {
	c := s.contents[id]
	if c == nil {
		return AllShards() // nothing refers to it
	}
	must := s.HomeShards(host, id)
	if must.All() {
		return ShardSet{}
	}
	wanted := s.wanted(c)
	var safe ShardSet
	for shard, n := range s.counts(c) {
		// The host is not among the copies that count, as it need not keep the shard.
		if int(n.copies) >= wanted && !must.Has(shard) {
			safe = safe.append(shard)
		}
	}
	if safe.Full(c.shards) {
		return AllShards()
	}
	return safe
}

// Drain is what a host that is leaving holds and others do not hold safely yet.
type Drain struct {
	Shards int
	Bytes  int64 // what they weigh
}

// Draining returns what has still to become safe elsewhere before a host that is leaving may go: shards that it
// holds, and of which other hosts that must keep them do not have the copies that are wanted, or possible without it.
func (s *State) Draining(host HostID) Drain {
	var d Drain
	for _, c := range s.contents {
		held := c.held(host)
		if held.Empty() {
			continue
		}
		wanted := s.wanted(c)
		n := s.counts(c)
		held.each(c.shards, func(shard int) {
			if int(n[shard].copies) < min(wanted, int(n[shard].homes)) {
				d.Shards++
				d.Bytes += c.shardBytes()
			}
		})
	}
	return d
}

// CanDrain returns an error if the copies of what a host holds cannot be had without it: ErrLastHost if no other host
// is alive, ErrTooFewHosts with the first file that wants more copies than there would be hosts.
func (s *State) CanDrain(host HostID) error {
	others := s.ring.alive
	if h := s.hosts[host]; h != nil && h.State == Alive {
		others--
	}
	if others == 0 {
		return ErrLastHost
	}
	for _, name := range s.names {
		for _, v := range s.files[name].versions {
			if v.Replicas > others && !s.contents[v.ID].held(host).Empty() {
				return fmt.Errorf("%q wants %d copies, and the other hosts are %d: %w", name, v.Replicas, others, ErrTooFewHosts)
			}
		}
	}
	return nil
}

// Load is what a host must hold.
type Load struct {
	Shards int
	Bytes  int64 // what they weigh
	Held   int   // shards of them that it says it holds
}

// Load returns what a host must hold of all contents together. It costs a walk over them.
func (s *State) Load(host HostID) Load {
	var l Load
	for id, c := range s.contents {
		must := s.HomeShards(host, id)
		if must.Empty() {
			continue
		}
		n := must.Count(c.shards)
		l.Shards += n
		l.Bytes += int64(n) * c.shardBytes()
		c.held(host).each(c.shards, func(shard int) {
			if must.Has(shard) {
				l.Held++
			}
		})
	}
	return l
}

// Summary is the replication of the whole catalogue.
type Summary struct {
	Contents        int   // all contents
	Shards          int   // all shards
	UnderContents   int   // contents with a shard that has fewer copies than wanted
	UnderReplicated int   // such shards
	LostContents    int   // contents with a shard that no alive or leaving host holds
	Lost            int   // such shards
	ToGo            int   // copies of shards that alive homes have still to make
	ToGoBytes       int64 // what they weigh
	Awaited         int   // copies of shards that lie on homes that are down
}

// UnderReplicated returns the summary. It costs a walk over all contents; what did not change since is remembered.
func (s *State) UnderReplicated() Summary {
	var sum Summary
	for _, c := range s.contents {
		r := s.replicationOf(c)
		sum.Contents++
		sum.Shards += r.Shards
		sum.UnderReplicated += r.UnderReplicated
		sum.Lost += r.Lost
		sum.ToGo += r.ToGo
		sum.ToGoBytes += r.ToGoBytes
		sum.Awaited += r.Awaited
		if r.Lost > 0 {
			sum.LostContents++
		}
		if !r.OK() {
			sum.UnderContents++
		}
	}
	return sum
}
