package main

import (
	"cmp"
	"fmt"
	"slices"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

// recentShown is how many distributions status shows.
const recentShown = 5

// showReports tells how each host is doing.
func (c *cli) showReports(reports []*v1.HostReport) error {
	fmt.Fprintln(c.stdout)
	t := newTable(c.stdout, "HOST", "STORE", "OF", "EVICTED", "REPAIR", "ORDERED", "SENT", "RECEIVED")
	for _, r := range reports {
		if why := r.GetUnreachable(); why != "" {
			t.row(r.GetHost(), "?", "?", "?", "?", "?", "?", why)
			continue
		}
		t.row(r.GetHost(), size(r.GetStore().GetBytes()), size(r.GetStore().GetBudget()), size(r.GetEvictedBytes()),
			workText(r.GetRepairBytes(), r.GetRepairRate()), workText(r.GetDistributeBytes(), r.GetDistributeRate()),
			size(r.GetSentBytes()), size(r.GetReceivedBytes()))
	}
	if err := t.flush(); err != nil {
		return err
	}
	for _, r := range reports {
		if n := r.GetNoRoomFiles(); n > 0 {
			fmt.Fprintf(c.stdout, "%s has no room for %s that it must hold\n", r.GetHost(), plural(n, "file"))
		}
	}
	return nil
}

// workText gives what is to be done and how fast it goes: "1.2 GiB at 90 MiB/s".
func workText(bytes uint64, bytesPerSecond float64) string {
	if bytes == 0 {
		return "-"
	}
	return fmt.Sprintf("%s at %s", size(bytes), rate(bytesPerSecond))
}

// showPeers tells what goes between the host that answers and others.
func (c *cli) showPeers(reports []*v1.HostReport) error {
	t := newTable(c.stdout, "PEER", "UP", "DOWN", "OWES", "WAITS FOR")
	for _, r := range reports {
		for _, p := range r.GetPeers() {
			t.row(p.GetHost(), rate(p.GetUp()), rate(p.GetDown()), size(p.GetOwesBytes()), plural(p.GetWaitsChunks(), "chunk"))
		}
	}
	return t.flush()
}

// distribution is what several hosts fetched of one content.
type distribution struct {
	file        string
	ended       int64
	took, bound []float64
	bytes       uint64
}

// showRecent tells how long the last distributions took, from what the hosts remember of their fetches.
func (c *cli) showRecent(reports []*v1.HostReport) error {
	byID := map[string]*distribution{}
	for _, r := range reports {
		for _, f := range r.GetRecent() {
			d := byID[f.GetId()]
			if d == nil {
				d = &distribution{file: f.GetName()}
				byID[f.GetId()] = d
			}
			if d.file == "" {
				d.file = shortID(f.GetId())
			}
			d.ended = max(d.ended, f.GetEndedAt())
			d.took, d.bound = append(d.took, f.GetSeconds()), append(d.bound, f.GetBoundSeconds())
			d.bytes += f.GetBytes()
		}
	}
	if len(byID) == 0 {
		return nil
	}
	all := make([]*distribution, 0, len(byID))
	for _, d := range byID {
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b *distribution) int {
		return cmp.Or(cmp.Compare(b.ended, a.ended), cmp.Compare(a.file, b.file))
	})
	fmt.Fprintln(c.stdout)
	t := newTable(c.stdout, "FETCHED", "ENDED", "HOSTS", "BYTES", "FIRST", "LAST", "LAST/BOUND")
	for _, d := range all[:min(len(all), recentShown)] {
		last := slices.Index(d.took, slices.Max(d.took))
		t.row(d.file, when(d.ended), len(d.took), size(d.bytes), seconds(slices.Min(d.took)), seconds(d.took[last]), ratio(d.took[last], d.bound[last]))
	}
	return t.flush()
}

func ratio(took, bound float64) string {
	if bound <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", took/bound)
}
