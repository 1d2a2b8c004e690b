package placement

import (
	"github.com/virtswarm/virtswarm/internal/content"
)

// Replication says how far a content is from what was asked for. A copy counts if its host is alive and must keep
// it (home or target): a copy that its host may evict at any time is no promise.
type Replication struct {
	Wanted          int // copies of each shard asked for; for "every host" the number of alive hosts
	Possible        int // copies that the alive hosts can give: at most Wanted
	Shards          int
	MinCopies       int // copies of the shard that has the fewest
	UnderReplicated int // shards with fewer copies than Wanted
	Lost            int // shards that no alive or leaving host holds, kept or not: nobody to fetch them from
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

// copyHolder is a holder as the count sees it.
type copyHolder struct {
	shards ShardSet
	seat   int  // on the ring, -1 if not alive
	keeps  bool // must keep every shard
}

func (s *State) countCopies(c *contentRecord) Replication {
	alive := len(s.ring.hosts)
	r := Replication{Wanted: c.replicas, Shards: c.shards}
	if r.Wanted == 0 {
		r.Wanted = alive
	}
	r.Possible = min(r.Wanted, alive)
	table := s.homeTable(c)
	holders := s.reachable(c, table == nil)
	r.MinCopies = len(holders)
	for shard := range c.shards {
		copies, reachable := 0, false
		for _, h := range holders {
			if !h.shards.Has(shard) {
				continue
			}
			reachable = true
			if h.seat >= 0 && (h.keeps || isSeat(table.of(shard), h.seat)) {
				copies++
			}
		}
		r.MinCopies = min(r.MinCopies, copies)
		if copies < r.Wanted {
			r.UnderReplicated++
		}
		if !reachable {
			r.Lost++
		}
	}
	s.countTargets(c, &r)
	return r
}

// reachable returns the holders that are alive or leaving.
func (s *State) reachable(c *contentRecord, all bool) []copyHolder {
	holders := make([]copyHolder, 0, len(c.holders))
	for _, h := range c.holders {
		seat, alive := s.ring.index[h.Host]
		if !alive {
			seat = -1
			if s.hosts[h.Host].State != Leaving {
				continue
			}
		}
		holders = append(holders, copyHolder{h.Shards, seat, all || c.isTarget(h.Host)})
	}
	return holders
}

func (s *State) countTargets(c *contentRecord, r *Replication) {
	targets := c.targets.Hosts
	if c.targets.All {
		targets = s.hostIDs
	}
	r.Targets = len(targets)
	for _, t := range targets {
		if i, ok := c.holder(t); ok && c.holders[i].Shards.Full(c.shards) {
			r.TargetsFull++
		}
	}
}

func isSeat(seats []uint16, seat int) bool {
	for _, s := range seats {
		if int(s) == seat {
			return true
		}
	}
	return false
}

// Summary is the replication of the whole catalogue.
type Summary struct {
	Contents        int // all contents
	Shards          int // all shards
	UnderContents   int // contents with a shard that has fewer copies than wanted
	UnderReplicated int // such shards
	LostContents    int // contents with a shard that no alive or leaving host holds
	Lost            int // such shards
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
		if r.Lost > 0 {
			sum.LostContents++
		}
		if !r.OK() {
			sum.UnderContents++
		}
	}
	return sum
}
