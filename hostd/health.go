package hostd

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/raft"
)

const (
	// lookEvery is how often a host looks for findings on its own, so that it knows since when they are there.
	lookEvery = 10 * time.Second
	// publishing is how long the copies of a new file may take to be made before they count as missing.
	publishing = 10 * time.Minute
)

// health knows what is wrong, as far as this host sees. It is safe for concurrent use.
type health struct {
	host    *Host
	whole   memory
	own     memory
	damage  damages
	renewal atomic.Pointer[error] // the outcome of the last attempt to renew the certificate

	mu      sync.Mutex
	crowded time.Time // since when the store is above its high watermark; zero if it is not
}

// Health implements server.Host.
func (h *Host) Health(ctx context.Context, _ *v1.HealthRequest) (*v1.HealthResponse, error) {
	r := &v1.HealthResponse{Staleness: h.fresh(ctx)}
	var asked []placement.Host
	h.node.View(func(s *placement.State) {
		asked = slices.DeleteFunc(s.Hosts(), func(host placement.Host) bool { return !host.State.Serves() && host.ID != h.self })
	})
	r.Findings, r.Silent = h.health.all(r.Staleness.GetStale(), h.reports(ctx, asked, false))
	return r, nil
}

// all gives the findings of the whole and those of the reports, the worst first, and names the hosts that gave no report.
// stale says that no leader could be asked just now.
func (k *health) all(stale bool, reports []*v1.HostReport) (all []*v1.Finding, silent []string) {
	all = k.ofWhole(stale)
	for _, r := range reports {
		if r.GetUnreachable() != "" {
			silent = append(silent, r.GetHost())
			continue
		}
		for _, f := range r.GetFindings() {
			f.Host = r.GetHost() // whatever it calls itself
			all = append(all, f)
		}
	}
	sortFindings(all)
	return all, silent
}

// ofWhole gives what is wrong with the cluster.
func (k *health) ofWhole(stale bool) []*v1.Finding {
	w := k.lookAtWhole()
	if stale {
		w.leaderless = max(w.leaderless, leaderPatience)
	}
	all := judgeWhole(w)
	k.whole.date(all, w.now)
	return all
}

// ofThis gives what is wrong with this host.
func (k *health) ofThis() []*v1.Finding {
	o := k.lookAtThis()
	all := judgeOwn(o)
	k.own.date(all, o.now)
	return all
}

// watch looks now and then, until ctx ends.
func (k *health) watch(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		k.ofWhole(false)
		k.ofThis()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (k *health) lookAtWhole() whole {
	status := k.host.node.Status()
	w := whole{now: time.Now(), voters: status.Voters, sole: map[placement.HostID]bool{}, names: map[placement.HostID]string{}}
	if status.Leader == "" && status.Role != raft.Leader {
		if w.leaderless = status.LastContact; w.leaderless < 0 {
			w.leaderless = time.Since(k.host.started)
		}
	}
	k.host.node.View(func(s *placement.State) {
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

// shortOf counts the shards of a content that are on fewer hosts than wanted. A copy that is about to move counts where it
// is: it goes only when the others are there.
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

func (k *health) lookAtThis() own {
	h := k.host
	usage := h.store.Usage()
	o := own{
		now: time.Now(), host: h.cfg.Name, bytes: usage.Bytes, high: usage.High, free: usage.Free, reserve: usage.Reserve,
		noRoom: h.keeper.Progress().NoRoom, expires: h.id.Expires(),
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
	troubles := h.node.Trouble()
	h.node.View(func(s *placement.State) {
		o.damaged = k.damage.left(s, h.self, h.store)
		for _, t := range troubles {
			o.trouble = append(o.trouble, trouble{t, hostNames(s, []placement.HostID{t.Host})[0]})
		}
	})
	return o
}

var descFindings = prometheus.NewDesc("virtswarm_findings", "What is wrong, as far as this host sees, by severity and kind.", []string{"severity", "kind"}, nil)

// Describe implements prometheus.Collector.
func (k *health) Describe(ch chan<- *prometheus.Desc) { ch <- descFindings }

// Collect implements prometheus.Collector. Kinds that nothing is found of are 0, so that an alert has something to go by.
func (k *health) Collect(ch chan<- prometheus.Metric) {
	found := map[v1.Severity]map[string]int{warning: {}, critical: {}}
	for _, f := range append(k.ofWhole(false), k.ofThis()...) {
		found[f.GetSeverity()][f.GetKind()]++
	}
	for severity, name := range map[v1.Severity]string{warning: "warning", critical: "critical"} {
		for _, kind := range findingKinds {
			ch <- prometheus.MustNewConstMetric(descFindings, prometheus.GaugeValue, float64(found[severity][kind]), name, kind)
		}
	}
}
