package servertest

import (
	"cmp"
	"context"
	"slices"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

// List implements server.ControlHost.
func (h *Host) List(ctx context.Context, req *v1.ListRequest) (*v1.ListResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	limit := int(req.GetLimit())
	if limit == 0 || limit > pageSize {
		limit = pageSize
	}
	resp := &v1.ListResponse{Staleness: h.staleness()}
	for _, name := range h.sortedNames(req.GetPrefix()) {
		if name <= req.GetAfter() {
			continue
		}
		if len(resp.Files) == limit {
			resp.More = true
			break
		}
		versions := h.names[name]
		resp.Files = append(resp.Files, h.file(versions[len(versions)-1]))
	}
	return resp, ctx.Err()
}

// Show implements server.ControlHost.
func (h *Host) Show(ctx context.Context, req *v1.ShowRequest) (*v1.ShowResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, err := h.version(req.GetName(), req.GetId())
	if err != nil {
		return nil, err
	}
	resp := &v1.ShowResponse{Staleness: h.staleness(), File: h.file(v)}
	for _, v := range slices.Backward(h.names[req.GetName()]) {
		resp.Versions = append(resp.Versions, h.file(v))
	}
	b := h.contents[v.id]
	for _, m := range h.hosts {
		if bad, ok := b.holders[m.id]; ok && bad == 0 {
			resp.Holdings = append(resp.Holdings, &v1.Holding{
				HostId: m.id, Host: m.name, State: m.state, Target: v.all || v.targets[m.id],
				Shards: uint32(b.manifest.Shards()), HomeShards: uint32(b.manifest.Shards()), Bytes: uint64(b.manifest.DataBytes()),
			})
		}
	}
	slices.SortFunc(resp.Holdings, func(a, b *v1.Holding) int { return cmp.Compare(a.GetHost(), b.GetHost()) })
	return resp, ctx.Err()
}

// Remove implements server.ControlHost.
func (h *Host) Remove(ctx context.Context, req *v1.RemoveRequest) (*v1.RemoveResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, err := h.version(req.GetName(), req.GetId()); err != nil {
		return nil, err
	}
	if err := h.write(); err != nil {
		return nil, err
	}
	resp := &v1.RemoveResponse{Index: h.index}
	for _, v := range slices.Backward(h.names[req.GetName()]) {
		if req.GetId() == "" || v.id == req.GetId() {
			resp.Removed = append(resp.Removed, h.file(v))
		}
	}
	left := slices.DeleteFunc(h.names[req.GetName()], func(v *version) bool { return req.GetId() == "" || v.id == req.GetId() })
	h.names[req.GetName()] = left
	if len(left) == 0 {
		delete(h.names, req.GetName())
	}
	h.replicate()
	return resp, ctx.Err()
}

// Hosts implements server.ControlHost.
func (h *Host) Hosts(ctx context.Context, _ *v1.HostsRequest) (*v1.HostsResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	resp := &v1.HostsResponse{Staleness: h.staleness()}
	for _, m := range h.hosts {
		resp.Hosts = append(resp.Hosts, h.describe(m))
	}
	slices.SortFunc(resp.Hosts, func(a, b *v1.Host) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return resp, ctx.Err()
}

// Status implements server.ControlHost.
func (h *Host) Status(ctx context.Context, req *v1.StatusRequest) (*v1.StatusResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	resp := &v1.StatusResponse{
		Staleness: h.staleness(), ClusterId: ClusterID, Version: "0.1.0", UptimeSeconds: 90061,
		Host: h.describe(h.self()), RaftState: "leader", Leader: h.describe(h.self()),
		Term: 3, AppliedIndex: h.index, CommitIndex: h.index,
		HostsAlive: uint32(len(h.alive())), HostsTotal: uint32(len(h.hosts)), Files: uint64(len(h.names)),
		Store: h.report(h.self(), false).GetStore(),
	}
	for _, m := range h.hosts {
		if m == h.self() || req.GetHosts() {
			resp.Reports = append(resp.Reports, h.report(m, req.GetPeers()))
		}
	}
	slices.SortFunc(resp.Reports, func(a, b *v1.HostReport) int { return cmp.Compare(a.GetHost(), b.GetHost()) })
	if h.noLeader {
		resp.RaftState, resp.Leader = "candidate", nil
	}
	for _, m := range h.hosts {
		resp.Voters = append(resp.Voters, m.name)
	}
	slices.Sort(resp.Voters)
	for _, name := range h.sortedNames("") {
		for _, v := range h.names[name] {
			f := h.file(v)
			resp.UnderReplicatedShards += uint64(f.GetShardsMissingCopies())
			if f.GetShardsMissingCopies() > 0 {
				resp.UnderReplicatedFiles++
				resp.RepairShards += uint64(f.GetShards())
				resp.RepairBytes += f.GetDataBytes()
			}
			if f.GetCopiesMade() == 0 {
				resp.UnavailableFiles++
			}
		}
	}
	return resp, ctx.Err()
}

func (h *Host) describe(m *member) *v1.Host {
	d := &v1.Host{
		Id: m.id, Name: m.name, Address: m.name + ".example:7117", Weight: m.weight, Labels: m.labels, State: m.state,
		Limits: m.limits, StateSince: h.now.Unix(), Voter: true, Leader: m == h.self() && !h.noLeader, Self: m == h.self(),
	}
	for _, b := range h.contents {
		if _, ok := b.holders[m.id]; ok {
			d.Files++
			d.HeldBytes += uint64(b.manifest.DataBytes())
		}
	}
	return d
}

func (h *Host) file(v *version) *v1.File {
	b := h.contents[v.id]
	f := &v1.File{
		Name: v.name, Id: v.id, Size: uint64(len(b.data)), DataBytes: uint64(b.manifest.DataBytes()),
		ChunkSize: uint32(b.manifest.ChunkSize()), Shards: uint32(b.manifest.Shards()),
		Replicas: v.replicas, CopiesWanted: v.replicas, CopiesMade: h.copies(b), Guests: v.guests,
		Publisher: h.hostName(v.publisher), PublishedAt: v.at, Index: v.index, Versions: uint32(len(h.names[v.name])),
	}
	if v.replicas == 0 {
		f.CopiesWanted = uint32(len(h.alive()))
	}
	if f.CopiesMade < f.CopiesWanted {
		f.ShardsMissingCopies = f.Shards
	}
	return f
}
