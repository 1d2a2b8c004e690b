package control

import (
	"context"
	"slices"

	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/raft"
)

// Hosts are the operations on the members of the cluster. It is safe for concurrent use.
type Hosts struct {
	*Rooms
	departure *Departure
}

// NewHosts makes the operations on hosts. The departure tells when this host is removed on its own wish.
func NewHosts(r *Rooms, d *Departure) *Hosts { return &Hosts{Rooms: r, departure: d} }

// Host is a member, as the catalogue and this host's Raft have it.
type Host struct {
	placement.Host
	Self, Voter, Leader bool
	// Files and HeldBytes are what it holds of everything, the bytes estimated. They are 0 where nobody counts.
	Files     int
	HeldBytes int64
}

// Hosts lists the members, ordered by name, with what they hold.
func (h *Hosts) Hosts(ctx context.Context) (all []Host, now Staleness) {
	now = h.fresh(ctx)
	status := h.Node.Status()
	h.Node.View(func(s *placement.State) {
		held := heldByHost(s)
		for _, host := range s.Hosts() {
			d := h.describeHost(host, status)
			d.Files, d.HeldBytes = held[host.ID].files, held[host.ID].bytes
			all = append(all, d)
		}
	})
	return all, now
}

// HostDetails tell of one host.
type HostDetails struct {
	Host   Host
	Report Report
	Load   placement.Load  // what it must hold
	Drain  placement.Drain // what has still to become safe elsewhere, if it is drained
}

// ShowHost tells of a host.
func (h *Hosts) ShowHost(ctx context.Context, name string) (d HostDetails, now Staleness, err error) {
	now = h.fresh(ctx)
	host, err := h.hostNamed(name)
	if err != nil {
		return d, now, err
	}
	d.Host = h.hostNow(host.ID)
	h.Node.View(func(s *placement.State) {
		held := heldByHost(s)[host.ID]
		d.Host.Files, d.Host.HeldBytes = held.files, held.bytes
		d.Load = s.Load(host.ID)
		if host.State == placement.Leaving {
			d.Drain = s.Draining(host.ID)
		}
	})
	d.Report = h.reports(ctx, []placement.Host{host}, true)[0]
	return d, now, nil
}

// hostNow describes a host as it is now.
func (r *Rooms) hostNow(id placement.HostID) (d Host) {
	status := r.Node.Status()
	r.Node.View(func(s *placement.State) {
		host, _ := s.Host(id)
		d = r.describeHost(host, status)
	})
	return d
}

func (r *Rooms) describeHost(host placement.Host, status raft.Status) Host {
	return Host{
		Host: host, Self: host.ID == r.Self, Voter: slices.Contains(status.Voters, host.ID), Leader: host.ID == status.Leader,
	}
}

// heldSum is what a host holds of everything.
type heldSum struct {
	files int
	bytes int64
}

func heldByHost(s *placement.State) map[placement.HostID]heldSum {
	sums := map[placement.HostID]heldSum{}
	for _, id := range s.ChangedSince(0).Contents {
		c, _ := s.Content(id)
		for _, holder := range s.Holders(id) {
			sum := sums[holder.Host]
			sum.files++
			sum.bytes += heldOf(c, holder.Shards)
			sums[holder.Host] = sum
		}
	}
	return sums
}
