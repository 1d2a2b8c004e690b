package swarm

import (
	"cmp"
	"slices"
	"time"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
	"github.com/virtswarm/virtswarm/internal/wire"
)

const (
	// maxCandidates bounds the peers that a job knows of: as many as the catalogue has hosts.
	maxCandidates = 1024
	// maxFails is how often a peer that only other peers named is tried in vain before it is forgotten.
	maxFails = 3
)

// candidate is a peer that may have the file. It belongs to the job's loop.
type candidate struct {
	id     wire.PeerID
	listed bool // by the directory
	named  bool // by other peers or itself, as one who fetches
	came   bool // it fetches from this host
	tried  bool // at least once, to the end
	fails  int  // since it was last of use
	retry  time.Time

	distance int    // see plan.Place
	lot      uint64 // its place among equals
}

// list takes the directory's answer.
func (j *job) list(holders []wire.PeerID) {
	for _, c := range j.candidates {
		c.listed = false
	}
	for _, id := range holders {
		j.candidate(id).listed = true
	}
	for id, c := range j.candidates {
		if !c.listed && c.fails >= maxFails && j.sources[id] == nil {
			delete(j.candidates, id)
		}
	}
}

// candidate returns what is known of a peer, which it gets to know if need be.
func (j *job) candidate(id wire.PeerID) *candidate {
	c := j.candidates[id]
	if c == nil {
		c = &candidate{id: id}
		if len(j.candidates) < maxCandidates {
			j.candidates[id] = c
		}
	}
	return c
}

// came: a peer has come to fetch from this host.
type came struct{ peer wire.PeerID }

func (e came) apply(j *job) {
	j.candidate(e.peer).came = true
	met{[]wire.PeerID{e.peer}}.apply(j)
}

// met: a peer named others.
type met struct{ peers []wire.PeerID }

func (e met) apply(j *job) {
	for _, id := range e.peers {
		if id == j.swarm.self {
			continue
		}
		j.candidate(id).named = true
		if src := j.sources[id]; src != nil && src.pick != nil {
			j.pick.Fellow(src.pick)
		}
	}
	if len(j.claims) > 0 {
		j.connect(time.Now())
	}
}

// connect begins to talk to candidates whose time has come. It looks for DialSources; those who came by themselves are taken
// up to MaxSources, so that sources are mutual and all hosts of a large swarm have about as many. Holders and fetchers take
// turns, so that neither crowds out the other; within each the nearest go first, and then it is an order of this host's own, so
// that a large swarm is well mixed.
func (j *job) connect(now time.Time) {
	if len(j.sources) >= plan.MaxSources {
		return
	}
	var listed, named []*candidate
	for id, c := range j.candidates {
		if j.sources[id] != nil || now.Before(c.retry) || len(j.sources) >= plan.DialSources && !c.came {
			continue
		}
		if c.listed {
			listed = append(listed, c)
		} else {
			named = append(named, c)
		}
	}
	j.sort(listed)
	j.sort(named)
	for i := range max(len(listed), len(named)) {
		for _, from := range [...][]*candidate{listed, named} {
			if i >= len(from) || len(j.sources) >= plan.MaxSources {
				continue
			}
			if c := from[i]; c.came || len(j.sources) < plan.DialSources {
				j.begin(c)
			}
		}
	}
}

// sort puts candidates in the order in which they are connected to.
func (j *job) sort(all []*candidate) {
	if len(all) < 2 {
		return
	}
	place, self := j.swarm.placeOf(j.swarm.self), keyOf(j.swarm.self)
	for _, c := range all {
		c.distance = place.Distance(j.swarm.placeOf(c.id))
		c.lot = plan.Mix(self ^ keyOf(c.id))
	}
	slices.SortFunc(all, func(a, b *candidate) int {
		return cmp.Or(cmp.Compare(a.distance, b.distance), cmp.Compare(a.lot, b.lot))
	})
}
