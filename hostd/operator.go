package hostd

import (
	"context"
	"errors"
	"fmt"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

// SetHost implements server.Host.
func (h *Host) SetHost(ctx context.Context, req *v1.SetHostRequest) (*v1.SetHostResponse, error) {
	h.fresh(ctx)
	host, err := h.hostNamed(req.GetHost())
	if err != nil {
		return nil, err
	}
	u, err := hostUpdate(host.ID, req)
	if err != nil {
		return nil, err
	}
	done, err := h.node.Apply(ctx, placement.Command{UpdateHost: u})
	if errors.Is(err, placement.ErrInvalidHost) {
		return nil, reason.Wrap(reason.Usage, host.Name, err)
	}
	if err != nil {
		return nil, reason.Explain(err, host.Name)
	}
	return &v1.SetHostResponse{Host: h.hostNow(host.ID), Index: done.Index}, nil
}

// hostUpdate checks that what is asked for fits into the catalogue's types; the catalogue checks the rest.
func hostUpdate(id placement.HostID, req *v1.SetHostRequest) (*placement.UpdateHost, error) {
	u := &placement.UpdateHost{ID: id, Relabel: req.GetLabels(), Weight: req.GetWeight()}
	if req.Weight != nil && req.GetWeight() == 0 {
		return nil, reason.Wrap(reason.Usage, "--weight", errors.New("0 is not in 1 to 10000; to move all of its shards away, drain the host"))
	}
	for _, f := range []struct {
		flag  string
		asked *uint64
		set   **int64
	}{{"--up", req.Up, &u.Up}, {"--down", req.Down, &u.Down}, {"--quota", req.Quota, &u.Quota}} {
		if f.asked == nil {
			continue
		}
		if *f.asked > placement.MaxQuota {
			return nil, reason.Wrap(reason.Usage, f.flag, fmt.Errorf("%d is too much", *f.asked))
		}
		*f.set = new(int64(*f.asked))
	}
	for _, f := range []struct {
		flag  string
		asked *uint32
		set   **int
	}{{"--high", req.High, &u.High}, {"--low", req.Low, &u.Low}} {
		if f.asked == nil {
			continue
		}
		if *f.asked > 100 {
			return nil, reason.Wrap(reason.Usage, f.flag, fmt.Errorf("%d%% is more than all", *f.asked))
		}
		*f.set = new(int(*f.asked))
	}
	return u, nil
}

// hostNow describes a host as it is now.
func (h *Host) hostNow(id placement.HostID) (d *v1.Host) {
	status := h.node.Status()
	h.node.View(func(s *placement.State) {
		host, _ := s.Host(id)
		d = h.describeHost(host, status)
	})
	return d
}

// ShowHost implements server.Host.
func (h *Host) ShowHost(ctx context.Context, req *v1.ShowHostRequest) (*v1.ShowHostResponse, error) {
	r := &v1.ShowHostResponse{Staleness: h.fresh(ctx)}
	host, err := h.hostNamed(req.GetHost())
	if err != nil {
		return nil, err
	}
	r.Host = h.hostNow(host.ID)
	h.node.View(func(s *placement.State) {
		held := heldByHost(s)[host.ID]
		r.Host.Files, r.Host.HeldBytes = held.files, held.bytes
		load := s.Load(host.ID)
		r.MustShards, r.MustHeldShards = uint64(load.Shards), uint64(load.Held)
		if host.State == placement.Leaving {
			left := s.Draining(host.ID)
			r.DrainShards, r.DrainBytes = uint64(left.Shards), uint64(left.Bytes)
		}
	})
	r.Report = h.reports(ctx, []placement.Host{host}, true)[0]
	return r, nil
}
