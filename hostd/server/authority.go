package server

import (
	"context"

	"github.com/virtswarm/virtswarm/hostd/control"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

var authorityStates = map[placement.AuthorityState]v1.AuthorityState{
	placement.NextAuthority:   v1.AuthorityState_AUTHORITY_STATE_NEXT,
	placement.ActiveAuthority: v1.AuthorityState_AUTHORITY_STATE_ACTIVE,
	placement.FormerAuthority: v1.AuthorityState_AUTHORITY_STATE_FORMER,
}

// Authorities implements ControlHost.
func (o *Operations) Authorities(ctx context.Context, _ *v1.AuthoritiesRequest) (*v1.AuthoritiesResponse, error) {
	all, now := o.HostOps.Authorities(ctx)
	return &v1.AuthoritiesResponse{Staleness: staleness(now), Authorities: list(all, func(a control.Authority) *v1.Authority {
		return &v1.Authority{Id: a.ID, State: authorityStates[a.State], StateSince: a.Since, Hosts: a.Hosts}
	})}, nil
}

// RotateAuthority implements ControlHost.
func (o *Operations) RotateAuthority(
	ctx context.Context, _ *v1.RotateAuthorityRequest, send func(*v1.RotateAuthorityProgress) error,
) error {
	return o.HostOps.Rotate(ctx, func(r control.Rotation) error {
		return send(&v1.RotateAuthorityProgress{
			Authority: r.Authority, Active: r.Active, Hosts: uint32(r.Hosts), Renewed: uint32(r.Renewed), Down: r.Down, Done: r.Done,
		})
	})
}

// AuthorityKey implements ClusterHost.
func (o *Operations) AuthorityKey(ctx context.Context, req *v1.AuthorityKeyRequest) (*v1.AuthorityKeyResponse, error) {
	peer, ok := PeerOf(ctx)
	if !ok {
		return nil, reason.Wrap(reason.NotMember, "", nil)
	}
	held, key, err := o.HostOps.AuthorityKey(ctx, placement.HostID(peer), req.GetAuthority())
	if err != nil {
		return nil, err
	}
	return &v1.AuthorityKeyResponse{Held: held, Key: key}, nil
}

// Renew implements JoinHost.
func (o *Operations) Renew(ctx context.Context, req *v1.RenewRequest) (*v1.RenewResponse, error) {
	r, err := o.HostOps.Renew(ctx, req.GetCsr())
	if err != nil {
		return nil, err
	}
	return &v1.RenewResponse{HostCertificate: r.Certificate, CaCertificate: r.CA}, nil
}
