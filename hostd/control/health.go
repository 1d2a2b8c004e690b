package control

import (
	"context"
	"slices"

	"github.com/virtswarm/virtswarm/hostd/observe"
	"github.com/virtswarm/virtswarm/placement"
)

// Health lists what is wrong with the cluster and with each host that is up, the worst first. It names the hosts that
// did not answer.
func (r *Reports) Health(ctx context.Context) (all []observe.Finding, silent []string, now Staleness) {
	now = r.fresh(ctx)
	var asked []placement.Host
	r.Node.View(func(s *placement.State) {
		asked = slices.DeleteFunc(s.Hosts(), func(host placement.Host) bool { return !host.State.Serves() && host.ID != r.Self })
	})
	all, silent = r.findings(now.Stale, r.reports(ctx, asked, false))
	return all, silent, now
}

// findings gives those of the cluster and those of reports, the worst first, and names the hosts that gave no report.
func (r *Reports) findings(stale bool, reports []Report) (all []observe.Finding, silent []string) {
	all = r.Findings.OfCluster(stale)
	for _, report := range reports {
		if report.Unreachable != "" {
			silent = append(silent, report.Host)
			continue
		}
		for _, f := range report.Findings {
			f.Host = report.Host // whatever it calls itself
			all = append(all, f)
		}
	}
	observe.Sort(all)
	return all, silent
}
