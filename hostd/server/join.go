package server

import (
	"context"
	"errors"
	"fmt"
	"net"

	"connectrpc.com/connect"

	"github.com/virtswarm/virtswarm/hostd/control"
	"github.com/virtswarm/virtswarm/internal/api"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/link"
	"github.com/virtswarm/virtswarm/internal/pki"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

// Apply asks the member at addr to make this machine a host: Hosts.Admit at the other end of the connection that dial
// opens. asked says whether the member may have got the request.
func Apply(
	ctx context.Context, addr string, dial func(context.Context) (net.Conn, error), a control.Applicant,
) (_ control.Admission, asked bool, _ error) {
	client := api.NewClient(func(ctx context.Context) (net.Conn, error) {
		conn, err := dial(ctx)
		asked = asked || err == nil
		return conn, err
	})
	defer client.Close()
	r, err := client.Join.Join(ctx, &v1.JoinRequest{
		Token: a.Token, Csr: a.CSR, Name: a.Name, Address: a.Address, Weight: a.Weight, Labels: a.Labels, Limits: limitsMessage(a.Limits),
		Version: a.Program, ClusterVersion: uint32(a.Version), Picked: a.Picked,
	})
	if err != nil {
		return control.Admission{}, asked, joinError(addr, err)
	}
	return control.Admission{
		Cluster: r.GetClusterId(), ID: placement.HostID(r.GetHostId()), Certificate: r.GetHostCertificate(), CA: r.GetCaCertificate(),
		CAKey: r.GetCaKey(), Unreached: r.GetUnreached(),
		Members: list(r.GetPeers(), func(p *v1.JoinPeer) placement.Host {
			return placement.Host{ID: placement.HostID(p.GetId()), Name: p.GetName(), Addr: p.GetAddress()}
		}),
	}, asked, nil
}

// Members lists the members of the cluster that the host at the other end of dial is of. stale says that it could ask
// no leader.
func Members(ctx context.Context, dial func(context.Context) (net.Conn, error)) (ids []placement.HostID, stale bool, err error) {
	client := api.NewClient(dial)
	defer client.Close()
	r, err := client.Control.Hosts(ctx, &v1.HostsRequest{})
	if err != nil {
		return nil, false, err
	}
	return list(r.GetHosts(), func(h *v1.Host) placement.HostID { return placement.HostID(h.GetId()) }), r.GetStaleness().GetStale(), nil
}

// joinError says why joining failed; what the member said is passed on as it is.
func joinError(addr string, err error) error {
	if errors.Is(err, pki.ErrPinMismatch) {
		return reason.Wrap(reason.NotMember, addr, err).
			WithHint("make a token at a member: virtswarm token; one that was made before 'virtswarm ca rotate' is good no more")
	}
	if errors.Is(err, link.ErrNoProtocol) {
		return fmt.Errorf("join at %s: %w", addr, err)
	}
	e := api.AsError(err)
	if connect.IsWireError(err) { // the member knows better
		return e
	}
	if e.Reason == reason.Unreachable || errors.Is(err, context.DeadlineExceeded) || connect.CodeOf(err) == connect.CodeDeadlineExceeded {
		return reason.Wrap(reason.Unreachable, addr, e.Err).WithHint("check that virtswarmd runs there as a member of a cluster, and that the address is the one of its port")
	}
	return e
}

// Locate tells the host at the other end of dial where this one is, and returns where others are: Operations.Locate.
func Locate(ctx context.Context, dial func(context.Context) (net.Conn, error), addr string) (map[placement.HostID]string, error) {
	client := api.NewClient(dial)
	defer client.Close()
	r, err := client.Cluster.Locate(ctx, &v1.LocateRequest{Address: addr})
	if err != nil {
		return nil, err
	}
	at := map[placement.HostID]string{}
	for _, l := range r.GetLocations() {
		if _, _, err := net.SplitHostPort(l.GetAddress()); err == nil && len(l.GetAddress()) <= maxAddress && len(at) < placement.MaxHosts {
			at[placement.HostID(l.GetHostId())] = l.GetAddress()
		}
	}
	return at, nil
}
