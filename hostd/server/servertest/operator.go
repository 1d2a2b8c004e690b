package servertest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// Drain implements server.ControlHost.
func (h *Host) Drain(ctx context.Context, req *v1.DrainRequest, send func(*v1.DrainProgress) error) error {
	p, err := h.drain(req)
	if err != nil {
		return err
	}
	if !req.GetWait() {
		p.Done = true
		return send(p)
	}
	if err := send(p); err != nil {
		return err
	}
	if err := h.wait(ctx, "drain"); err != nil {
		return err
	}
	p.LeftShards, p.LeftBytes, p.Done = 0, 0, true
	return send(p)
}

func (h *Host) drain(req *v1.DrainRequest) (*v1.DrainProgress, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m, err := h.asked(req.GetHost())
	if err != nil {
		return nil, err
	}
	if m.state == v1.HostState_HOST_STATE_DOWN {
		return nil, reason.Wrap(reason.Usage, m.name, errors.New("the host is down"))
	}
	others := uint32(len(h.alive()))
	if m.state == v1.HostState_HOST_STATE_ALIVE {
		others--
	}
	p := &v1.DrainProgress{HostId: m.id, Host: m.name, Rate: fakeRate}
	for _, name := range h.sortedNames("") {
		for _, v := range h.names[name] {
			b := h.contents[v.id]
			if _, ok := b.holders[m.id]; !ok {
				continue
			}
			if v.replicas > others && !req.GetForce() {
				return nil, reason.Wrap(reason.TooFewCopies, m.name, fmt.Errorf("%s wants %d copies, the other hosts are %d", name, v.replicas, others))
			}
			p.TotalShards += uint64(b.manifest.Shards())
			p.TotalBytes += uint64(b.manifest.DataBytes())
		}
	}
	if err := h.write(); err != nil {
		return nil, err
	}
	p.LeftShards, p.LeftBytes = p.TotalShards, p.TotalBytes
	m.state = v1.HostState_HOST_STATE_LEAVING
	h.replicate()
	return p, nil
}

// Undrain implements server.ControlHost.
func (h *Host) Undrain(_ context.Context, req *v1.UndrainRequest) (*v1.UndrainResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m, err := h.asked(req.GetHost())
	if err != nil {
		return nil, err
	}
	if err := h.write(); err != nil {
		return nil, err
	}
	if m.state == v1.HostState_HOST_STATE_LEAVING {
		m.state = v1.HostState_HOST_STATE_ALIVE
	}
	return &v1.UndrainResponse{Host: h.describe(m), Index: h.index}, nil
}

// SetHost implements server.ControlHost.
func (h *Host) SetHost(_ context.Context, req *v1.SetHostRequest) (*v1.SetHostResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m, err := h.asked(req.GetHost())
	if err != nil {
		return nil, err
	}
	l := &v1.HostLimits{
		Up: or(req.Up, m.limits.GetUp()), Down: or(req.Down, m.limits.GetDown()), Quota: or(req.Quota, m.limits.GetQuota()),
		High: or(req.High, m.limits.GetHigh()), Low: or(req.Low, m.limits.GetLow()),
	}
	if l.GetLow() >= l.GetHigh() || l.GetHigh() > 100 {
		return nil, reason.Wrap(reason.Usage, m.name, fmt.Errorf("watermarks of %d and %d %%", l.GetHigh(), l.GetLow()))
	}
	if err := h.write(); err != nil {
		return nil, err
	}
	m.limits, m.weight = l, or(req.Weight, m.weight)
	m.labels = maps.Clone(m.labels)
	for k, v := range req.GetLabels() {
		if m.labels == nil {
			m.labels = map[string]string{}
		}
		m.labels[k] = v
	}
	maps.DeleteFunc(m.labels, func(_, v string) bool { return v == "" })
	return &v1.SetHostResponse{Host: h.describe(m), Index: h.index}, nil
}

func or[T any](v *T, otherwise T) T {
	if v != nil {
		return *v
	}
	return otherwise
}

// ShowHost implements server.ControlHost.
func (h *Host) ShowHost(_ context.Context, req *v1.ShowHostRequest) (*v1.ShowHostResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m, err := h.asked(req.GetHost())
	if err != nil {
		return nil, err
	}
	return &v1.ShowHostResponse{Staleness: h.staleness(), Host: h.describe(m), Report: h.report(m, true)}, nil
}

// Unpin implements server.ControlHost.
func (h *Host) Unpin(_ context.Context, req *v1.UnpinRequest) (*v1.UnpinResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, err := h.version(req.GetName(), req.GetId())
	if err != nil {
		return nil, err
	}
	asked := map[string]bool{}
	for _, name := range req.GetHosts() {
		m, err := h.host(name)
		if err != nil {
			return nil, err
		}
		asked[m.id] = true
	}
	if err := h.write(); err != nil {
		return nil, err
	}
	r := &v1.UnpinResponse{Name: v.name, Id: v.id, Index: h.index}
	targets := map[string]bool{}
	for _, m := range h.hosts {
		switch pinned := v.all || v.targets[m.id]; {
		case pinned && (req.GetAll() || asked[m.id]):
			r.Hosts = append(r.Hosts, m.name)
		case pinned:
			targets[m.id] = true
		}
	}
	slices.Sort(r.Hosts)
	if len(r.Hosts) > 0 {
		v.all, v.targets = false, targets
	}
	return r, nil
}

// Report implements server.ClusterHost.
func (h *Host) Report(_ context.Context, req *v1.ReportRequest) (*v1.HostReport, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.report(h.self(), req.GetPeers()), nil
}

// The rest is called with mu held.

// asked finds the host that a request is about: without a name, the one that is asked.
func (h *Host) asked(name string) (*member, error) {
	if name == "" {
		return h.self(), nil
	}
	return h.host(name)
}

// report is what a host says of itself. It has fetched everything that it holds at half the bound's speed, from one
// other host.
func (h *Host) report(m *member, peers bool) *v1.HostReport {
	r := &v1.HostReport{HostId: m.id, Host: m.name}
	if m.state == v1.HostState_HOST_STATE_DOWN {
		r.Unreachable = "no route to host"
		return r
	}
	r.Store = &v1.StoreUsage{
		Files: h.describe(m).GetFiles(), Bytes: h.usage(m), Quota: m.limits.GetQuota(), Free: 100 << 30, Path: "/var/lib/virtswarm/store",
	}
	r.Store.Budget = r.Store.Free
	if m.limits.GetQuota() > 0 {
		r.Store.Budget = m.limits.GetQuota()
	}
	r.Store.High = r.Store.Budget / 100 * uint64(m.limits.GetHigh())
	r.Store.Low = r.Store.Budget / 100 * uint64(m.limits.GetLow())
	for _, name := range h.sortedNames("") {
		for _, v := range h.names[name] {
			b := h.contents[v.id]
			if _, ok := b.holders[m.id]; !ok || v.publisher == m.id {
				continue
			}
			data := uint64(b.manifest.DataBytes())
			r.ReceivedBytes += data
			r.Recent = append(r.Recent, &v1.FinishedFetch{
				Name: name, Id: v.id, Bytes: data, Seconds: 2 * float64(data) / fakeRate, BoundSeconds: float64(data) / fakeRate,
				Sources: 1, EndedAt: h.now.Unix(),
			})
		}
	}
	if !peers {
		return r
	}
	for _, o := range h.alive() {
		if o != m {
			r.Peers = append(r.Peers, &v1.PeerRate{HostId: o.id, Host: o.name, Up: fakeRate, Down: fakeRate / 2, OwesBytes: 1 << 20, WaitsChunks: 2})
		}
	}
	return r
}
