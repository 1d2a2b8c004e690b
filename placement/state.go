package placement

import (
	"cmp"
	"errors"
	"fmt"
	"sort"
	"sync/atomic"

	"github.com/virtswarm/virtswarm/internal/content"
)

// State is the catalogue. Its records are never changed in place but replaced, so that a frozen picture of it (see
// Freeze) costs pointers only and a refused command cannot leave half a change behind.
type State struct {
	applied uint64 // index of the last command
	cluster string // id; "" until InitCluster
	version int    // see Version
	latest  int64  // see Latest

	recoveries  []Recovery  // the oldest first; replaced when one is added
	authorities []Authority // the oldest first; replaced when one changes

	hosts    map[HostID]*Host
	hostIDs  []HostID // sorted
	byName   map[string]HostID
	gone     map[HostID]uint64 // removed hosts, with the index of the removal
	tokens   map[string]*Token
	tickets  map[HostID][]settled // of members, ascending; at most MaxTickets each
	files    map[string]*fileRecord
	names    []string // sorted
	contents map[content.Digest]*contentRecord

	domains   map[string]*domainRecord   // by UUID
	claimed   map[HostID]map[string]bool // UUIDs of the domains that a host claims; no empty sets
	domainLog eventLog
	tags      tagIndex

	changes changeLog
	removed uint64 // index at which a content last disappeared
	moved   uint64 // index at which duties last moved: a host's state or weight changed, or a host joined or went

	ring *ring // the alive and down hosts, for rendezvous; replaced when they change
}

type fileRecord struct {
	name     string
	versions []Version // oldest first, never empty
}

// contentRecord is immutable but for its memos.
type contentRecord struct {
	id        content.Digest
	size      int64
	dataBytes int64
	chunkSize int
	shards    int
	replicas  int      // most over the versions that refer to it; 0 = every host
	names     []string // sorted names that refer to it
	targets   Targets
	follows   []HostID // sorted: the hosts that targets.Tags means now
	holders   []Holder // sorted by host; no empty sets
	changed   uint64

	homes       atomic.Pointer[homeTable]       // memo of the homes on one ring
	replication atomic.Pointer[replicationMemo] // memo of Replication on one ring
}

// copy returns a record with the same facts, to be changed before it is stored; slices are shared until replaced.
func (c *contentRecord) copy() *contentRecord {
	n := &contentRecord{
		id: c.id, size: c.size, dataBytes: c.dataBytes, chunkSize: c.chunkSize, shards: c.shards,
		replicas: c.replicas, names: c.names, targets: c.targets, follows: c.follows, holders: c.holders, changed: c.changed,
	}
	n.homes.Store(c.homes.Load())
	return n
}

// New returns the empty catalogue.
func New() *State {
	return &State{
		hosts:    map[HostID]*Host{},
		byName:   map[string]HostID{},
		gone:     map[HostID]uint64{},
		tokens:   map[string]*Token{},
		tickets:  map[HostID][]settled{},
		files:    map[string]*fileRecord{},
		contents: map[content.Digest]*contentRecord{},
		domains:  map[string]*domainRecord{},
		claimed:  map[HostID]map[string]bool{},
		tags:     newTagIndex(),
		ring:     newRing(nil),
	}
}

// Apply carries out a command at an index of the log. Indexes ascend. An error (one of the package's, wrapped)
// leaves the catalogue as it was, but for Applied and the ticket.
func (s *State) Apply(index uint64, c Command) (Result, error) {
	if index <= s.applied {
		return Result{}, fmt.Errorf("apply at index %d after %d: %w", index, s.applied, ErrBadCommand)
	}
	s.applied = index
	r := Result{Index: index}
	if err := c.Validate(); err != nil {
		return r, err
	}
	if s.cluster == "" && c.InitCluster == nil {
		return r, fmt.Errorf("%s: %w", c.Kind(), ErrNotInitialised)
	}
	if told, answered, err := s.recall(c); answered {
		told.Index = cmp.Or(told.Index, index)
		return told, err
	}
	r, err := s.carryOut(index, c)
	if at := c.time(); at != nil && err == nil {
		s.noteTime(*at)
	}
	s.record(c.Ticket, r, err)
	return r, err
}

// carryOut is Apply for a command that was not carried out before.
func (s *State) carryOut(index uint64, c Command) (r Result, err error) {
	r.Index = index
	switch {
	case c.InitCluster != nil:
		r.Changed, err = s.initCluster(index, c.InitCluster)
	case c.AddHost != nil:
		r.Changed, err = s.addHost(index, c.AddHost)
	case c.UpdateHost != nil:
		r.Changed, err = s.updateHost(index, c.UpdateHost)
	case c.SetHostState != nil:
		r.Changed, err = s.setHostState(index, c.SetHostState)
	case c.RemoveHost != nil:
		r.Changed, err = s.removeHost(index, c.RemoveHost)
	case c.CreateToken != nil:
		r.Changed, err = s.createToken(c.CreateToken)
	case c.Publish != nil:
		r.Changed, err = s.publish(index, c.Publish)
	case c.Adopt != nil:
		r.Changed, err = s.adopt(index, c.Adopt)
	case c.RemoveFile != nil:
		r.Changed, err = s.removeFile(index, c.RemoveFile)
	case c.Distribute != nil:
		r.Changed, err = s.distribute(index, c.Distribute)
	case c.Unpin != nil:
		r.Changed, err = s.unpin(index, c.Unpin)
	case c.Report != nil:
		r.Changed, r.Unknown, err = s.report(index, c.Report)
	case c.ReportDomains != nil:
		r.Changed, err = s.reportDomains(index, c.ReportDomains)
	case c.RaiseVersion != nil:
		r.Changed, err = s.raiseVersion(c.RaiseVersion)
	case c.SetAuthority != nil:
		r.Changed, err = s.setAuthority(c.SetAuthority)
	}
	return r, err
}

// putContent stores a changed record.
func (s *State) putContent(index uint64, c *contentRecord) {
	old := s.contents[c.id]
	c.changed = index
	s.contents[c.id] = c
	if old != nil && old.changed == index {
		return // one command changed it twice
	}
	s.changes.add(index, c.id)
	s.changes.compact(s.contents)
}

// dropContent forgets a content.
func (s *State) dropContent(index uint64, id content.Digest) {
	s.tags.tag(id, s.contents[id].targets.Tags, nil)
	delete(s.contents, id)
	s.removed = index
}

// putHost stores a changed host record and follows it with the indexes.
func (s *State) putHost(h *Host) {
	if old := s.hosts[h.ID]; old != nil {
		delete(s.byName, old.Name)
	} else {
		s.hostIDs = insertSorted(s.hostIDs, h.ID)
	}
	s.hosts[h.ID] = h
	s.byName[h.Name] = h.ID
}

// remap makes a new ring after hosts changed.
func (s *State) remap(index uint64) {
	s.moved = index
	members := make([]*Host, 0, len(s.hostIDs))
	for _, id := range s.hostIDs {
		if h := s.hosts[id]; h.State == Alive || h.State == Down {
			members = append(members, h)
		}
	}
	s.ring = newRing(members)
}

// change says that a content changed at an index.
type change struct {
	index uint64
	id    content.Digest
}

// changeLog remembers which content changed last, in order of index. Entries that a later change of the same content
// made stale are skipped by readers and swept now and then.
type changeLog struct{ entries []change }

func (l *changeLog) add(index uint64, id content.Digest) {
	l.entries = append(l.entries, change{index, id})
}

// compact sweeps stale entries once they are the larger part.
func (l *changeLog) compact(contents map[content.Digest]*contentRecord) {
	const slack = 1024 // so that a small catalogue does not sweep all the time
	if len(l.entries) <= 2*len(contents)+slack {
		return
	}
	live := l.entries[:0]
	for _, e := range l.entries {
		if c := contents[e.id]; c != nil && c.changed == e.index {
			live = append(live, e)
		}
	}
	l.entries = live
}

// since returns the ids of the contents that changed after the index, oldest change first.
func (l *changeLog) since(index uint64, contents map[content.Digest]*contentRecord) []content.Digest {
	first := sort.Search(len(l.entries), func(i int) bool { return l.entries[i].index > index })
	var ids []content.Digest
	for _, e := range l.entries[first:] {
		if c := contents[e.id]; c != nil && c.changed == e.index {
			ids = append(ids, e.id)
		}
	}
	return ids
}

func insertSorted[T ~string](list []T, v T) []T {
	i := sort.Search(len(list), func(i int) bool { return list[i] >= v })
	if i < len(list) && list[i] == v {
		return list
	}
	list = append(list, v)
	copy(list[i+1:], list[i:])
	list[i] = v
	return list
}

func removeSorted[T ~string](list []T, v T) []T {
	i := sort.Search(len(list), func(i int) bool { return list[i] >= v })
	if i == len(list) || list[i] != v {
		return list
	}
	return append(list[:i], list[i+1:]...)
}

func isErr(err error, targets ...error) bool {
	for _, t := range targets {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}
