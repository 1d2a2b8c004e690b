package placement

import (
	"fmt"
	"maps"
	"slices"

	"github.com/virtswarm/virtswarm/internal/content"
)

func (s *State) initCluster(index uint64, c *InitCluster) (bool, error) {
	if s.cluster == c.ID {
		return false, nil
	}
	if s.cluster != "" {
		return false, fmt.Errorf("initialise cluster %s: the catalogue is that of cluster %s: %w", c.ID, s.cluster, ErrOtherCluster)
	}
	s.cluster = c.ID
	s.version = c.Host.Version
	s.admit(index, c.Host, c.Now)
	return true, nil
}

func (s *State) addHost(index uint64, c *AddHost) (bool, error) {
	t := s.tokens[c.TokenID]
	switch {
	case t == nil:
		return false, fmt.Errorf("add host %q with token %s: %w", c.Host.Name, c.TokenID, ErrTokenUnknown)
	case t.UsedBy == c.Host.ID && s.hosts[c.Host.ID] != nil:
		return false, nil
	case t.UsedBy != "":
		return false, fmt.Errorf("add host %q with token %s: %w", c.Host.Name, c.TokenID, ErrTokenUsed)
	case t.Expires <= c.Now:
		return false, fmt.Errorf("add host %q with token %s: %w", c.Host.Name, c.TokenID, ErrTokenExpired)
	case len(s.hosts) >= MaxHosts && s.hosts[c.Host.ID] == nil:
		return false, fmt.Errorf("add host %q: %d hosts: %w", c.Host.Name, len(s.hosts), ErrTooMany)
	}
	if err := s.admits(c.Host.Name, c.Host.Version); err != nil {
		return false, fmt.Errorf("add host: %w", err)
	}
	if err := s.nameFree(c.Host.Name, c.Host.ID); err != nil {
		return false, fmt.Errorf("add host: %w", err)
	}
	used := *t
	used.UsedBy = c.Host.ID
	s.tokens[t.ID] = &used
	delete(s.tickets, c.Host.ID) // it may begin to count anew
	s.admit(index, c.Host, c.Now)
	return true, nil
}

// nameFree checks that no other host has the name.
func (s *State) nameFree(name string, id HostID) error {
	if other, ok := s.byName[name]; ok && other != id {
		return fmt.Errorf("%q belongs to host %s: %w", name, other, ErrNameTaken)
	}
	return nil
}

// admit makes a host a member, alive.
func (s *State) admit(index uint64, asked Host, now int64) {
	h := Host{
		ID: asked.ID, Name: asked.Name, Addr: asked.Addr, Weight: asked.Weight, Labels: maps.Clone(asked.Labels),
		Limits: asked.Limits, State: Alive, Since: index, At: now, Joined: index, JoinAt: now, Life: asked.Life,
		Version: asked.Version, Program: asked.Program,
	}
	if h.Weight == 0 {
		h.Weight = DefaultWeight
	}
	if old := s.hosts[h.ID]; old != nil {
		h.DomainSeq = old.DomainSeq
	}
	delete(s.gone, h.ID)
	s.putHost(&h)
	s.remap(index)
	s.hostMoved(index, h.ID)
}

func (s *State) updateHost(index uint64, c *UpdateHost) (bool, error) {
	old := s.hosts[c.ID]
	if old == nil {
		return false, fmt.Errorf("update host %q: %w", c.ID, ErrNoHost)
	}
	h := *old
	if c.Life != 0 && c.Life < old.Life {
		return false, fmt.Errorf("update host %q, started as %d, last known as %d: %w", c.ID, c.Life, old.Life, ErrLaterLife)
	}
	h.Life = max(old.Life, c.Life)
	if c.Version != 0 {
		if err := s.admits(old.Name, c.Version); err != nil {
			return false, fmt.Errorf("update host %q: %w", c.ID, err)
		}
		h.Version, h.Program = c.Version, c.Program
	}
	if c.Authority != "" {
		h.Authority = c.Authority
	}
	if c.Name != "" {
		if err := s.nameFree(c.Name, c.ID); err != nil {
			return false, fmt.Errorf("update host %q: %w", c.ID, err)
		}
		h.Name = c.Name
	}
	if c.Addr != "" {
		h.Addr = c.Addr
	}
	if c.Weight != 0 {
		h.Weight = c.Weight
	}
	h.Labels = c.relabelled(old.Labels)
	set(&h.Limits.Up, c.Up)
	set(&h.Limits.Down, c.Down)
	set(&h.Limits.Quota, c.Quota)
	set(&h.Limits.High, c.High)
	set(&h.Limits.Low, c.Low)
	if err := validateHost(h); err != nil { // the watermarks together, the number of labels
		return false, fmt.Errorf("update: %w", err)
	}
	same := h.Life == old.Life && h.Version == old.Version && h.Program == old.Program && h.Authority == old.Authority && h.Name == old.Name && h.Addr == old.Addr
	if same && h.Weight == old.Weight && h.Limits == old.Limits && maps.Equal(h.Labels, old.Labels) {
		return false, nil
	}
	s.putHost(&h)
	if h.Weight != old.Weight {
		s.remap(index)
	}
	return true, nil
}

// relabelled returns the labels as the command leaves them.
func (c *UpdateHost) relabelled(old map[string]string) map[string]string {
	if c.Labels == nil && len(c.Relabel) == 0 {
		return old
	}
	labels := maps.Clone(old)
	if c.Labels != nil {
		labels = maps.Clone(c.Labels)
	}
	for k, v := range c.Relabel {
		if v == "" {
			delete(labels, k)
			continue
		}
		if labels == nil {
			labels = map[string]string{}
		}
		labels[k] = v
	}
	return labels
}

func set[T any](to *T, v *T) {
	if v != nil {
		*to = *v
	}
}

func (s *State) setHostState(index uint64, c *SetHostState) (bool, error) {
	old := s.hosts[c.ID]
	if old == nil {
		return false, fmt.Errorf("set state of host %q: %w", c.ID, ErrNoHost)
	}
	if old.State == c.To || (c.From != "" && old.State != c.From) {
		return false, nil
	}
	h := *old
	h.State, h.Since, h.At = c.To, index, c.Now
	s.putHost(&h)
	s.remap(index)
	s.hostMoved(index, h.ID)
	return true, nil
}

func (s *State) removeHost(index uint64, c *RemoveHost) (bool, error) {
	h := s.hosts[c.ID]
	switch {
	case h == nil:
		return false, fmt.Errorf("remove host %q: %w", c.ID, ErrNoHost)
	case len(s.hosts) == 1:
		return false, fmt.Errorf("remove host %q: %w", c.ID, ErrLastHost)
	}
	delete(s.hosts, h.ID)
	delete(s.byName, h.Name)
	delete(s.tickets, h.ID)
	s.hostIDs = removeSorted(s.hostIDs, h.ID)
	s.tokens = maps.Clone(s.tokens)
	maps.DeleteFunc(s.tokens, func(_ string, t *Token) bool { return t.By == h.ID && t.UsedBy == "" })
	for _, id := range s.contentIDs() {
		s.forgetHost(index, s.contents[id], h.ID)
	}
	s.hostGone(index, h.ID)
	s.remember(index, h.ID)
	s.remap(index)
	return true, nil
}

// remember notes a removal, forgetting the oldest one if there are too many.
func (s *State) remember(index uint64, id HostID) {
	s.gone[id] = index
	if len(s.gone) <= MaxGone {
		return
	}
	oldest := id
	for other, at := range s.gone { // indexes differ, so the order of the walk does not matter
		if at < s.gone[oldest] {
			oldest = other
		}
	}
	delete(s.gone, oldest)
}

// contentIDs returns the ids of all contents in order, so that a walk leaves the same change log everywhere.
func (s *State) contentIDs() []content.Digest {
	ids := make([]content.Digest, 0, len(s.contents))
	for id := range s.contents {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b content.Digest) int { return slices.Compare(a[:], b[:]) })
	return ids
}

// forgetHost takes a host out of a content's holders and targets.
func (s *State) forgetHost(index uint64, c *contentRecord, host HostID) {
	at, holds := c.holder(host)
	target := slices.Index(c.targets.Hosts, host)
	if !holds && target < 0 {
		return
	}
	n := c.copy()
	if holds {
		n.holders = slices.Delete(slices.Clone(c.holders), at, at+1)
	}
	if target >= 0 {
		n.targets.Hosts = slices.Delete(slices.Clone(c.targets.Hosts), target, target+1)
	}
	s.putContent(index, n)
}

func (s *State) createToken(c *CreateToken) (bool, error) {
	if t := s.tokens[c.ID]; t != nil {
		if t.Hash != c.Hash {
			return false, fmt.Errorf("create token %s: another token has this id: %w", c.ID, ErrBadCommand)
		}
		return false, nil
	}
	live := maps.Clone(s.tokens)
	maps.DeleteFunc(live, func(_ string, t *Token) bool { return t.Expires <= c.Now })
	if len(live) >= MaxTokens {
		return false, fmt.Errorf("create token: %d tokens are outstanding: %w", len(live), ErrTooMany)
	}
	live[c.ID] = &Token{ID: c.ID, Hash: c.Hash, Expires: c.Expires, By: c.By}
	s.tokens = live
	return true, nil
}
