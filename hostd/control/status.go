package control

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/virtswarm/virtswarm/hostd/fetch"
	"github.com/virtswarm/virtswarm/hostd/observe"
	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/raft"
)

// Status says how the cluster and this host are doing.
type Status struct {
	Cluster                string
	Version                string // of this host's daemon
	Uptime                 time.Duration
	Host                   Host
	Leader                 *Host // nil if there is none
	Raft                   raft.Status
	Voters, Nonvoters      []string // names, sorted
	HostsAlive, HostsTotal int
	Files                  int
	ClusterVersion         int
	Replication            placement.Summary
	Store                  StoreUsage
	Fetches                []ActiveFetch // under way here, ordered by name
	Reports                []Report
	Findings               []observe.Finding // the worst first
}

// ActiveFetch is a fetch under way.
type ActiveFetch struct {
	Ref // the name is empty if the catalogue has none
	fetch.Progress
}

// Status says how the cluster and this host are doing, with the reports of this host or of all hosts; rates adds those
// of sessions to the reports.
func (r *Reports) Status(ctx context.Context, everywhere, rates bool) (Status, Staleness) {
	now := r.fresh(ctx)
	d := Status{
		Cluster: r.Identity.Cluster(), Version: r.Version, Uptime: time.Since(r.Started), Raft: r.Node.Status(), Store: r.storeUsage(),
	}
	var asked []placement.Host
	active := r.Fetch.UnderWay()
	r.Node.View(func(s *placement.State) {
		for _, host := range s.Hosts() {
			h := r.describeHost(host, d.Raft)
			if h.Self {
				d.Host = h
			}
			if h.Leader {
				d.Leader = &h
			}
			if h.Self || everywhere {
				asked = append(asked, host)
			}
			if host.State == placement.Alive {
				d.HostsAlive++
			}
			d.HostsTotal++
		}
		d.Voters, d.Nonvoters = hostNames(s, d.Raft.Voters), hostNames(s, d.Raft.Nonvoters)
		d.Files, d.ClusterVersion, d.Replication = s.Files(), s.Version(), s.UnderReplicated()
		for id, p := range active {
			f := ActiveFetch{Ref: Ref{ID: id}, Progress: p}
			if c, ok := s.Content(id); ok && len(c.Names) > 0 {
				f.Name = c.Names[0]
			}
			d.Fetches = append(d.Fetches, f)
		}
	})
	d.Reports = r.reports(ctx, asked, rates)
	d.Findings, _ = r.findings(now.Stale, d.Reports)
	slices.SortFunc(d.Fetches, func(a, b ActiveFetch) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), slices.Compare(a.ID[:], b.ID[:]))
	})
	return d, now
}

// hostNames gives the hosts' names, sorted.
func hostNames(s *placement.State, ids []placement.HostID) []string {
	names := make([]string, 0, len(ids))
	for _, id := range ids {
		names = append(names, hostName(s, id))
	}
	slices.Sort(names)
	return names
}
