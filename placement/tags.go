package placement

import (
	"bytes"
	"slices"

	"github.com/virtswarm/virtswarm/internal/content"
)

// A content may be wanted wherever domains of a tag run: Targets.Tags. The hosts which that means now are kept with the
// content (contentRecord.follows), and follow the domains.

// tagIndex knows where domains of a tag run, and which contents that matters to.
type tagIndex struct {
	hosts    map[string]map[HostID]int          // how many active domains of a tag a host has
	contents map[string]map[content.Digest]bool // that are wanted where a tag runs
}

func newTagIndex() tagIndex {
	return tagIndex{hosts: map[string]map[HostID]int{}, contents: map[string]map[content.Digest]bool{}}
}

// hostsOf returns the hosts that run domains of any of the tags, sorted.
func (x *tagIndex) hostsOf(tags []string) (hosts []HostID) {
	for _, tag := range tags {
		for host := range x.hosts[tag] {
			hosts = append(hosts, host)
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// count notes a domain that came (by 1) or went (by -1), and returns the tags for which that moved a host in or out.
func (x *tagIndex) count(v DomainView, by int) (moved []string) {
	if !v.State.Active() && v.State != DomainUnknown {
		return nil
	}
	for _, tag := range v.Tags {
		n := x.hosts[tag]
		if n == nil {
			n = map[HostID]int{}
			x.hosts[tag] = n
		}
		before := n[v.Host]
		n[v.Host] += by
		if n[v.Host] == 0 {
			delete(n, v.Host)
		}
		if before == 0 || n[v.Host] == 0 {
			moved = append(moved, tag)
		}
		if len(n) == 0 {
			delete(x.hosts, tag)
		}
	}
	return moved
}

// tag notes for which tags a content is wanted.
func (x *tagIndex) tag(id content.Digest, old, tags []string) {
	for _, t := range old {
		delete(x.contents[t], id)
		if len(x.contents[t]) == 0 {
			delete(x.contents, t)
		}
	}
	for _, t := range tags {
		if x.contents[t] == nil {
			x.contents[t] = map[content.Digest]bool{}
		}
		x.contents[t][id] = true
	}
}

// wanting returns the contents that are wanted where one of the tags runs, in order.
func (x *tagIndex) wanting(tags []string) (ids []content.Digest) {
	for _, tag := range tags {
		for id := range x.contents[tag] {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b content.Digest) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(ids)
}

// followTags moves the targets of contents with a domain.
func (s *State) followTags(index uint64, before, after DomainView) {
	moved := append(s.tags.count(before, -1), s.tags.count(after, 1)...)
	for _, id := range s.tags.wanting(moved) {
		old := s.contents[id]
		n := old.copy()
		if n.follows = s.tags.hostsOf(n.targets.Tags); !slices.Equal(n.follows, old.follows) {
			s.putContent(index, n)
		}
	}
}

// setTargets stores a content whose targets were changed.
func (s *State) setTargets(index uint64, n *contentRecord, t Targets) {
	s.tags.tag(n.id, n.targets.Tags, t.Tags)
	n.targets, n.follows = t, s.tags.hostsOf(t.Tags)
	s.putContent(index, n)
}

// allTargets returns the hosts that must hold all of a content, sorted.
func (s *State) allTargets(c *contentRecord) []HostID {
	switch {
	case c.targets.All:
		return s.hostIDs
	case len(c.follows) == 0:
		return c.targets.Hosts
	}
	hosts := slices.Concat(c.targets.Hosts, c.follows)
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// HostsOfTags returns the hosts that run domains of any of the tags, sorted.
func (s *State) HostsOfTags(tags []string) []HostID { return s.tags.hostsOf(tags) }
