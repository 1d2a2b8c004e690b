package control

import (
	"context"

	"github.com/virtswarm/virtswarm/placement"
)

// GuestEvent is a change of a domain, or, at the beginning and after a gap, the domain as it is.
type GuestEvent struct {
	Index   uint64
	Guest   *Guest // nil if an initial event tells that there are none
	Gone    bool
	Initial bool // part of the picture as it is
	Reset   bool // first of such a picture: what was told before counts no more
}

// WatchGuests reports the domains of all hosts, or of the one that is named, and then each change, until ctx ends.
func (g *Guests) WatchGuests(ctx context.Context, host string, report func(GuestEvent) error) error {
	g.fresh(ctx)
	only, err := g.onlyHost(host)
	if err != nil {
		return err
	}
	w := &guestWatch{only: only, shown: map[string]bool{}}
	for {
		changed := g.Node.Changed()
		var events []GuestEvent
		g.Node.View(func(s *placement.State) { events = w.next(s) })
		for _, e := range events {
			if err := report(e); err != nil {
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
func (w *guestWatch) next(s *placement.State) (events []GuestEvent) {
	changes, complete := s.DomainEvents(w.seen)
	w.seen = s.Applied()
	if !w.begun || !complete {
		return w.all(s)
	}
	for _, c := range changes {
		e := GuestEvent{Index: c.Index, Guest: new(describeGuest(s, c.View)), Gone: c.Gone}
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

func (w *guestWatch) all(s *placement.State) (events []GuestEvent) {
	w.begun = true
	clear(w.shown)
	for _, v := range s.Domains() {
		if w.only == "" || v.Host == w.only {
			w.shown[v.UUID] = true
			events = append(events, GuestEvent{Index: w.seen, Guest: new(describeGuest(s, v)), Initial: true})
		}
	}
	if len(events) == 0 {
		events = append(events, GuestEvent{Index: w.seen, Initial: true})
	}
	events[0].Reset = true
	return events
}
