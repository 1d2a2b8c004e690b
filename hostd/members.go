package hostd

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/pki"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/raft"
)

const (
	// defaultTokenLife is how long a join token is good, maxTokenLife the longest that may be asked for.
	defaultTokenLife = time.Hour
	maxTokenLife     = 30 * 24 * time.Hour
)

// CreateToken implements server.Host.
func (h *Host) CreateToken(ctx context.Context, req *v1.CreateTokenRequest) (*v1.CreateTokenResponse, error) {
	life := defaultTokenLife
	if s := req.GetTtlSeconds(); s > 0 {
		if s > uint64(maxTokenLife/time.Second) {
			return nil, reason.Wrap(reason.Usage, "--ttl", fmt.Errorf("at most %s", maxTokenLife))
		}
		life = time.Duration(s) * time.Second
	}
	token := h.id.CA().NewToken(life)
	hash := token.Hash()
	_, err := h.write(ctx, placement.Command{CreateToken: &placement.CreateToken{
		ID: hex.EncodeToString(token.ID[:]), Hash: hex.EncodeToString(hash[:]), Expires: token.Expires.Unix(), Now: time.Now().Unix(),
	}}, "")
	if err != nil {
		return nil, err
	}
	r := &v1.CreateTokenResponse{Token: token.Encode(), ExpiresAt: token.Expires.Unix(), Addresses: []string{h.advertise}}
	h.node.View(func(s *placement.State) {
		for _, host := range s.Hosts() {
			if host.State == placement.Alive && host.ID != h.self {
				r.Addresses = append(r.Addresses, host.Addr)
			}
		}
	})
	return r, nil
}

// Join implements server.Host: it admits the host that shows a token of this cluster.
func (h *Host) Join(ctx context.Context, req *v1.JoinRequest) (*v1.JoinResponse, error) {
	token, err := pki.ParseToken(req.GetToken())
	if err != nil {
		return nil, reason.Explain(err, "")
	}
	if err := h.node.ReadIndex(ctx); err != nil { // the token may be a moment old
		return nil, reason.Explain(err, "")
	}
	tokenID := hex.EncodeToString(token.ID[:])
	if err := h.checkToken(tokenID, token); err != nil {
		return nil, reason.Explain(err, "")
	}
	cert, id, err := h.id.CA().SignCSR(req.GetCsr())
	if err != nil {
		return nil, reason.Explain(err, "certificate request")
	}
	_, err = h.write(ctx, placement.Command{AddHost: &placement.AddHost{
		Host: placement.Host{
			ID: placement.HostID(id), Name: req.GetName(), Addr: req.GetAddress(), Weight: max(1, req.GetWeight()), Labels: req.GetLabels(),
			Limits: limitsOf(req.GetLimits()),
		},
		TokenID: tokenID, Now: time.Now().Unix(),
	}}, fmt.Sprintf("%.200q", req.GetName()))
	if err != nil {
		return nil, err
	}
	h.log.Info("admitted a host", "name", req.GetName(), "id", id, "address", req.GetAddress())
	r := &v1.JoinResponse{
		ClusterId: h.id.Cluster(), HostId: id, HostCertificate: cert, CaCertificate: h.id.CA().Certificate(), CaKey: h.id.CA().Key(),
	}
	h.node.View(func(s *placement.State) {
		for _, host := range s.Hosts() {
			r.Peers = append(r.Peers, &v1.JoinPeer{Id: string(host.ID), Name: host.Name, Address: host.Addr})
		}
	})
	return r, nil
}

// checkToken compares a token's secret with what the catalogue keeps of it. Whether it was used is checked once more,
// and for good, by the command that uses it.
func (h *Host) checkToken(id string, token pki.Token) error {
	var known placement.Token
	var ok bool
	h.node.View(func(s *placement.State) { known, ok = s.Token(id) })
	var hash [32]byte
	if n, err := hex.Decode(hash[:], []byte(known.Hash)); !ok || err != nil || n != len(hash) || !token.Matches(hash) {
		return placement.ErrTokenUnknown
	}
	return nil
}

// Leave implements server.Host.
func (h *Host) Leave(ctx context.Context, req *v1.LeaveRequest, send func(*v1.LeaveProgress) error) error {
	h.fresh(ctx)
	host, err := h.hostNamed(req.GetHost())
	if err != nil {
		return err
	}
	if host.ID != h.self && host.State.Serves() && !req.GetForce() {
		return reason.Wrap(reason.Usage, host.Name, errors.New("the host is up")).
			WithHint("run 'virtswarm leave' on that host; or add --force, which cuts it off at once")
	}
	l := &leave{host: h, who: host, send: send, event: &v1.LeaveProgress{
		Phase: v1.LeavePhase_LEAVE_PHASE_DRAINING, HostId: string(host.ID), Host: host.Name,
	}}
	if req.GetForce() {
		return reason.Explain(l.remove(ctx), host.Name)
	}
	err = l.drain(ctx)
	if err == nil {
		err = l.remove(ctx)
	}
	if err != nil {
		l.takeBack(ctx)
	}
	return reason.Explain(err, host.Name)
}

// leave is one call of Leave.
type leave struct {
	host  *Host
	who   placement.Host
	send  func(*v1.LeaveProgress) error
	event *v1.LeaveProgress
	// ordered says that the host is drained because of this call.
	ordered bool
}

// takeBack lets a host stay that could not leave, or whose caller gave up.
func (l *leave) takeBack(ctx context.Context) {
	if !l.ordered {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writePatience)
	defer cancel()
	l.who.State = placement.Leaving
	l.host.warn("take back the order to leave", l.host.setState(ctx, l.who, placement.Alive))
}

// drain waits until what the host holds is safe on other hosts.
func (l *leave) drain(ctx context.Context) error {
	switch l.who.State {
	case placement.Alive:
		if err := l.host.setState(ctx, l.who, placement.Leaving); err != nil {
			return err
		}
		l.ordered = true
	case placement.Down: // the operator need not wait for the grace to end; if it comes back, it is alive again
		if err := l.host.setState(ctx, l.who, placement.Lost); err != nil {
			return err
		}
	}
	return l.host.awaitDrained(ctx, l.who, func(left, total placement.Drain, _ float64) error {
		l.event.Done, l.event.Total = uint64(total.Shards-left.Shards), uint64(total.Shards)
		return l.send(l.event)
	})
}

// remove takes the host out of the cluster. If it is this one, its daemon ends.
func (l *leave) remove(ctx context.Context) error {
	l.event.Phase = v1.LeavePhase_LEAVE_PHASE_REMOVING
	if err := l.send(l.event); err != nil {
		return err
	}
	self := l.who.ID == l.host.self
	if self {
		if !l.host.leaving.CompareAndSwap(false, true) {
			return reason.Wrap(reason.Usage, l.who.Name, errors.New("it is being removed already"))
		}
		l.host.handOver() // a leader that removes itself would leave the others to an election
	}
	_, err := l.host.write(ctx, placement.Command{RemoveHost: &placement.RemoveHost{ID: l.who.ID}}, l.who.Name)
	if err != nil && !(self && errors.Is(err, raft.ErrRemoved)) {
		l.host.leaving.Store(false)
		// The order may have come through all the same, and Run may wait for this call to say so already.
		if !self || !errors.Is(l.host.node.Err(), raft.ErrRemoved) {
			return err
		}
	}
	if self {
		defer close(l.host.left)
	}
	l.event.Phase = v1.LeavePhase_LEAVE_PHASE_DONE
	return l.send(l.event)
}
