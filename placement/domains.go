package placement

import (
	"fmt"
	"slices"
	"sort"
)

// ReportDomains says of domains that they run or are defined on a host, and how; Gone are UUIDs of those that are not
// there any more. Of others it says nothing.
//
// Idempotent: it sets values, never adds to them. A report that is not newer than one that was carried out changes
// nothing, so that one which was late on its way does not bring back what was.
type ReportDomains struct {
	Host    HostID   `json:"host"`
	Seq     uint64   `json:"seq"` // grows with every report of the host, over its restarts too; at least 1
	Domains []Domain `json:"domains,omitempty"`
	Gone    []string `json:"gone,omitempty"`
}

// DomainEvent is one change of a domain's view.
type DomainEvent struct {
	Index uint64 // of the command that changed it
	View  DomainView
	// Gone says that no host claims it any more; View is what was last known.
	Gone bool
}

// maxEvents bounds the events that are remembered for watchers that lag.
const maxEvents = 8192

// eventLog remembers the last changes of domains, in order. It is not part of a snapshot: who watches at a host that
// was restored from one begins anew.
type eventLog struct {
	from   uint64 // events of commands up to this index are forgotten
	events []DomainEvent
}

func (l *eventLog) add(e DomainEvent) {
	l.events = append(l.events, e)
	if len(l.events) < 2*maxEvents {
		return
	}
	cut := len(l.events) - maxEvents
	for cut < len(l.events) && l.events[cut].Index == l.events[cut-1].Index {
		cut++ // the events of one command stay together
	}
	l.from = l.events[cut-1].Index
	l.events = slices.Clone(l.events[cut:])
}

// DomainEvents returns the changes of domains after an index, in order; false if some of them are forgotten, and the
// caller has to begin with Domains.
func (s *State) DomainEvents(after uint64) ([]DomainEvent, bool) {
	l := &s.domainLog
	if after < l.from {
		return nil, false
	}
	first := sort.Search(len(l.events), func(i int) bool { return l.events[i].Index > after })
	return slices.Clone(l.events[first:]), true
}

// Domains returns all domains, sorted by name and UUID.
func (s *State) Domains() []DomainView {
	list := make([]DomainView, 0, len(s.domains))
	for _, d := range s.domains {
		list = append(list, d.view)
	}
	sort.Slice(list, func(i, j int) bool {
		if list[i].Name != list[j].Name {
			return list[i].Name < list[j].Name
		}
		return list[i].UUID < list[j].UUID
	})
	return list
}

// Domain returns a domain by its UUID.
func (s *State) Domain(uuid string) (DomainView, bool) {
	d := s.domains[uuid]
	if d == nil {
		return DomainView{}, false
	}
	return d.view, true
}

// DomainsNamed returns the domains with a name, or the one with that UUID, sorted by UUID.
func (s *State) DomainsNamed(name string) (list []DomainView) {
	if v, ok := s.Domain(name); ok {
		return []DomainView{v}
	}
	for _, v := range s.Domains() {
		if v.Name == name {
			list = append(list, v)
		}
	}
	return list
}

// ClaimedBy returns what a host said of the domains there, sorted by UUID: also of those which the catalogue shows on
// another host.
func (s *State) ClaimedBy(host HostID) (list []Domain) {
	for uuid := range s.claimed[host] {
		c, _ := s.domains[uuid].claimOf(host)
		list = append(list, c.Domain)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].UUID < list[j].UUID })
	return list
}

// SplitDomains counts the domains that more than one host which is up claims to run.
func (s *State) SplitDomains() (n int) {
	for _, d := range s.domains {
		if d.view.Split {
			n++
		}
	}
	return n
}

func (d *domainRecord) claimOf(host HostID) (claim, bool) {
	i, ok := d.find(host)
	if !ok {
		return claim{}, false
	}
	return d.claims[i], true
}

// find returns where the claim of a host is, or would be.
func (d *domainRecord) find(host HostID) (int, bool) {
	i := sort.Search(len(d.claims), func(i int) bool { return d.claims[i].Host >= host })
	return i, i < len(d.claims) && d.claims[i].Host == host
}

func (s *State) reportDomains(index uint64, c *ReportDomains) (bool, error) {
	h := s.hosts[c.Host]
	if h == nil {
		return false, fmt.Errorf("report domains of host %q: %w", c.Host, ErrNoHost)
	}
	if c.Seq <= h.DomainSeq {
		return false, nil
	}
	fresh := 0
	for i := range c.Domains {
		if s.domains[c.Domains[i].UUID] == nil {
			fresh++
		}
	}
	if len(s.domains)+fresh > MaxDomains {
		return false, fmt.Errorf("report domains of host %q: %d domains, at most %d: %w", c.Host, len(s.domains)+fresh, MaxDomains, ErrTooMany)
	}
	n := *h
	n.DomainSeq = c.Seq
	s.putHost(&n)
	for i := range c.Domains {
		s.claim(index, c.Host, c.Domains[i])
	}
	for _, uuid := range c.Gone {
		s.disclaim(index, c.Host, uuid)
	}
	return true, nil
}

// claim records what a host says of a domain.
func (s *State) claim(index uint64, host HostID, d Domain) {
	old := s.domains[d.UUID]
	n := &domainRecord{uuid: d.UUID}
	said := claim{Host: host, Since: index, Domain: d}
	if old == nil {
		n.claims = []claim{said}
	} else {
		n.claims = slices.Clone(old.claims)
		i, known := old.find(host)
		switch {
		case known && n.claims[i].Domain.Equal(d):
			return
		case known:
			if was := n.claims[i]; was.Domain.State.Active() == d.State.Active() {
				said.Since = was.Since
			}
			n.claims[i] = said
		default:
			n.claims = slices.Insert(n.claims, i, said)
		}
	}
	if s.claimed[host] == nil {
		s.claimed[host] = map[string]bool{}
	}
	s.claimed[host][d.UUID] = true
	s.putDomain(index, n)
}

// disclaim forgets what a host said of a domain, if it did.
func (s *State) disclaim(index uint64, host HostID, uuid string) {
	old := s.domains[uuid]
	if old == nil {
		return
	}
	i, known := old.find(host)
	if !known {
		return
	}
	delete(s.claimed[host], uuid)
	if len(s.claimed[host]) == 0 {
		delete(s.claimed, host)
	}
	if len(old.claims) == 1 {
		delete(s.domains, uuid)
		s.domainLog.add(DomainEvent{Index: index, View: old.view, Gone: true})
		s.followTags(index, old.view, DomainView{})
		return
	}
	s.putDomain(index, &domainRecord{uuid: uuid, claims: slices.Delete(slices.Clone(old.claims), i, i+1)})
}

// putDomain stores a changed record with its view, and tells watchers if that is another one.
func (s *State) putDomain(index uint64, n *domainRecord) {
	old := s.domains[n.uuid]
	n.view = s.view(n.claims)
	n.view.Changed = index
	var before DomainView
	if old != nil {
		before = old.view
		if before.same(n.view) {
			n.view.Changed = before.Changed
		}
	}
	s.domains[n.uuid] = n
	if n.view.Changed == index {
		s.domainLog.add(DomainEvent{Index: index, View: n.view})
		s.followTags(index, before, n.view)
	}
}

// hostMoved derives the views of the domains that a host claims anew, after its state changed.
func (s *State) hostMoved(index uint64, host HostID) {
	for _, uuid := range s.claimedIDs(host) {
		old := s.domains[uuid]
		s.putDomain(index, &domainRecord{uuid: uuid, claims: old.claims})
	}
}

// hostGone forgets what a host said of domains, after it was removed.
func (s *State) hostGone(index uint64, host HostID) {
	for _, uuid := range s.claimedIDs(host) {
		s.disclaim(index, host, uuid)
	}
}

func (s *State) claimedIDs(host HostID) []string {
	ids := make([]string, 0, len(s.claimed[host]))
	for uuid := range s.claimed[host] {
		ids = append(ids, uuid)
	}
	slices.Sort(ids)
	return ids
}
