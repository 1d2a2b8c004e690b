package hostd

import (
	"cmp"
	"context"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/hostd/swarm"
	"github.com/virtswarm/virtswarm/internal/api"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/placement"
)

const (
	// reportPatience bounds the wait for another host's report: a status must come although a host hangs.
	reportPatience = 2 * time.Second
	// maxReports bounds the hosts that are asked at a time.
	maxReports = 64
)

// Report implements server.Host.
func (h *Host) Report(_ context.Context, req *v1.ReportRequest) (*v1.HostReport, error) {
	return h.report(req.GetPeers()), nil
}

// report says how this host is doing.
func (h *Host) report(peers bool) *v1.HostReport {
	todo := h.keeper.Progress()
	r := &v1.HostReport{
		HostId: string(h.self), Host: h.cfg.Name, Store: h.storeUsage(),
		RepairShards: uint64(todo.Repair.Shards), RepairBytes: uint64(todo.Repair.Bytes), RepairRate: todo.Repair.Rate,
		DistributeShards: uint64(todo.Distribute.Shards), DistributeBytes: uint64(todo.Distribute.Bytes), DistributeRate: todo.Distribute.Rate,
		NoRoomFiles: uint64(todo.NoRoom), EvictedBytes: uint64(todo.Evicted),
		HitBytes: h.cache.hits.Load(), MissBytes: h.cache.misses.Load(), Findings: h.health.ofThis(),
	}
	r.SentBytes, r.ReceivedBytes = h.moved()
	h.node.View(func(s *placement.State) {
		r.Recent = describeRecent(s, h.swarm.Recent())
		if peers {
			r.Peers = describePeers(s, h.swarm.Peers())
		}
	})
	return r
}

// describeRecent gives finished fetches in the API's words.
func describeRecent(s *placement.State, list []swarm.FetchStat) []*v1.FinishedFetch {
	all := make([]*v1.FinishedFetch, 0, len(list))
	for _, f := range list {
		d := &v1.FinishedFetch{
			Id: f.File.String(), Bytes: uint64(f.Bytes), Seconds: f.Took.Seconds(), BoundSeconds: f.Took.Seconds() / f.Ratio,
			Sources: uint32(f.Sources), EndedAt: f.Began.Add(f.Took).Unix(),
		}
		if c, ok := s.Content(f.File); ok {
			d.Name = c.Names[0]
		}
		all = append(all, d)
	}
	return all
}

// describePeers gives the sessions in the API's words, the busiest first.
func describePeers(s *placement.State, list []swarm.PeerStat) []*v1.PeerRate {
	all := make([]*v1.PeerRate, 0, len(list))
	for _, p := range list {
		d := &v1.PeerRate{
			HostId: string(p.Host), Host: string(p.Host), Up: p.Up, Down: p.Down, OwesBytes: uint64(p.Owes), WaitsChunks: uint32(p.Waits),
		}
		if host, ok := s.Host(p.Host); ok {
			d.Host = host.Name
		}
		all = append(all, d)
	}
	slices.SortStableFunc(all, func(a, b *v1.PeerRate) int { return cmp.Compare(b.Up+b.Down, a.Up+a.Down) })
	return all
}

// moved returns the bytes of chunks sent to and received from other hosts since the start, as the swarm's metrics have
// them.
func (h *Host) moved() (sent, received uint64) {
	families, err := h.registry.Gather()
	if err != nil {
		h.log.Debug("some metrics cannot be gathered", "error", err) // the others are there
	}
	for _, f := range families {
		switch f.GetName() {
		case "virtswarm_swarm_sent_bytes_total":
			sent = uint64(f.GetMetric()[0].GetCounter().GetValue())
		case "virtswarm_swarm_received_bytes_total":
			received = uint64(f.GetMetric()[0].GetCounter().GetValue())
		}
	}
	return sent, received
}

func (h *Host) storeUsage() *v1.StoreUsage {
	u := h.store.Usage()
	return &v1.StoreUsage{
		Files: uint64(u.Files), Bytes: uint64(u.Bytes), Quota: uint64(u.Quota), Free: uint64(u.Free),
		Path: filepath.Join(h.cfg.Data, "store"), Budget: uint64(u.Budget), High: uint64(u.High), Low: uint64(u.Low),
	}
}

// reports asks hosts how they are doing, this one included, and returns their answers in the same order. A host that
// does not answer says why.
func (h *Host) reports(ctx context.Context, hosts []placement.Host, peers bool) []*v1.HostReport {
	ctx, cancel := context.WithTimeout(ctx, reportPatience)
	defer cancel()
	all := make([]*v1.HostReport, len(hosts))
	free := make(chan struct{}, maxReports)
	var asking sync.WaitGroup
	for i, host := range hosts {
		if host.ID == h.self {
			all[i] = h.report(peers)
			continue
		}
		free <- struct{}{}
		asking.Go(func() {
			defer func() { <-free }()
			r, err := h.peers.report(ctx, host, peers)
			if err != nil {
				r = &v1.HostReport{Unreachable: unreachable(err)}
			}
			r.HostId, r.Host = string(host.ID), host.Name // whatever it calls itself
			all[i] = r
		})
	}
	asking.Wait()
	return all
}

// unreachable says in few words why a host did not answer.
func unreachable(err error) string {
	e := api.AsError(err)
	if e.Err != nil {
		return e.Err.Error()
	}
	return e.Error()
}
