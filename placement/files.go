package placement

import (
	"fmt"
	"slices"

	"github.com/virtswarm/virtswarm/internal/content"
)

func (s *State) publish(index uint64, c *Publish) (bool, error) {
	if s.hosts[c.Publisher] == nil {
		return false, fmt.Errorf("publish %q from host %q: %w", c.Name, c.Publisher, ErrNoHost)
	}
	v := Version{
		ID: c.ID, Size: c.Size, Replicas: c.Replicas, Guests: c.Guests, Publisher: c.Publisher, Index: index, At: c.At,
	}
	if v.Guests == "" {
		v.Guests = "none"
	}
	rec, err := s.contentOf(c)
	if err != nil {
		return false, fmt.Errorf("publish %q: %w", c.Name, err)
	}
	versions, changed, err := s.withVersion(c.Name, v)
	if err != nil {
		return false, err
	}
	n := rec.copy()
	if !s.setHolder(n, c.Publisher, AllShards()) && !changed {
		return false, nil
	}
	if changed {
		s.putFile(c.Name, versions)
	}
	n.names = insertSorted(slices.Clone(n.names), c.Name)
	n.replicas = s.replicasOf(n)
	s.putContent(index, n)
	return true, nil
}

// contentOf returns the record of a command's content, a new one that is not stored yet if there is none.
func (s *State) contentOf(c *Publish) (*contentRecord, error) {
	rec := s.contents[c.ID]
	if rec == nil {
		return &contentRecord{id: c.ID, size: c.Size, dataBytes: c.DataBytes, chunkSize: c.ChunkSize, shards: shardsOf(c.Size)}, nil
	}
	if rec.size != c.Size || rec.dataBytes != c.DataBytes || rec.chunkSize != c.ChunkSize {
		return nil, fmt.Errorf("%s is known with %d bytes, %d of data, in chunks of %d: %w",
			c.ID.Short(), rec.size, rec.dataBytes, rec.chunkSize, ErrContentConflict)
	}
	return rec, nil
}

// withVersion returns the versions of a name after a publish, and whether they differ from before.
func (s *State) withVersion(name string, v Version) ([]Version, bool, error) {
	f := s.files[name]
	if f == nil {
		if len(s.files) >= MaxNames {
			return nil, false, fmt.Errorf("publish %q: %d names: %w", name, len(s.files), ErrTooMany)
		}
		return []Version{v}, true, nil
	}
	newest := len(f.versions) - 1
	if old := f.versions[newest]; old.ID == v.ID {
		if old.Replicas == v.Replicas && old.Guests == v.Guests {
			return nil, false, nil
		}
		versions := slices.Clone(f.versions)
		versions[newest].Replicas, versions[newest].Guests = v.Replicas, v.Guests
		return versions, true, nil
	}
	for _, old := range f.versions {
		if s.Version() < ownTimes && old.ID == v.ID && old.Publisher == v.Publisher && old.At == v.At {
			return nil, false, nil // a repeat of a publish that newer ones have overtaken
		}
	}
	if len(f.versions) >= MaxVersions {
		return nil, false, fmt.Errorf("publish %q: it has %d versions, remove some first: %w", name, len(f.versions), ErrTooMany)
	}
	return append(slices.Clone(f.versions), v), true, nil
}

// putFile stores the versions of a name; none removes it.
func (s *State) putFile(name string, versions []Version) {
	if len(versions) == 0 {
		delete(s.files, name)
		s.names = removeSorted(s.names, name)
		return
	}
	if s.files[name] == nil {
		s.names = insertSorted(s.names, name)
	}
	s.files[name] = &fileRecord{name, versions}
}

func (s *State) removeFile(index uint64, c *RemoveFile) (bool, error) {
	f := s.files[c.Name]
	if f == nil {
		return false, fmt.Errorf("remove %q: %w", c.Name, ErrNoFile)
	}
	kept := []Version{}
	gone := map[content.Digest]bool{}
	for _, v := range f.versions {
		if c.ID.IsZero() || v.ID == c.ID {
			gone[v.ID] = true
		} else {
			kept = append(kept, v)
		}
	}
	if len(gone) == 0 {
		return false, fmt.Errorf("remove %q: it has no version %s: %w", c.Name, c.ID, ErrNoFile)
	}
	s.putFile(c.Name, kept)
	for _, v := range f.versions { // in order, for the change log's sake
		if gone[v.ID] {
			delete(gone, v.ID)
			s.unrefer(index, v.ID, c.Name)
		}
	}
	return true, nil
}

// unrefer takes a name off a content of which it has no version any more; without names the content goes.
func (s *State) unrefer(index uint64, id content.Digest, name string) {
	c := s.contents[id].copy()
	c.names = removeSorted(slices.Clone(c.names), name)
	if len(c.names) == 0 {
		s.dropContent(index, id)
		return
	}
	c.replicas = s.replicasOf(c)
	s.putContent(index, c)
}

// replicasOf is the most copies that a version of the content asks for.
func (s *State) replicasOf(c *contentRecord) int {
	most := 1
	for _, name := range c.names {
		for _, v := range s.files[name].versions {
			if v.ID != c.id {
				continue
			}
			if v.Replicas == 0 {
				return 0
			}
			most = max(most, v.Replicas)
		}
	}
	return most
}

func (s *State) distribute(index uint64, c *Distribute) (bool, error) {
	v, err := s.Lookup(c.Name, c.ID)
	if err != nil {
		return false, fmt.Errorf("distribute: %w", err)
	}
	for _, h := range c.Hosts {
		if s.hosts[h] == nil {
			return false, fmt.Errorf("distribute %q to host %q: %w", c.Name, h, ErrNoHost)
		}
	}
	old := s.contents[v.ID]
	t := Targets{All: true, Tags: union(old.targets.Tags, c.Tags)}
	if !c.All && !old.targets.All {
		t.All, t.Hosts = false, union(old.targets.Hosts, c.Hosts)
	}
	if len(t.Tags) > MaxTags {
		return false, fmt.Errorf("distribute %q: %d tags, at most %d: %w", c.Name, len(t.Tags), MaxTags, ErrTooMany)
	}
	if t.All == old.targets.All && len(t.Hosts) == len(old.targets.Hosts) && len(t.Tags) == len(old.targets.Tags) {
		return false, nil
	}
	s.setTargets(index, old.copy(), t)
	return true, nil
}

func (s *State) unpin(index uint64, c *Unpin) (bool, error) {
	v, err := s.Lookup(c.Name, c.ID)
	if err != nil {
		return false, fmt.Errorf("unpin: %w", err)
	}
	old := s.contents[v.ID]
	targets := old.targets.Hosts
	if old.targets.All {
		targets = s.hostIDs
	}
	var kept []HostID
	for _, h := range targets {
		if !c.All && !slices.Contains(c.Hosts, h) {
			kept = append(kept, h)
		}
	}
	var tags []string
	for _, t := range old.targets.Tags {
		if !c.All && !slices.Contains(c.Tags, t) {
			tags = append(tags, t)
		}
	}
	if len(kept) == len(targets) && len(tags) == len(old.targets.Tags) {
		return false, nil
	}
	t := Targets{Hosts: kept, Tags: tags}
	if len(kept) == len(targets) {
		t.All, t.Hosts = old.targets.All, old.targets.Hosts
	}
	s.setTargets(index, old.copy(), t)
	return true, nil
}

// union returns what is in either list, sorted.
func union[T ~string](a, b []T) []T {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

func (s *State) report(index uint64, c *Report) (changed bool, unknown []content.Digest, err error) {
	if s.hosts[c.Host] == nil {
		return false, nil, fmt.Errorf("report of host %q: %w", c.Host, ErrNoHost)
	}
	news := make([]*contentRecord, 0, len(c.Holdings))
	seen := make(map[content.Digest]bool, len(c.Holdings)+len(c.Dropped))
	learn := func(id content.Digest, shards ShardSet) error {
		if seen[id] {
			return fmt.Errorf("report of host %q: %s twice: %w", c.Host, id.Short(), ErrBadCommand)
		}
		seen[id] = true
		old := s.contents[id]
		if old == nil {
			unknown = append(unknown, id)
			return nil
		}
		shards, err := shards.within(old.shards)
		if err != nil {
			return fmt.Errorf("report of host %q on %s: %w", c.Host, id.Short(), err)
		}
		if n := old.copy(); s.setHolder(n, c.Host, shards) {
			news = append(news, n)
		}
		return nil
	}
	for _, h := range c.Holdings {
		if err := learn(h.ID, h.Shards); err != nil {
			return false, nil, err
		}
	}
	for _, id := range c.Dropped {
		if err := learn(id, ShardSet{}); err != nil {
			return false, nil, err
		}
	}
	for _, n := range news {
		s.putContent(index, n)
	}
	return len(news) > 0, unknown, nil
}

// setHolder records what a host holds in a record that is not stored yet, and reports whether that is news.
func (s *State) setHolder(c *contentRecord, host HostID, shards ShardSet) bool {
	if s.hosts[host].State == Down {
		c.homes.Store(nil) // what a down host is a home of depends on what it holds
	}
	i, ok := c.holder(host)
	switch {
	case !ok && shards.Empty(), ok && c.holders[i].Shards.Equal(shards):
		return false
	case shards.Empty():
		c.holders = slices.Delete(slices.Clone(c.holders), i, i+1)
	case ok:
		c.holders = slices.Clone(c.holders)
		c.holders[i].Shards = shards
	default:
		c.holders = slices.Insert(slices.Clone(c.holders), i, Holder{host, shards})
	}
	return true
}
