package guest

import (
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"github.com/virtswarm/virtswarm/internal/guestlink"
	"github.com/virtswarm/virtswarm/placement"
)

// caller is what a link says of who is at its other end: a CID, or the domain that a socket or memory belongs to.
type caller struct {
	kind string // vsock, hybrid, shm
	cid  uint32 // of vsock
	uuid string // of the others
}

// roster is who is here.
type roster struct {
	domains map[string]placement.Domain // by UUID, those that have a process
	cids    map[uint32]string           // whose a CID is; "" if two claim it
	claims  map[uint32][]string         // names of those that claim one
}

func newRoster(list []placement.Domain) *roster {
	r := &roster{domains: map[string]placement.Domain{}, cids: map[uint32]string{}, claims: map[uint32][]string{}}
	for _, d := range list {
		if !d.State.Active() {
			continue
		}
		r.domains[d.UUID] = d
		if d.CID == 0 {
			continue
		}
		r.claims[d.CID] = append(r.claims[d.CID], d.Name)
		if _, twice := r.cids[d.CID]; twice {
			d.UUID = "" // the kernel gave it to one of them; which, it does not say
		}
		r.cids[d.CID] = d.UUID
	}
	return r
}

// Doubt is an identity that more than one guest claims: none of them is served by it.
type Doubt struct {
	What    string   // "CID 7", "shared memory"
	Domains []string // the names of those that claim it, as far as they are known
}

// Doubts returns what more than one guest claims now, in order.
func (s *Server) Doubts() (all []Doubt) {
	s.mu.Lock()
	r := s.roster
	s.mu.Unlock()
	for _, cid := range slices.Sorted(maps.Keys(r.claims)) {
		if names := r.claims[cid]; len(names) > 1 {
			all = append(all, Doubt{fmt.Sprintf("CID %d", cid), names})
		}
	}
	s.shm.mu.Lock()
	defer s.shm.mu.Unlock()
	for _, uuid := range slices.Sorted(maps.Keys(s.shm.doubted)) {
		all = append(all, Doubt{"shared memory", []string{r.domains[uuid].Name}})
	}
	return all
}

// who returns the domain at the other end of a link.
func (r *roster) who(c caller) (placement.Domain, bool) {
	uuid := c.uuid
	if c.kind == kindVSock {
		uuid = r.cids[c.cid]
	}
	d, ok := r.domains[uuid]
	return d, ok
}

// guest is what one domain uses of this host.
type guest struct {
	uuid   string
	links  map[*session]struct{} // guarded by Server.mu
	bells  bells
	held   *semaphore.Weighted // bytes, of MaxHeld
	turns  chan struct{}       // one for each chunk that is read
	pushes chan struct{}       // one for each push
	parts  *parts              // of a push that was interrupted

	streams atomic.Int64 // of all links
}

func newGuest(uuid string) *guest {
	return &guest{
		uuid: uuid, links: map[*session]struct{}{}, held: semaphore.NewWeighted(MaxHeld),
		turns: make(chan struct{}, maxTurns), pushes: make(chan struct{}, maxPushes), parts: &parts{},
	}
}

// admit counts one more stream, if there may be one. See guestlink.Config.
func (g *guest) admit() bool {
	if g.streams.Add(1) <= MaxStreams {
		return true
	}
	g.streams.Add(-1)
	return false
}

// release counts one stream less.
func (g *guest) release() { g.streams.Add(-1) }

// update makes a new roster the one that counts, and ends the links of who is not who he was.
func (s *Server) update(list []placement.Domain) {
	r := newRoster(list)
	var ended []*session
	s.mu.Lock()
	s.roster = r
	for uuid, g := range s.guests {
		for x := range g.links {
			if d, ok := r.who(x.caller); !ok || d.UUID != uuid {
				ended = append(ended, x)
			}
		}
		if _, here := r.domains[uuid]; !here {
			g.parts.drop()
			delete(s.guests, uuid)
		}
	}
	s.mu.Unlock()
	for _, x := range ended {
		x.end(guestlink.Fail(guestlink.CodeGone, "this domain is not on host %s any more", s.cfg.Host))
	}
}

// enter gives a link its place among those of its domain, or says why it has none.
func (s *Server) enter(x *session) *guestlink.Failure {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.roster.who(x.caller)
	if !ok {
		return guestlink.Fail(guestlink.CodeUnknown, "host %s knows no domain that this link belongs to", s.cfg.Host)
	}
	g := s.guests[d.UUID]
	if g == nil {
		g = newGuest(d.UUID)
		s.guests[d.UUID] = g
	}
	if n := len(g.links); n >= MaxLinks {
		return guestlink.Fail(guestlink.CodeBusy, "this domain has %d links open, the most that it may", n)
	}
	x.guest = g
	g.links[x] = struct{}{}
	return nil
}

func (s *Server) leave(x *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(x.guest.links, x)
}

// domain returns what is known now of the domain at the other end of a link.
func (s *Server) domain(x *session) (placement.Domain, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.roster.who(x.caller)
	if !ok || d.UUID != x.guest.uuid {
		return d, guestlink.Fail(guestlink.CodeGone, "this domain is not on host %s any more", s.cfg.Host)
	}
	return d, nil
}

// paused says that the domain at the other end of a link stands still.
func (s *Server) paused(c caller) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.roster.who(c)
	return ok && d.State == placement.DomainPaused
}

// Links says how many links each domain has, by UUID.
func (s *Server) Links() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[string]int{}
	for uuid, g := range s.guests {
		if len(g.links) > 0 {
			all[uuid] = len(g.links)
		}
	}
	return all
}

func (c caller) String() string {
	if c.kind == kindVSock {
		return fmt.Sprintf("%s CID %d", c.kind, c.cid)
	}
	return c.kind + " " + c.uuid
}
