package hostd

import (
	"context"
	"fmt"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

// Guests implements server.Host.
func (h *Host) Guests(ctx context.Context, req *v1.GuestsRequest) (*v1.GuestsResponse, error) {
	r := &v1.GuestsResponse{Staleness: h.fresh(ctx)}
	only, err := h.onlyHost(req.GetHost())
	if err != nil {
		return nil, err
	}
	h.node.View(func(s *placement.State) {
		for _, v := range s.Domains() {
			if only == "" || v.Host == only {
				r.Guests = append(r.Guests, describeGuest(s, v))
			}
		}
	})
	return r, nil
}

// onlyHost finds the host that a caller wants to hear of; "" for all.
func (h *Host) onlyHost(name string) (placement.HostID, error) {
	if name == "" {
		return "", nil
	}
	host, err := h.hostNamed(name)
	return host.ID, err
}

// WatchGuests implements server.Host.
func (h *Host) WatchGuests(ctx context.Context, req *v1.WatchGuestsRequest, send func(*v1.GuestEvent) error) error {
	h.fresh(ctx)
	only, err := h.onlyHost(req.GetHost())
	if err != nil {
		return err
	}
	w := &guestWatch{only: only, shown: map[string]bool{}}
	for {
		changed := h.node.Changed()
		var events []*v1.GuestEvent
		h.node.View(func(s *placement.State) { events = w.next(s) })
		for _, e := range events {
			if err := send(e); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// guestWatch is what one watcher has heard.
type guestWatch struct {
	only  placement.HostID // "": all
	begun bool
	seen  uint64          // index up to which it has heard everything
	shown map[string]bool // UUIDs that it knows of
}

// next returns what the watcher has not heard: the changes, or everything if it begins or has lagged too far.
func (w *guestWatch) next(s *placement.State) (events []*v1.GuestEvent) {
	changes, complete := s.DomainEvents(w.seen)
	w.seen = s.Applied()
	if !w.begun || !complete {
		return w.all(s)
	}
	for _, c := range changes {
		e := &v1.GuestEvent{Index: c.Index, Guest: describeGuest(s, c.View), Gone: c.Gone}
		switch here := w.only == "" || c.View.Host == w.only; {
		case here && !c.Gone:
			w.shown[c.View.UUID] = true
		case w.shown[c.View.UUID]: // the last word: it is gone, or has moved away
			delete(w.shown, c.View.UUID)
		default:
			continue
		}
		events = append(events, e)
	}
	return events
}

func (w *guestWatch) all(s *placement.State) (events []*v1.GuestEvent) {
	w.begun = true
	clear(w.shown)
	for _, v := range s.Domains() {
		if w.only == "" || v.Host == w.only {
			w.shown[v.UUID] = true
			events = append(events, &v1.GuestEvent{Index: w.seen, Guest: describeGuest(s, v), Initial: true})
		}
	}
	if len(events) == 0 {
		events = append(events, &v1.GuestEvent{Index: w.seen, Initial: true})
	}
	events[0].Reset_ = true
	return events
}

// guestNamed finds the one domain of a name or UUID.
func (h *Host) guestNamed(name string) (v placement.DomainView, err error) {
	h.node.View(func(s *placement.State) {
		list := s.DomainsNamed(name)
		switch len(list) {
		case 1:
			v = list[0]
		case 0:
			err = reason.Wrap(reason.NoSuchGuest, fmt.Sprintf("%.200q", name), nil)
		default:
			err = reason.Wrap(reason.NoSuchGuest, fmt.Sprintf("%.200q", name), fmt.Errorf("%d domains have this name, one is %s", len(list), list[0].UUID))
		}
	})
	return v, err
}

var guestStates = map[placement.DomainState]v1.GuestState{
	placement.DomainRunning:   v1.GuestState_GUEST_STATE_RUNNING,
	placement.DomainPaused:    v1.GuestState_GUEST_STATE_PAUSED,
	placement.DomainMigrating: v1.GuestState_GUEST_STATE_MIGRATING,
	placement.DomainOff:       v1.GuestState_GUEST_STATE_OFF,
	placement.DomainCrashed:   v1.GuestState_GUEST_STATE_CRASHED,
	placement.DomainUnknown:   v1.GuestState_GUEST_STATE_UNKNOWN,
}

// describeGuest gives a domain in the API's words.
func describeGuest(s *placement.State, v placement.DomainView) *v1.Guest {
	g := &v1.Guest{
		Uuid: v.UUID, Name: v.Name, State: guestStates[v.State], HostId: string(v.Host), Host: hostName(s, v.Host), Manager: v.Manager,
		Vcpus: uint32(v.VCPUs), Memory: uint64(v.Memory), Cid: v.CID, Migration: v.Migration, Tags: v.Tags, Split: v.Split, Changed: v.Changed,
	}
	for _, d := range v.Disks {
		g.Disks = append(g.Disks, &v1.GuestDisk{Target: d.Target, Chain: d.Chain})
	}
	for _, n := range v.Needs {
		g.Needs = append(g.Needs, &v1.GuestNeed{Name: n.Name, Id: n.ID, Path: n.Path})
	}
	g.Shm, g.WantShm = uint64(v.Shm), uint64(v.WantShm)
	if p := v.Push; p != nil {
		g.Push = &v1.GuestPush{Prefix: p.Prefix, Quota: uint64(p.Quota), Guests: p.Guests}
	}
	for _, o := range v.Others {
		g.Others = append(g.Others, hostName(s, o))
	}
	return g
}

// hostName is what people call a host; its id if it is no member any more.
func hostName(s *placement.State, id placement.HostID) string {
	if h, ok := s.Host(id); ok {
		return h.Name
	}
	return string(id)
}
