package servertest

import (
	"cmp"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// AddGuest defines a domain on a host, by name; its host_id follows from that.
func (h *Host) AddGuest(g *v1.Guest) {
	h.mu.Lock()
	defer h.mu.Unlock()
	g = proto.CloneOf(g)
	for _, m := range h.hosts {
		if m.name == g.Host {
			g.HostId = m.id
		}
	}
	g.Index = h.index
	h.guests = append(h.guests, g)
}

// Guests implements server.ControlHost.
func (h *Host) Guests(_ context.Context, req *v1.GuestsRequest) (*v1.GuestsResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	list, err := h.guestsOn(req.GetHost())
	return &v1.GuestsResponse{Staleness: h.staleness(), Guests: list}, err
}

func (h *Host) guestsOn(host string) (list []*v1.Guest, err error) {
	only := ""
	if host != "" {
		m, err := h.asked(host)
		if err != nil {
			return nil, err
		}
		only = m.id
	}
	for _, g := range h.guests {
		if only == "" || g.HostId == only {
			list = append(list, proto.CloneOf(g))
		}
	}
	return list, nil
}

// WatchGuests implements server.ControlHost. Nothing changes here: it tells what there is, and waits.
func (h *Host) WatchGuests(ctx context.Context, req *v1.WatchGuestsRequest, send func(*v1.GuestEvent) error) error {
	h.mu.Lock()
	list, err := h.guestsOn(req.GetHost())
	index := h.index
	h.mu.Unlock()
	if err != nil {
		return err
	}
	for i, g := range list {
		if err := send(&v1.GuestEvent{Index: index, Guest: g, Initial: true, Reset_: i == 0}); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return ctx.Err()
}

// SetGuest implements server.ControlHost.
func (h *Host) SetGuest(_ context.Context, req *v1.SetGuestRequest) (*v1.SetGuestResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, g := range h.guests {
		if g.Name != req.GetGuest() && g.Uuid != req.GetGuest() {
			continue
		}
		g.Needs = slices.DeleteFunc(g.Needs, func(n *v1.GuestNeed) bool { return slices.Contains(req.GetRemove(), n.GetName()) })
		g.Needs = append(g.Needs, req.GetAdd()...)
		g.Tags = slices.DeleteFunc(g.Tags, func(t string) bool { return slices.Contains(req.GetRemoveTags(), t) })
		g.Tags = append(g.Tags, req.GetAddTags()...)
		if req.GetPush() != nil || req.GetRemovePush() {
			g.Push = req.GetPush()
		}
		if req.Shm != nil {
			g.WantShm = req.GetShm()
		}
		return &v1.SetGuestResponse{Guest: proto.CloneOf(g)}, nil
	}
	return nil, reason.Wrap(reason.NoSuchGuest, fmt.Sprintf("%q", req.GetGuest()), nil)
}

// AttachShm implements server.ControlHost.
func (h *Host) AttachShm(_ context.Context, req *v1.AttachShmRequest) (*v1.AttachShmResponse, error) {
	g, err := h.setShm(req.GetGuest(), func(g *v1.Guest) uint64 { return cmp.Or(req.GetSize(), g.GetShm(), g.GetWantShm(), 1<<20) })
	return &v1.AttachShmResponse{Guest: g}, err
}

// DetachShm implements server.ControlHost.
func (h *Host) DetachShm(_ context.Context, req *v1.DetachShmRequest) (*v1.DetachShmResponse, error) {
	g, err := h.setShm(req.GetGuest(), func(*v1.Guest) uint64 { return 0 })
	return &v1.DetachShmResponse{Guest: g}, err
}

func (h *Host) setShm(name string, size func(*v1.Guest) uint64) (*v1.Guest, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, g := range h.guests {
		switch {
		case g.Name != name && g.Uuid != name:
		case g.State != v1.GuestState_GUEST_STATE_RUNNING:
			return nil, reason.Wrap(reason.NoGuestLink, name, errors.New("it does not run"))
		default:
			g.Shm = size(g)
			return proto.CloneOf(g), nil
		}
	}
	return nil, reason.Wrap(reason.NoSuchGuest, fmt.Sprintf("%q", name), nil)
}

// Prepare implements server.ControlHost: a file that has a holder is present.
func (h *Host) Prepare(ctx context.Context, req *v1.PrepareRequest, send func(*v1.PrepareProgress) error) error {
	var d struct {
		Files []struct {
			Name string `xml:"name,attr"`
		} `xml:"metadata>domain>file"`
	}
	if err := xml.Unmarshal(req.GetXml(), &d); err != nil {
		return reason.Wrap(reason.Usage, req.GetDomain(), err)
	}
	if err := h.wait(ctx, "prepare"); err != nil {
		return err
	}
	p := &v1.PrepareProgress{}
	for i, f := range d.Files {
		h.mu.Lock()
		v, err := h.version(f.Name, "")
		if err == nil && len(h.contents[v.id].holders) == 0 {
			err = reason.Wrap(reason.NoHolder, f.Name, nil)
		}
		if err == nil {
			n := uint64(h.contents[v.id].manifest.DataBytes())
			p.Need, p.Name, p.Have, p.Total = uint32(i), f.Name, n, n
		}
		h.mu.Unlock()
		if err != nil {
			return err
		}
		if err := send(p); err != nil {
			return err
		}
	}
	p.Done = true
	return send(p)
}
