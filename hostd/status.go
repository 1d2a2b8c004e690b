package hostd

import (
	"context"
	"slices"
	"strings"
	"time"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/placement"
)

// Status implements server.Host.
func (h *Host) Status(ctx context.Context, req *v1.StatusRequest) (*v1.StatusResponse, error) {
	r := &v1.StatusResponse{
		Staleness: h.fresh(ctx), ClusterId: h.id.Cluster(), Version: h.version, UptimeSeconds: time.Since(h.started).Seconds(),
	}
	status := h.node.Status()
	r.RaftState, r.Term, r.AppliedIndex, r.CommitIndex = string(status.Role), status.Term, status.Applied, status.Commit
	r.Store = h.storeUsage()
	var asked []placement.Host
	active := h.fetch.UnderWay()
	h.node.View(func(s *placement.State) {
		for _, host := range s.Hosts() {
			d := h.describeHost(host, status)
			if d.Self {
				r.Host = d
			}
			if d.Leader {
				r.Leader = d
			}
			if d.Self || req.GetHosts() {
				asked = append(asked, host)
			}
			if host.State == placement.Alive {
				r.HostsAlive++
			}
			r.HostsTotal++
		}
		r.Voters, r.Nonvoters = hostNames(s, status.Voters), hostNames(s, status.Nonvoters)
		r.Files = uint64(s.Files())
		sum := s.UnderReplicated()
		r.UnderReplicatedFiles, r.UnderReplicatedShards = uint64(sum.UnderContents), uint64(sum.UnderReplicated)
		r.UnavailableFiles = uint64(sum.LostContents)
		r.RepairShards, r.RepairBytes, r.AwaitedShards = uint64(sum.ToGo), uint64(sum.ToGoBytes), uint64(sum.Awaited)
		for id, p := range active {
			c, _ := s.Content(id)
			name := ""
			if len(c.Names) > 0 {
				name = c.Names[0]
			}
			r.Fetches = append(r.Fetches, &v1.ActiveFetch{
				Name: name, Id: id.String(), Done: uint64(p.Done), Total: uint64(p.Total), Rate: p.Rate, Sources: uint32(p.Sources),
			})
		}
	})
	r.Reports = h.reports(ctx, asked, req.GetPeers())
	r.Findings, _ = h.health.all(r.Staleness.GetStale(), r.Reports)
	slices.SortFunc(r.Fetches, func(a, b *v1.ActiveFetch) int { return strings.Compare(a.Name+a.Id, b.Name+b.Id) })
	return r, nil
}

// hostNames gives the hosts' names, sorted; a host that the catalogue does not know goes by its id.
func hostNames(s *placement.State, ids []placement.HostID) []string {
	names := make([]string, 0, len(ids))
	for _, id := range ids {
		name := string(id)
		if host, ok := s.Host(id); ok {
			name = host.Name
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
