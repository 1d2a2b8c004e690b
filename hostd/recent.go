package hostd

import (
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/placement"
)

// maxRecent is how many finished fetches a host remembers.
const maxRecent = 32

// finished is a fetch that has ended, whether or not it got all that was wanted.
type finished struct {
	id      content.Digest
	bytes   int64 // that arrived meanwhile
	took    time.Duration
	bound   time.Duration // the least that it could have taken, see recent.bound
	sources int           // hosts that it came from, at most at a time
	at      time.Time
}

// recent remembers the last fetches, and how fast this host has received at best. It is safe for concurrent use.
type recent struct {
	mu    sync.Mutex
	list  []finished // oldest first
	best  float64    // bytes a second, over all fetches together, since the start
	limit int64      // of what this host receives, bytes a second; 0 = none

	ratio prometheus.Histogram
}

func newRecent() *recent {
	return &recent{ratio: prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: "virtswarm", Subsystem: "fetch", Name: "bound_ratio",
		Help:    "Time of finished fetches divided by the least that they could have taken.",
		Buckets: []float64{1.02, 1.05, 1.1, 1.25, 1.5, 2, 3, 5, 10},
	})}
}

// setLimit says what this host may receive, in bytes a second; 0 is no limit.
func (r *recent) setLimit(down int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.limit = down
}

// sawRate notes the rate at which this host receives now.
func (r *recent) sawRate(rate float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.best = max(r.best, rate)
}

// add notes a fetch that has ended.
func (r *recent) add(f finished) {
	if f.bytes <= 0 || f.took <= 0 {
		return // all was here
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.best = max(r.best, float64(f.bytes)/f.took.Seconds())
	f.bound = r.bound(f.bytes)
	r.ratio.Observe(f.took.Seconds() / f.bound.Seconds())
	if len(r.list) == maxRecent {
		r.list = slices.Delete(r.list, 0, 1)
	}
	r.list = append(r.list, f)
}

// bound is the time that so many bytes take at the highest rate at which this host has received since its start, or at
// its limit if that is lower. The caller holds mu.
func (r *recent) bound(bytes int64) time.Duration {
	rate := r.best
	if r.limit > 0 {
		rate = min(rate, float64(r.limit))
	}
	return time.Duration(float64(bytes) / rate * float64(time.Second))
}

// last returns the last fetches, the newest first.
func (r *recent) last() []finished {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := slices.Clone(r.list)
	slices.Reverse(list)
	return list
}

// describeRecent gives finished fetches in the API's words.
func describeRecent(s *placement.State, list []finished) []*v1.FinishedFetch {
	all := make([]*v1.FinishedFetch, 0, len(list))
	for _, f := range list {
		d := &v1.FinishedFetch{
			Id: f.id.String(), Bytes: uint64(f.bytes), Seconds: f.took.Seconds(), BoundSeconds: f.bound.Seconds(),
			Sources: uint32(f.sources), EndedAt: f.at.Unix(),
		}
		if c, ok := s.Content(f.id); ok {
			d.Name = c.Names[0]
		}
		all = append(all, d)
	}
	return all
}
