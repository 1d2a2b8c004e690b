package placement

import (
	"fmt"
	"sort"
	"strings"

	"github.com/virtswarm/virtswarm/internal/content"
)

// Applied is the index of the last command.
func (s *State) Applied() uint64 { return s.applied }

// ClusterID is the cluster's id, "" before InitCluster.
func (s *State) ClusterID() string { return s.cluster }

// Lineage tells this catalogue from a replacement of it that may lack entries which it had: it differs between the two.
func (s *State) Lineage() uint64 { return 0 }

// Host returns a member.
func (s *State) Host(id HostID) (Host, bool) {
	h := s.hosts[id]
	if h == nil {
		return Host{}, false
	}
	return h.copy(), true
}

// WasRemoved reports whether a host was a member and was removed; it forgets after MaxGone others.
func (s *State) WasRemoved(id HostID) bool {
	_, ok := s.gone[id]
	return ok
}

// HostByName returns the member with that name or, as commands take either, with that id.
func (s *State) HostByName(name string) (Host, bool) {
	if id, ok := s.byName[name]; ok {
		return s.Host(id)
	}
	return s.Host(HostID(name))
}

// Hosts returns all members, sorted by name.
func (s *State) Hosts() []Host {
	hosts := make([]Host, 0, len(s.hosts))
	for _, id := range s.hostIDs {
		hosts = append(hosts, s.hosts[id].copy())
	}
	sort.Slice(hosts, func(i, j int) bool { return hosts[i].Name < hosts[j].Name })
	return hosts
}

func (h *Host) copy() Host {
	c := *h
	if h.Labels != nil {
		c.Labels = make(map[string]string, len(h.Labels))
		for k, v := range h.Labels {
			c.Labels[k] = v
		}
	}
	return c
}

// Token returns a join token that has not been forgotten.
func (s *State) Token(id string) (Token, bool) {
	t := s.tokens[id]
	if t == nil {
		return Token{}, false
	}
	return *t, true
}

// Tokens returns all join tokens, used ones too, sorted by expiry and id.
func (s *State) Tokens() []Token {
	list := make([]Token, 0, len(s.tokens))
	for _, t := range s.tokens {
		list = append(list, *t)
	}
	sort.Slice(list, func(i, j int) bool {
		if list[i].Expires != list[j].Expires {
			return list[i].Expires < list[j].Expires
		}
		return list[i].ID < list[j].ID
	})
	return list
}

// Names returns the files whose name begins with prefix, sorted by name.
func (s *State) Names(prefix string) []File {
	first := sort.SearchStrings(s.names, prefix)
	var files []File
	for _, name := range s.names[first:] {
		if !strings.HasPrefix(name, prefix) {
			break
		}
		files = append(files, s.files[name].view())
	}
	return files
}

// File returns a file by its name.
func (s *State) File(name string) (File, bool) {
	f := s.files[name]
	if f == nil {
		return File{}, false
	}
	return f.view(), true
}

func (f *fileRecord) view() File {
	return File{Name: f.name, Versions: append([]Version(nil), f.versions...)}
}

// Lookup returns the version of a name with that content, or with a zero id the newest. ErrNoFile says which part
// is unknown.
func (s *State) Lookup(name string, id content.Digest) (Version, error) {
	f := s.files[name]
	if f == nil {
		return Version{}, fmt.Errorf("%q: %w", name, ErrNoFile)
	}
	i := f.find(id)
	if i < 0 {
		return Version{}, fmt.Errorf("%q has no version %s: %w", name, id, ErrNoFile)
	}
	return f.versions[i], nil
}

// find returns the position of the newest version with that content (zero id: the newest), -1 if there is none.
func (f *fileRecord) find(id content.Digest) int {
	for i := len(f.versions) - 1; i >= 0; i-- {
		if id.IsZero() || f.versions[i].ID == id {
			return i
		}
	}
	return -1
}

// Files is the number of names, Contents that of different contents.
func (s *State) Files() int    { return len(s.files) }
func (s *State) Contents() int { return len(s.contents) }

// Content returns what is known of a content.
func (s *State) Content(id content.Digest) (Content, bool) {
	c := s.contents[id]
	if c == nil {
		return Content{}, false
	}
	return c.view(), true
}

func (c *contentRecord) view() Content {
	return Content{
		ID: c.id, Size: c.size, DataBytes: c.dataBytes, ChunkSize: c.chunkSize, Shards: c.shards,
		Replicas: c.replicas, Changed: c.changed,
		Targets: Targets{All: c.targets.All, Hosts: append([]HostID(nil), c.targets.Hosts...), Tags: append([]string(nil), c.targets.Tags...)},
		Follows: append([]HostID(nil), c.follows...),
		Names:   append([]string(nil), c.names...),
	}
}

// Holders returns the hosts that said they hold shards of a content, sorted by id, dead ones included: State of the
// host says whether to ask it.
func (s *State) Holders(id content.Digest) []Holder {
	c := s.contents[id]
	if c == nil {
		return nil
	}
	return append([]Holder(nil), c.holders...)
}

// holder returns the position of a host among the holders, and whether it is one.
func (c *contentRecord) holder(host HostID) (int, bool) {
	i := sort.Search(len(c.holders), func(i int) bool { return c.holders[i].Host >= host })
	return i, i < len(c.holders) && c.holders[i].Host == host
}

// Held returns the shards of a content that a host said it holds.
func (s *State) Held(host HostID, id content.Digest) ShardSet {
	c := s.contents[id]
	if c == nil {
		return ShardSet{}
	}
	return c.held(host)
}

func (c *contentRecord) held(host HostID) ShardSet {
	if i, ok := c.holder(host); ok {
		return c.holders[i].Shards
	}
	return ShardSet{}
}

// Changes says what a host must look at again to keep up with the catalogue since an index.
type Changes struct {
	// Contents whose facts or duties may differ, oldest change first; all of them if hosts came, went or changed.
	Contents []content.Digest
	// Removed is set if some content disappeared: compare what you hold with Content.
	Removed bool
}

// ChangedSince returns what changed after an index. Index 0 gives everything.
func (s *State) ChangedSince(index uint64) Changes {
	from := index
	if s.moved > index {
		from = 0
	}
	return Changes{Contents: s.changes.since(from, s.contents), Removed: s.removed > index || index == 0}
}

// Duty is what a host must hold of one content.
type Duty struct {
	ID     content.Digest
	Shards ShardSet
}

// Must returns what a host must hold of the contents that changed after an index (0: of all), including those of
// which it must hold nothing (any more).
func (s *State) Must(host HostID, since uint64) []Duty {
	ids := s.ChangedSince(since).Contents
	duties := make([]Duty, 0, len(ids))
	for _, id := range ids {
		duties = append(duties, Duty{id, s.HomeShards(host, id)})
	}
	return duties
}
