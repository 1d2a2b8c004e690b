package server

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/virtswarm/virtswarm/hostd/control"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

// Hosts implements ControlHost.
func (o *Operations) Hosts(ctx context.Context, _ *v1.HostsRequest) (*v1.HostsResponse, error) {
	hosts, now := o.HostOps.Hosts(ctx)
	return &v1.HostsResponse{Staleness: staleness(now), Hosts: list(hosts, hostMessage)}, nil
}

// ShowHost implements ControlHost.
func (o *Operations) ShowHost(ctx context.Context, req *v1.ShowHostRequest) (*v1.ShowHostResponse, error) {
	d, now, err := o.HostOps.ShowHost(ctx, req.GetHost())
	if err != nil {
		return nil, err
	}
	return &v1.ShowHostResponse{
		Staleness: staleness(now), Host: hostMessage(d.Host), Report: reportMessage(d.Report),
		MustShards: uint64(d.Load.Shards), MustHeldShards: uint64(d.Load.Held),
		DrainShards: uint64(d.Drain.Shards), DrainBytes: uint64(d.Drain.Bytes),
	}, nil
}

func hostMessage(h control.Host) *v1.Host {
	return &v1.Host{
		Id: string(h.ID), Name: h.Name, Address: h.Addr, Weight: h.Weight, Labels: h.Labels, State: hostStates[h.State], Voter: h.Voter,
		Leader: h.Leader, Self: h.Self, Files: uint64(h.Files), HeldBytes: uint64(h.HeldBytes), Limits: limitsMessage(h.Limits),
		StateSince: h.At, Version: h.Program, ClusterVersion: uint32(h.CanVersion()),
	}
}

// limitsMessage gives limits in the API's words, with the watermarks that hold.
func limitsMessage(l placement.Limits) *v1.HostLimits {
	high, low := l.Watermarks()
	return &v1.HostLimits{Up: uint64(l.Up), Down: uint64(l.Down), Quota: uint64(l.Quota), High: uint32(high), Low: uint32(low)}
}

// limitsOf is the inverse of limitsMessage. What does not fit becomes negative, which the catalogue refuses.
func limitsOf(l *v1.HostLimits) placement.Limits {
	return placement.Limits{
		Up: int64(l.GetUp()), Down: int64(l.GetDown()), Quota: int64(l.GetQuota()), High: int(l.GetHigh()), Low: int(l.GetLow()),
	}
}

// SetHost implements ControlHost.
func (o *Operations) SetHost(ctx context.Context, req *v1.SetHostRequest) (*v1.SetHostResponse, error) {
	u, err := hostUpdate(req)
	if err != nil {
		return nil, err
	}
	host, index, err := o.HostOps.SetHost(ctx, req.GetHost(), u)
	if err != nil {
		return nil, err
	}
	return &v1.SetHostResponse{Host: hostMessage(host), Index: index}, nil
}

// hostUpdate checks that what is asked for fits into the catalogue's types; the catalogue checks the rest.
func hostUpdate(req *v1.SetHostRequest) (u placement.UpdateHost, err error) {
	u.Relabel, u.Weight = req.GetLabels(), req.GetWeight()
	if req.Weight != nil && req.GetWeight() == 0 {
		return u, reason.Wrap(reason.Usage, "`weight`", errors.New("0 is not in 1 to 10000; to move all of its shards away, drain the host"))
	}
	for _, f := range []struct {
		field string
		asked *uint64
		set   **int64
	}{{"up", req.Up, &u.Up}, {"down", req.Down, &u.Down}, {"quota", req.Quota, &u.Quota}} {
		if f.asked == nil {
			continue
		}
		n, err := bytesOf(f.field, *f.asked)
		if err != nil {
			return u, err
		}
		*f.set = &n
	}
	for _, f := range []struct {
		field string
		asked *uint32
		set   **int
	}{{"high", req.High, &u.High}, {"low", req.Low, &u.Low}} {
		if f.asked == nil {
			continue
		}
		if *f.asked > 100 {
			return u, reason.Wrap(reason.Usage, "`"+f.field+"`", fmt.Errorf("%d%% is more than all", *f.asked))
		}
		*f.set = new(int(*f.asked))
	}
	return u, nil
}

// Drain implements ControlHost.
func (o *Operations) Drain(ctx context.Context, req *v1.DrainRequest, send func(*v1.DrainProgress) error) error {
	return o.HostOps.Drain(ctx, req.GetHost(), req.GetWait(), req.GetForce(), func(p control.DrainProgress) error {
		return send(&v1.DrainProgress{
			HostId: string(p.ID), Host: p.Host, TotalShards: uint64(p.Total.Shards), TotalBytes: uint64(p.Total.Bytes),
			LeftShards: uint64(p.Left.Shards), LeftBytes: uint64(p.Left.Bytes), Rate: p.Rate, Done: p.Done,
		})
	})
}

// Undrain implements ControlHost.
func (o *Operations) Undrain(ctx context.Context, req *v1.UndrainRequest) (*v1.UndrainResponse, error) {
	host, index, err := o.HostOps.Undrain(ctx, req.GetHost())
	if err != nil {
		return nil, err
	}
	return &v1.UndrainResponse{Host: hostMessage(host), Index: index}, nil
}

// Leave implements ControlHost.
func (o *Operations) Leave(ctx context.Context, req *v1.LeaveRequest, send func(*v1.LeaveProgress) error) error {
	return o.HostOps.Leave(ctx, req.GetHost(), req.GetForce(), func(p control.LeaveProgress) error {
		return send(&v1.LeaveProgress{
			Phase: v1.LeavePhase(p.Phase), Done: uint64(p.Done), Total: uint64(p.Total), HostId: string(p.ID), Host: p.Host,
		})
	})
}

// CreateToken implements ControlHost.
func (o *Operations) CreateToken(ctx context.Context, req *v1.CreateTokenRequest) (*v1.CreateTokenResponse, error) {
	life := time.Duration(min(req.GetTtlSeconds(), uint64(math.MaxInt64/time.Second))) * time.Second
	i, err := o.HostOps.CreateToken(ctx, life)
	if err != nil {
		return nil, err
	}
	return &v1.CreateTokenResponse{Token: i.Token, ExpiresAt: i.Expires.Unix(), Addresses: i.Addresses}, nil
}

// Join implements JoinHost.
func (o *Operations) Join(ctx context.Context, req *v1.JoinRequest) (*v1.JoinResponse, error) {
	a, err := o.HostOps.Admit(ctx, control.Applicant{
		Token: req.GetToken(), CSR: req.GetCsr(), Name: req.GetName(), Address: req.GetAddress(), Weight: req.GetWeight(),
		Labels: req.GetLabels(), Limits: limitsOf(req.GetLimits()), Version: int(req.GetClusterVersion()), Program: req.GetVersion(),
		Picked: req.GetPicked(),
	})
	if err != nil {
		return nil, err
	}
	return &v1.JoinResponse{
		ClusterId: a.Cluster, HostId: string(a.ID), HostCertificate: a.Certificate, CaCertificate: a.CA, CaKey: a.CAKey,
		Unreached: a.Unreached,
		Peers: list(a.Members, func(h placement.Host) *v1.JoinPeer {
			return &v1.JoinPeer{Id: string(h.ID), Name: h.Name, Address: h.Addr}
		}),
	}, nil
}
