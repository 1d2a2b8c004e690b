package control

import (
	"context"
	"fmt"

	"github.com/virtswarm/virtswarm/hostd/hook"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

// Guests are the operations on the domains of all hosts. It is safe for concurrent use.
type Guests struct {
	*Rooms
	GuestRooms
}

// GuestRooms are what operations on guests work with beside the Rooms.
type GuestRooms struct {
	Hook    *hook.Hook
	Memory  Memory
	Libvirt Libvirt // nil: this host has none
	Starts  *Starts
}

// Guest is a domain, as the catalogue has it.
type Guest struct {
	placement.DomainView
	HostName   string
	OtherNames []string // of the other hosts that claim it
}

// Guests lists the domains of all hosts, or of the one that is named, ordered by name.
func (g *Guests) Guests(ctx context.Context, host string) (all []Guest, now Staleness, err error) {
	now = g.fresh(ctx)
	only, err := g.onlyHost(host)
	if err != nil {
		return nil, now, err
	}
	g.Node.View(func(s *placement.State) {
		for _, v := range s.Domains() {
			if only == "" || v.Host == only {
				all = append(all, describeGuest(s, v))
			}
		}
	})
	return all, now, nil
}

// onlyHost finds the host that a caller wants to hear of; "" for all.
func (g *Guests) onlyHost(name string) (placement.HostID, error) {
	if name == "" {
		return "", nil
	}
	host, err := g.hostNamed(name)
	return host.ID, err
}

// guestNamed finds the one domain of a name or UUID.
func (g *Guests) guestNamed(name string) (v placement.DomainView, err error) {
	g.Node.View(func(s *placement.State) {
		list := s.DomainsNamed(name)
		switch len(list) {
		case 1:
			v = list[0]
		case 0:
			err = reason.Wrap(reason.NoSuchGuest, fmt.Sprintf("%.200q", name), nil)
		default:
			err = reason.Wrap(reason.NoSuchGuest, fmt.Sprintf("%.200q", name),
				fmt.Errorf("%d domains have this name, one is %s", len(list), list[0].UUID))
		}
	})
	return v, err
}

// describeGuest adds names to a domain.
func describeGuest(s *placement.State, v placement.DomainView) Guest {
	g := Guest{DomainView: v, HostName: hostName(s, v.Host)}
	for _, o := range v.Others {
		g.OtherNames = append(g.OtherNames, hostName(s, o))
	}
	return g
}

func (g *Guests) describe(v placement.DomainView) (d Guest) {
	g.Node.View(func(s *placement.State) { d = describeGuest(s, v) })
	return d
}
