package hostd

import (
	"context"
	"path/filepath"
	"sync"
	"time"

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
		HitBytes: h.cache.hits.Load(), MissBytes: h.cache.misses.Load(),
	}
	h.node.View(func(s *placement.State) { r.Recent = describeRecent(s, h.fetches.recent.last()) })
	return r
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
