package placement

import (
	"fmt"
	"slices"
)

func (c *Adopt) validate() error {
	switch c.Rank {
	case RankCareful, RankByTime, RankOlder:
	default:
		return fmt.Errorf("adopt %q: unknown rank %.80q: %w", c.Name, c.Rank, ErrBadCommand)
	}
	if c.Publisher != "" && !c.Publisher.Valid() {
		return fmt.Errorf("adopt %q: publisher %.80q: %w", c.Name, c.Publisher, ErrInvalidFile)
	}
	return c.Publish.validate()
}

// Admits says whether an Adopt would change the catalogue as it is now, or why it would be refused.
func (s *State) Admits(c Adopt) (bool, error) {
	if err := c.validate(); err != nil {
		return false, err
	}
	_, changed, err := s.withAdopted(0, &c)
	return changed, err
}

func (s *State) adopt(index uint64, c *Adopt) (bool, error) {
	versions, changed, err := s.withAdopted(index, c)
	if err != nil || !changed {
		return false, err
	}
	rec, err := s.contentOf(&c.Publish)
	if err != nil {
		return false, fmt.Errorf("adopt %q: %w", c.Name, err)
	}
	s.putFile(c.Name, versions)
	n := rec.copy()
	n.names = insertSorted(slices.Clone(n.names), c.Name)
	n.replicas = s.replicasOf(n)
	s.putContent(index, n)
	return true, nil
}

// withAdopted returns the versions of a name after an Adopt, and whether they differ from before.
func (s *State) withAdopted(index uint64, c *Adopt) ([]Version, bool, error) {
	if _, err := s.contentOf(&c.Publish); err != nil {
		return nil, false, fmt.Errorf("adopt %q: %w", c.Name, err)
	}
	v := Version{
		ID: c.ID, Size: c.Size, Replicas: c.Replicas, Guests: c.Guests, Publisher: c.Publisher, Index: index, At: c.At,
	}
	if v.Guests == "" {
		v.Guests = "none"
	}
	f := s.files[c.Name]
	switch {
	case f == nil && len(s.files) >= MaxNames:
		return nil, false, fmt.Errorf("adopt %q: %d names: %w", c.Name, len(s.files), ErrTooMany)
	case f == nil:
		return []Version{v}, true, nil
	case f.newest().ID == c.ID, slices.ContainsFunc(f.versions, func(old Version) bool { return old.ID == c.ID && old.At >= c.At }):
		return nil, false, nil
	case len(f.versions) >= MaxVersions:
		return nil, false, fmt.Errorf("adopt %q: it has %d versions, remove some first: %w", c.Name, len(f.versions), ErrTooMany)
	}
	newest := len(f.versions) - 1
	at := newest + 1
	for at > 0 && f.versions[at-1].At > v.At {
		at--
	}
	if at > newest && s.wasHost(f.newest().Publisher) {
		switch c.Rank {
		case RankOlder:
			at = newest
		case RankCareful:
			return nil, false, fmt.Errorf("adopt %q: %s was published in this cluster: %w", c.Name, f.newest().ID.Short(), ErrHides)
		}
	}
	return slices.Insert(slices.Clone(f.versions), at, v), true, nil
}

func (f *fileRecord) newest() Version { return f.versions[len(f.versions)-1] }

// wasHost reports whether a host is, or was, a member of this cluster.
func (s *State) wasHost(id HostID) bool { return s.hosts[id] != nil || s.WasRemoved(id) }
