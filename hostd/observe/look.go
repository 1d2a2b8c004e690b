package observe

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/virtswarm/virtswarm/hostd/keeper"
	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/raft"
)

const (
	// lookEvery is how often a host looks for findings on its own, so that it knows since when they are there.
	lookEvery = 10 * time.Second
	// publishing is how long the copies of a new file may take to be made before they count as missing.
	publishing = 10 * time.Minute
)

// FindingsConfig is what Findings looks at. All fields are needed.
type FindingsConfig struct {
	Self    placement.HostID
	Name    string // of this host
	Node    *raft.Node
	Store   *store.Store
	Keeper  *keeper.Keeper
	Damages *Damages         // of Store
	Expires func() time.Time // when this host's certificate does
	Doubts  func() []Doubt   // identities that more than one guest claims
}

// Findings knows what is wrong, as far as this host sees. It is safe for concurrent use.
type Findings struct {
	FindingsConfig
	began   time.Time
	whole   memory
	own     memory
	renewal atomic.Pointer[error] // the outcome of the last attempt to renew the certificate

	mu      sync.Mutex
	crowded time.Time // since when the store is above its high watermark; zero if it is not
}

// NewFindings makes Findings; Run keeps it looking.
func NewFindings(cfg FindingsConfig) *Findings {
	return &Findings{FindingsConfig: cfg, began: time.Now()}
}

// Renewed notes the outcome of an attempt to renew this host's certificate.
func (k *Findings) Renewed(err error) { k.renewal.Store(&err) }

// OfCluster gives what is wrong with the cluster, in no order. stale says that no leader could be asked just now.
func (k *Findings) OfCluster(stale bool) []Finding {
	w := k.lookAtWhole()
	if stale {
		w.leaderless = max(w.leaderless, leaderPatience)
	}
	all := judgeWhole(w)
	k.whole.date(all, w.now)
	return all
}

// OfThisHost gives what is wrong with this host.
func (k *Findings) OfThisHost() []Finding {
	o := k.lookAtThis()
	all := judgeOwn(o)
	k.own.date(all, o.now)
	return all
}

// Run looks now and then, until ctx ends.
func (k *Findings) Run(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		k.OfCluster(false)
		k.OfThisHost()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (k *Findings) lookAtWhole() whole {
	status := k.Node.Status()
	w := whole{now: time.Now(), voters: status.Voters, sole: map[placement.HostID]bool{}, names: map[placement.HostID]string{}}
	if status.Leader == "" && status.Role != raft.Leader {
		if w.leaderless = status.LastContact; w.leaderless < 0 {
			w.leaderless = time.Since(k.began)
		}
	}
	k.Node.View(func(s *placement.State) {
		w.hosts = s.Hosts()
		for _, host := range w.hosts {
			w.names[host.ID] = host.Name
		}
		if s.SplitDomains() > 0 {
			w.split = slices.DeleteFunc(s.Domains(), func(d placement.DomainView) bool { return !d.Split })
		}
		if sum := s.UnderReplicated(); sum.UnderContents > 0 || sum.LostContents > 0 {
			w.lookAtCopies(s)
		}
	})
	slices.Sort(w.missing.files)
	slices.Sort(w.lost.files)
	return w
}

// lookAtCopies sums up what lacks copies.
func (w *whole) lookAtCopies(s *placement.State) {
	for _, id := range s.ChangedSince(0).Contents {
		r, _ := s.Replication(id)
		if r.OK() && r.Lost == 0 {
			continue
		}
		c, _ := s.Content(id)
		name := id.String()
		if len(c.Names) > 0 {
			name = c.Names[0]
		}
		if r.Lost > 0 {
			w.lost.shards += r.Lost
			w.lost.files = append(w.lost.files, name)
			for _, holder := range s.Holders(id) {
				if host, ok := s.Host(holder.Host); ok && !host.State.Serves() {
					w.sole[holder.Host] = true
				}
			}
		}
		// A file that wants more copies than there are hosts has what it can have; one that was published just now gets
		// its copies as we speak.
		short := shortOf(s, c, min(r.Wanted, len(w.hosts)))
		if short == 0 || r.Lost == 0 && r.Awaited == 0 && w.now.Sub(publishedAt(s, c)) < publishing {
			continue
		}
		w.missing.shards += short
		w.missing.files = append(w.missing.files, name)
		w.missing.toGo += r.ToGo
		w.missing.bytes += r.ToGoBytes
		w.missing.awaited += r.Awaited
	}
}

// shortOf counts the shards of a content that are on fewer hosts than wanted. A copy that is about to move counts where
// it is: it goes only when the others are there.
func shortOf(s *placement.State, c placement.Content, wanted int) (short int) {
	copies := make([]int, c.Shards)
	for _, holder := range s.Holders(c.ID) {
		if host, ok := s.Host(holder.Host); !ok || !host.State.Serves() {
			continue
		}
		for shard := range copies {
			if holder.Shards.Has(shard) {
				copies[shard]++
			}
		}
	}
	for _, n := range copies {
		if n < wanted {
			short++
		}
	}
	return short
}

// publishedAt is when a content was last published under a name that it still has.
func publishedAt(s *placement.State, c placement.Content) (last time.Time) {
	for _, name := range c.Names {
		if v, err := s.Lookup(name, c.ID); err == nil && time.Unix(v.At, 0).After(last) {
			last = time.Unix(v.At, 0)
		}
	}
	return last
}

func (k *Findings) lookAtThis() own {
	usage := k.Store.Usage()
	o := own{
		now: time.Now(), host: k.Name, bytes: usage.Bytes, high: usage.High, free: usage.Free, reserve: usage.Reserve,
		noRoom: k.Keeper.Progress().NoRoom, expires: k.Expires(), doubts: k.Doubts(),
	}
	k.mu.Lock()
	switch {
	case usage.Bytes <= usage.High:
		k.crowded = time.Time{}
	case k.crowded.IsZero():
		k.crowded = o.now
	default:
		o.crowded = o.now.Sub(k.crowded)
	}
	k.mu.Unlock()
	if err := k.renewal.Load(); err != nil {
		o.renewal = *err
	}
	troubles, skews := k.Node.Trouble(), k.Node.Skews()
	k.Node.View(func(s *placement.State) {
		o.damaged = k.Damages.left(s, k.Self, k.Store)
		o.skews = map[string]time.Duration{}
		for id, skew := range skews {
			o.skews[nameOf(s, id)] = skew
		}
		for _, t := range troubles {
			o.trouble = append(o.trouble, trouble{t, nameOf(s, t.Host)})
		}
	})
	return o
}

var descFindings = prometheus.NewDesc("virtswarm_findings", "What is wrong, as far as this host sees, by severity and kind.",
	[]string{"severity", "kind"}, nil)

// Describe implements prometheus.Collector.
func (k *Findings) Describe(ch chan<- *prometheus.Desc) { ch <- descFindings }

// Collect implements prometheus.Collector. Kinds that nothing is found of are 0, so that an alert has something to go
// by.
func (k *Findings) Collect(ch chan<- prometheus.Metric) {
	found := map[Severity]map[string]int{Warning: {}, Critical: {}}
	for _, f := range append(k.OfCluster(false), k.OfThisHost()...) {
		found[f.Severity][f.Kind]++
	}
	for severity, name := range map[Severity]string{Warning: "warning", Critical: "critical"} {
		for _, kind := range Kinds {
			ch <- prometheus.MustNewConstMetric(descFindings, prometheus.GaugeValue, float64(found[severity][kind]), name, kind)
		}
	}
}

// nameOf gives a host's name; a host that the catalogue does not know goes by its id.
func nameOf(s *placement.State, id placement.HostID) string {
	if host, ok := s.Host(id); ok {
		return host.Name
	}
	return string(id)
}
