package hostd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/virtswarm/virtswarm/hostd/hook"
	"github.com/virtswarm/virtswarm/hostd/virt"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

// prepareLog is how often the log tells how far a start is that waits for its files.
const prepareLog = 5 * time.Second

// Prepare implements server.Host. libvirt waits for it: nothing here asks libvirt.
func (h *Host) Prepare(ctx context.Context, req *v1.PrepareRequest, send func(*v1.PrepareProgress) error) error {
	domain := fmt.Sprintf("%.200q", req.GetDomain())
	d, err := parsePrepared(req)
	if err != nil {
		return err
	}
	log := h.log.Named("hook").With("domain", d.Name, "uuid", d.UUID, "operation", req.GetOperation())
	start, told := time.Now(), time.Now()
	p := &v1.PrepareProgress{}
	pace := newPace()
	err = h.hook.Prepare(ctx, d.Needs, func(at hook.Progress) {
		p.Need, p.Name, p.Have, p.Total, p.Rate = uint32(at.Need), at.Name, uint64(at.Have), uint64(at.Total), at.Rate
		pace.tick(at.Have, func(float64) { send(p) }) // if the caller is gone, ctx ends
		if time.Since(told) >= prepareLog {
			told = time.Now()
			log.Info("a start waits for a file", "file", at.Name, "have", at.Have, "of", at.Total)
		}
	})
	if err != nil {
		log.Warn("not all that a domain needs can be made present", "error", err, "took", time.Since(start))
		return reason.Explain(err, fmt.Sprintf("domain %s", domain))
	}
	if len(d.Needs) > 0 {
		log.Info("all that a domain needs is present", "files", len(d.Needs), "took", time.Since(start))
	}
	p.Done = true
	return send(p)
}

// parsePrepared reads the definition of a domain that is about to start.
func parsePrepared(req *v1.PrepareRequest) (virt.Definition, error) {
	domain := fmt.Sprintf("%.200q", req.GetDomain())
	d, err := virt.ParseDomain(req.GetXml())
	if err != nil {
		return d, reason.Wrap(reason.Usage, domain, err)
	}
	for _, fault := range d.Faults {
		if errors.Is(fault, virt.ErrBadMetadata) {
			return d, reason.Wrap(reason.Usage, domain, fault).WithHint("correct its metadata: virsh edit, or virtswarm guest needs")
		}
	}
	return d, nil
}

// SetGuest implements server.Host. It is carried out by the host where the domain is.
func (h *Host) SetGuest(ctx context.Context, req *v1.SetGuestRequest) (*v1.SetGuestResponse, error) {
	h.fresh(ctx)
	v, err := h.guestNamed(req.GetGuest())
	if err != nil {
		return nil, err
	}
	if err := checkChange(req); err != nil {
		return nil, err
	}
	changes := len(req.GetAdd())+len(req.GetRemove())+len(req.GetAddTags())+len(req.GetRemoveTags()) > 0 ||
		req.GetPush() != nil || req.GetRemovePush() || req.Shm != nil
	switch {
	case !changes:
	case v.Manager != placement.ManagedByLibvirt:
		return nil, reason.Wrap(reason.NoLibvirt, v.Name, errors.New("it is no domain of libvirt's, and has no metadata"))
	case v.Host != h.self:
		return h.forwardSetGuest(ctx, v, req)
	default:
		if v, err = h.setGuest(ctx, v, req); err != nil {
			return nil, reason.Explain(err, v.Name)
		}
	}
	r := &v1.SetGuestResponse{}
	h.node.View(func(s *placement.State) { r.Guest = describeGuest(s, v) })
	return r, nil
}

func (h *Host) forwardSetGuest(ctx context.Context, v placement.DomainView, req *v1.SetGuestRequest) (*v1.SetGuestResponse, error) {
	addr, err := h.address(v.Host)
	if err != nil {
		return nil, reason.Explain(err, v.Name)
	}
	req.Guest = v.UUID
	return h.peers.client(v.Host, addr).Control.SetGuest(ctx, req)
}

// checkChange refuses what no metadata may say.
func checkChange(req *v1.SetGuestRequest) error {
	for _, n := range req.GetAdd() {
		if err := placement.ValidateName(n.GetName()); err != nil {
			return reason.Explain(err, n.GetName())
		}
		if _, err := content.ParseDigest(n.GetId()); n.GetId() != "" && err != nil {
			return reason.Wrap(reason.Usage, n.GetId(), err)
		}
		if p := n.GetPath(); p != "" && !strings.HasPrefix(p, "/") {
			return reason.Wrap(reason.Usage, p, errors.New("the path is not absolute"))
		}
	}
	for _, tag := range req.GetAddTags() {
		if err := placement.ValidateTag(tag); err != nil {
			return reason.Wrap(reason.Usage, tag, err)
		}
	}
	if req.GetPush() != nil && req.GetRemovePush() {
		return reason.Wrap(reason.Usage, "push", errors.New("it is to be set and removed at once"))
	}
	var link virt.Metadata
	changeLink(&link, req)
	return reason.Explain(link.Validate(), req.GetGuest())
}

// changeLink changes what metadata says of a domain's guest link.
func changeLink(m *virt.Metadata, req *v1.SetGuestRequest) {
	if p := req.GetPush(); p != nil {
		m.Push = &placement.Push{Prefix: strings.TrimSuffix(p.GetPrefix(), "/"), Quota: int64(p.GetQuota()), Guests: p.GetGuests()}
	}
	if req.GetRemovePush() {
		m.Push = nil
	}
	if req.Shm != nil {
		m.Shm = int64(req.GetShm())
	}
}

// setGuest changes a domain's metadata, and returns the domain as it is then.
func (h *Host) setGuest(ctx context.Context, v placement.DomainView, req *v1.SetGuestRequest) (placement.DomainView, error) {
	if h.libvirt == nil {
		return v, virt.ErrNoLibvirt
	}
	err := h.libvirt.SetMetadata(ctx, v.UUID, func(m virt.Metadata) (virt.Metadata, error) {
		removed := append([]string{}, req.GetRemove()...)
		for _, n := range req.GetAdd() {
			removed = append(removed, n.GetName()) // it is replaced
		}
		m.Needs = slices.DeleteFunc(slices.Clone(m.Needs), func(n placement.Need) bool { return slices.Contains(removed, n.Name) })
		for _, n := range req.GetAdd() {
			m.Needs = append(m.Needs, placement.Need{Name: n.GetName(), ID: n.GetId(), Path: n.GetPath()})
		}
		m.Tags = slices.DeleteFunc(slices.Clone(m.Tags), func(t string) bool { return slices.Contains(req.GetRemoveTags(), t) })
		m.Tags = append(m.Tags, req.GetAddTags()...)
		slices.Sort(m.Tags)
		m.Tags = slices.Compact(m.Tags)
		changeLink(&m, req)
		v.Needs, v.Tags, v.WantShm, v.Push = m.Needs, m.Tags, m.Shm, m.Push
		return m, nil
	})
	return v, err
}
