package servertest

import (
	"context"
	"errors"
	"fmt"
	"slices"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// Verify implements server.ControlHost.
func (h *Host) Verify(ctx context.Context, req *v1.VerifyRequest, send func(*v1.CheckProgress) error) error {
	return h.check(ctx, "verify", req.GetName(), req.GetId(), send)
}

// Scrub implements server.ControlHost.
func (h *Host) Scrub(ctx context.Context, _ *v1.ScrubRequest, send func(*v1.CheckProgress) error) error {
	return h.check(ctx, "scrub", "", "", send)
}

func (h *Host) check(ctx context.Context, op, name, id string, send func(*v1.CheckProgress) error) error {
	h.mu.Lock()
	versions, err := h.toCheck(name, id)
	p := &v1.CheckProgress{Phase: v1.CheckPhase_CHECK_PHASE_CHECKING, Rate: fakeRate}
	for _, v := range versions {
		p.Total += uint64(h.contents[v.id].manifest.DataBytes())
	}
	h.mu.Unlock()
	if err != nil {
		return err
	}
	if err := send(p); err != nil {
		return err
	}
	if err := h.wait(ctx, op); err != nil {
		return err
	}
	for _, v := range versions {
		h.heal(v, p)
		if err := send(p); err != nil {
			return err
		}
	}
	p.Phase, p.Name, p.Id = v1.CheckPhase_CHECK_PHASE_DONE, "", ""
	return send(p)
}

// toCheck lists the versions of a name, or of all, that this host holds.
func (h *Host) toCheck(name, id string) ([]*version, error) {
	names := h.sortedNames("")
	if name != "" {
		if _, err := h.version(name, id); err != nil {
			return nil, err
		}
		names = []string{name}
	}
	var found []*version
	for _, n := range names {
		for _, v := range h.names[n] {
			if _, ok := h.contents[v.id].holders[h.self().id]; ok && (id == "" || v.id == id) {
				found = append(found, v)
			}
		}
	}
	return found, nil
}

// heal checks this host's copy of a version and repairs it from an undamaged copy on a live host.
func (h *Host) heal(v *version, p *v1.CheckProgress) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.contents[v.id]
	p.Files++
	p.Done += uint64(b.manifest.DataBytes())
	p.Name, p.Id = v.name, v.id
	bad := uint64(b.holders[h.self().id])
	if bad == 0 {
		return
	}
	d := &v1.Damage{Name: v.name, Id: v.id, BadChunks: bad}
	if h.copies(b) > 0 {
		d.HealedChunks = bad
		b.holders[h.self().id] = 0
	}
	p.BadChunks += d.BadChunks
	p.HealedChunks += d.HealedChunks
	p.Damage = append(p.Damage, d)
}

// CreateToken implements server.ControlHost.
func (h *Host) CreateToken(ctx context.Context, req *v1.CreateTokenRequest) (*v1.CreateTokenResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.write(); err != nil {
		return nil, err
	}
	ttl := req.GetTtlSeconds()
	if ttl == 0 {
		ttl = 3600
	}
	token := fmt.Sprintf("vst1.token%d", h.index)
	h.tokens[token] = false
	resp := &v1.CreateTokenResponse{Token: token, ExpiresAt: h.now.Unix() + int64(ttl)}
	for _, m := range h.alive() {
		resp.Addresses = append(resp.Addresses, m.name+".example:7117")
	}
	return resp, ctx.Err()
}

// Leave implements server.ControlHost.
func (h *Host) Leave(ctx context.Context, req *v1.LeaveRequest, send func(*v1.LeaveProgress) error) error {
	h.mu.Lock()
	name := req.GetHost()
	if name == "" {
		name = h.self().name
	}
	m, err := h.host(name)
	h.mu.Unlock()
	if err != nil {
		return err
	}
	p := &v1.LeaveProgress{Phase: v1.LeavePhase_LEAVE_PHASE_DRAINING, Done: 0, Total: 1, HostId: m.id, Host: m.name}
	if err := send(p); err != nil {
		return err
	}
	if err := h.wait(ctx, "leave"); err != nil {
		return err
	}
	if err := h.remove(m, req.GetForce()); err != nil {
		return err
	}
	p.Phase, p.Done = v1.LeavePhase_LEAVE_PHASE_DONE, 1
	return send(p)
}

func (h *Host) remove(m *member, force bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m != h.self() && m.state != v1.HostState_HOST_STATE_DOWN && !force {
		return reason.Wrap(reason.Usage, m.name, errors.New("the host is up")).
			WithHint("run 'virtswarm leave' on that host; or add `force`, which cuts it off at once")
	}
	if err := h.write(); err != nil {
		return err
	}
	if m != h.self() { // the one that is asked goes on answering for the tests' sake
		h.hosts = slices.DeleteFunc(h.hosts, func(o *member) bool { return o == m })
	}
	h.replicate()
	return nil
}

// Forward implements server.ClusterHost: the leader here answers with what it was sent.
func (h *Host) Forward(ctx context.Context, req *v1.ForwardRequest) (*v1.ForwardResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.write(); err != nil {
		return nil, err
	}
	return &v1.ForwardResponse{Result: req.GetPayload()}, ctx.Err()
}

// Progress implements server.ClusterHost.
func (h *Host) Progress(ctx context.Context, req *v1.ProgressRequest) (*v1.ProgressResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.contents[req.GetId()]
	if b == nil {
		return &v1.ProgressResponse{}, ctx.Err()
	}
	data := uint64(b.manifest.DataBytes())
	return &v1.ProgressResponse{Known: true, HeldBytes: data, TotalBytes: data}, ctx.Err()
}

// Join implements server.JoinHost.
func (h *Host) Join(ctx context.Context, req *v1.JoinRequest) (*v1.JoinResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if used, known := h.tokens[req.GetToken()]; !known || used {
		return nil, reason.Wrap(reason.BadToken, req.GetName(), errors.New("token unknown or used"))
	}
	if _, err := h.host(req.GetName()); err == nil {
		return nil, reason.Wrap(reason.HostNameTaken, req.GetName(), nil)
	}
	if err := h.write(); err != nil {
		return nil, err
	}
	h.tokens[req.GetToken()] = true
	m := h.add(req.GetName())
	resp := &v1.JoinResponse{ClusterId: ClusterID, HostId: m.id}
	for _, m := range h.hosts {
		resp.Peers = append(resp.Peers, &v1.JoinPeer{Id: m.id, Name: m.name, Address: m.name + ".example:7117"})
	}
	return resp, ctx.Err()
}
