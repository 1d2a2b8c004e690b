package raft

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	hraft "github.com/hashicorp/raft"

	"github.com/virtswarm/virtswarm/placement"
)

// configuration returns the latest Raft configuration, committed or not.
func (n *Node) configuration() hraft.Configuration {
	r := n.raft.Load()
	if r == nil {
		return hraft.Configuration{} // Open is not that far
	}
	return r.GetConfiguration().Configuration()
}

// addresses returns where a host may be reached: as the catalogue says, and as the Raft configuration says, which is
// all there is of it before the catalogue has been replayed.
func (n *Node) addresses(id placement.HostID) []string {
	var addrs []string
	n.machine.view(func(s *placement.State) {
		if h, ok := s.Host(id); ok {
			addrs = append(addrs, h.Addr)
		}
	})
	for _, server := range n.configuration().Servers {
		if placement.HostID(server.ID) != id {
			continue
		}
		if _, addr := splitAddress(server.Address); addr != "" && (len(addrs) == 0 || addrs[0] != addr) {
			addrs = append(addrs, addr)
		}
	}
	if hint := n.hints.of(id); hint != "" && !slices.Contains(addrs, hint) {
		addrs = append(addrs, hint)
	}
	return addrs
}

// hints are addresses at which hosts said they are, beside what the catalogue and the Raft configuration say: without a
// leader neither can be changed, and a leader needs hosts that reach one another. The zero value has none.
type hints struct {
	mu    sync.Mutex
	addrs map[placement.HostID]string
}

func (h *hints) of(id placement.HostID) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.addrs[id]
}

// Hint notes that a member may be reached at an address too. Who answers there must prove that it is that host.
func (n *Node) Hint(id placement.HostID, addr string) {
	if !n.Known(string(id)) || id == n.cfg.ID {
		return
	}
	n.hints.mu.Lock()
	defer n.hints.mu.Unlock()
	if n.hints.addrs == nil {
		n.hints.addrs = map[placement.HostID]string{}
	}
	n.hints.addrs[id] = addr // as many as there are members
}

// Hints returns what Hint noted.
func (n *Node) Hints() map[placement.HostID]string {
	n.hints.mu.Lock()
	defer n.hints.mu.Unlock()
	return maps.Clone(n.hints.addrs)
}

// Addresses returns where a member may be reached, the likeliest first.
func (n *Node) Addresses(id placement.HostID) []string { return n.addresses(id) }

// Members returns the other members, as far as this host knows: those of the catalogue and of the Raft configuration.
func (n *Node) Members() (ids []placement.HostID) {
	n.machine.view(func(s *placement.State) {
		for _, h := range s.Hosts() {
			ids = append(ids, h.ID)
		}
	})
	for _, server := range n.configuration().Servers {
		ids = append(ids, placement.HostID(server.ID))
	}
	slices.Sort(ids)
	return slices.DeleteFunc(slices.Compact(ids), func(id placement.HostID) bool { return id == n.cfg.ID })
}

// Known reports whether a host may speak to this one: it is in the catalogue or in the latest Raft configuration. A
// host that knows nobody, because it has joined and heard nothing yet, believes every host of its cluster. It is meant
// as pki's Allow hook.
func (n *Node) Known(hostID string) bool {
	id := placement.HostID(hostID)
	if n.Member(hostID) {
		return true
	}
	servers := n.configuration().Servers
	for _, server := range servers {
		if placement.HostID(server.ID) == id {
			return true
		}
	}
	known, removed := 0, false
	n.machine.view(func(s *placement.State) { known, removed = len(s.Hosts()), s.WasRemoved(id) })
	if removed {
		n.troubles.note(id, TroubleRemoved, fmt.Sprintf("host %s was removed from the cluster and still tries to take part", id))
	}
	return known == 0 && len(servers) == 0
}

// Member reports whether a host is this one, or a member as far as the catalogue here says.
func (n *Node) Member(hostID string) (member bool) {
	id := placement.HostID(hostID)
	n.machine.view(func(s *placement.State) { _, member = s.Host(id) })
	return member || id == n.cfg.ID
}

// MayBeNew reports whether a host that is not known may have joined while this one could not hear of it: this one is
// not current (it just started or has lost the leader), and the other was not removed. Others must vouch for it.
func (n *Node) MayBeNew(hostID string) (may bool) {
	n.machine.view(func(s *placement.State) { may = !s.WasRemoved(placement.HostID(hostID)) })
	return may && !n.current.Load()
}

// refusals remembers which hosts do not take this one for a member.
type refusals struct {
	mu  sync.Mutex
	all map[placement.HostID]refusing
}

// refusing is since when a host refuses, and when it did so last.
type refusing struct{ first, last time.Time }

// note records the outcome of speaking to a host.
func (r *refusals) note(host placement.HostID, refused bool, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !refused {
		delete(r.all, host)
		return
	}
	was, ok := r.all[host]
	if !ok {
		was.first = now
	}
	was.last = now
	r.all[host] = was
}

// of returns since when a host refuses; it has done so for some time, and did so lately.
func (r *refusals) of(host placement.HostID, now time.Time, atLeast, lately time.Duration) (since time.Time, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	was, ok := r.all[host]
	return was.first, ok && was.last.Sub(was.first) >= atLeast && now.Sub(was.last) <= lately
}

// count returns how many of the hosts have refused for at least that long.
func (r *refusals) count(hosts []placement.HostID, now time.Time, atLeast time.Duration) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, h := range hosts {
		if was, ok := r.all[h]; ok && now.Sub(was.first) >= atLeast {
			n++
		}
	}
	return n
}

// heard is told how it goes with another host.
func (n *Node) heard(host placement.HostID, err error) {
	switch {
	case err == nil:
		n.refusals.note(host, false, time.Now())
	case n.cfg.Refused(err):
		n.refusals.note(host, true, time.Now())
	}
}

// removedAfter is how long the signs of a removal must last: a host that is removed and admitted again replays both,
// and hosts that lag behind refuse one that was just admitted.
const removedAfter = 5 * time.Second

// watch follows this host's standing: whether it is current, and whether it is still a member.
func (n *Node) watch() {
	r := n.raft.Load()
	tick := time.NewTicker(n.cfg.Timing.Reconcile)
	defer tick.Stop()
	var was bool                                     // this host was seen in the catalogue
	var gone time.Time                               // since when it is not any more
	var leader, term = hraft.ServerID(""), uint64(0) // with whom it became current
	for {
		_, id := r.LeaderWithID()
		if id == "" || id != leader || r.CurrentTerm() != term {
			n.current.Store(false)
		}
		if id != "" && !n.current.Load() {
			leader, term = id, r.CurrentTerm()
			n.catchUp()
		}
		in := n.isMember()
		switch {
		case in || !was || r.State() == hraft.Leader:
			was, gone = was || in, time.Time{}
		case gone.IsZero():
			gone = time.Now()
		case time.Since(gone) >= removedAfter:
			n.fail(ErrRemoved)
		}
		if n.refusedByMost() {
			n.fail(ErrRemoved)
		}
		select {
		case <-n.ctx.Done():
			return
		case <-tick.C:
		case <-n.leaderSeen:
		}
	}
}

func (n *Node) isMember() (in bool) {
	n.machine.view(func(s *placement.State) { _, in = s.Host(n.cfg.ID) })
	return in
}

// refusedByMost reports whether more than half of the other hosts have been refusing this one for a while, and no
// leader speaks to it.
func (n *Node) refusedByMost() bool {
	if _, id := n.raft.Load().LeaderWithID(); id != "" {
		return false
	}
	var others []placement.HostID
	for _, server := range n.configuration().Servers {
		if id := placement.HostID(server.ID); id != n.cfg.ID {
			others = append(others, id)
		}
	}
	return len(others) > 0 && n.refusals.count(others, time.Now(), removedAfter) > len(others)/2
}
