package swarm

import (
	"slices"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/wire"
	"github.com/virtswarm/virtswarm/placement"
)

// maxRecent is how many finished fetches are remembered.
const maxRecent = 32

// PeerStat is what goes on between this host and another.
type PeerStat struct {
	Host     placement.HostID
	Sessions int
	Up, Down float64 // bytes a second to and from it, over the last second
	Owes     int64   // bytes that it was asked for and has not brought
	Waits    int     // chunks that it waits for, draws included
}

// FetchStat is a fetch that has finished: one call of Fetch which found something missing.
type FetchStat struct {
	File     content.Digest
	Priority Priority
	Began    time.Time
	Took     time.Duration
	Bytes    int64 // that it lacked at the beginning, and got
	Sources  int   // hosts that gave some of it, at most maxGivers
	// Received is the bytes of chunks that the job received meanwhile, over Bytes: what is more than 1 came twice, or
	// was for another caller.
	Received float64
	// Ratio is Took over the time in which Bytes come at the best rate that the job saw over any half second: how far
	// it was from what this host's link, as far as it has shown, allows. At least 1.
	Ratio float64
}

// Peers returns what goes on with every host that there is a session with, by id.
func (s *Swarm) Peers() []PeerStat {
	owed, waits := s.budget.owed(), s.server.waits()
	s.peers.mu.Lock()
	defer s.peers.mu.Unlock()
	of := map[wire.PeerID]*PeerStat{}
	s.peers.plan.Links(func(pl *plan.Link) {
		l := linkOf(pl)
		p := of[l.peer]
		if p == nil {
			p = &PeerStat{Host: placement.HostID(l.peer.String()), Owes: int64(owed[l.peer])}
			of[l.peer] = p
		}
		p.Sessions++
		p.Up += l.flow.up
		p.Down += l.flow.down
		p.Waits += waits[l]
	})
	stats := make([]PeerStat, 0, len(of))
	for _, p := range of {
		stats = append(stats, *p)
	}
	slices.SortFunc(stats, func(a, b PeerStat) int {
		if a.Host < b.Host {
			return -1
		}
		return 1
	})
	return stats
}

// flow measures what a session moves. It is guarded by peers.mu.
type flow struct {
	up, down float64 // bytes a second
	last     wire.Stats
	at       time.Time
}

// measure is called about every second.
func (f *flow) measure(now time.Time, s wire.Stats) {
	if dt := now.Sub(f.at).Seconds(); !f.at.IsZero() && dt > 0 {
		f.up = float64(s.BytesOut-f.last.BytesOut) / dt
		f.down = float64(s.BytesIn-f.last.BytesIn) / dt
	}
	f.last, f.at = s, now
}

// Recent returns the latest fetches that have succeeded, the newest first, at most 32. What a reader waited for or
// will read next is left out: that is a few chunks at a time.
func (s *Swarm) Recent() []FetchStat { return s.recent.list() }

// recent remembers fetches. It is safe for concurrent use.
type recent struct {
	mu    sync.Mutex
	stats []FetchStat // the newest last
}

func (r *recent) add(f FetchStat) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.stats) == maxRecent {
		r.stats = slices.Delete(r.stats, 0, 1)
	}
	r.stats = append(r.stats, f)
}

func (r *recent) list() []FetchStat {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := slices.Clone(r.stats)
	slices.Reverse(all)
	return all
}

// maxGivers bounds the sources that are counted for one claim.
const maxGivers = 64

// tally is what a claim counts for its FetchStat.
type tally struct {
	began    time.Time
	bytes    int64 // missing then
	received int64 // what the job had received then
	best     float64
	givers   map[wire.PeerID]struct{}
}

// saw notes a rate of the job, in bytes a second.
func (t *tally) saw(rate float64) { t.best = max(t.best, rate) }

// from notes who gave a chunk.
func (t *tally) from(id wire.PeerID) {
	if len(t.givers) < maxGivers {
		t.givers[id] = struct{}{}
	}
}

// stat sums up a claim that has got all.
func (j *job) stat(c *claim) {
	t := c.tally
	if c.prio >= ReadAhead || t.bytes == 0 {
		return
	}
	now := time.Now()
	f := FetchStat{File: j.id, Priority: c.prio, Began: t.began, Took: now.Sub(t.began), Bytes: t.bytes, Sources: len(t.givers)}
	f.Received = float64(j.plan.Received()-t.received) / float64(t.bytes)
	f.Ratio = max(1, t.best*f.Took.Seconds()/float64(t.bytes))
	j.swarm.recent.add(f)
	j.swarm.metrics.ratio.Observe(f.Ratio)
}
