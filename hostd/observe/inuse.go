package observe

import (
	"path/filepath"
	"strings"
	"sync"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/placement"
)

// InUse keeps what the domains of this host use from being evicted or dropped: the files that they need, and a file of
// the store that is an image of a disk, whether they run or not. The domains are those that the catalogue knows to be
// here, which is what is known after a start, and those that are seen here, which the catalogue may not hear of before it
// hears that a file is removed. It is safe for concurrent use.
type InUse struct {
	Self  placement.HostID
	Store string                           // its directory
	Seen  func() (list []placement.Domain) // the domains that are seen here now
	View  func(func(*placement.State))
	Pin   func(content.Digest) (unpin func())

	mu   sync.Mutex
	pins map[content.Digest]func()
}

// Update pins what is used now, and lets go of the rest. A version that is needed as the newest stays pinned when there
// is a newer one: the domain was started with it.
func (u *InUse) Update() {
	used := map[content.Digest]bool{}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.pins == nil {
		u.pins = map[content.Digest]func(){}
	}
	seen := u.Seen()
	u.View(func(s *placement.State) {
		for _, d := range append(seen, s.ClaimedBy(u.Self)...) {
			for _, n := range d.Needs {
				u.needed(s, n, used)
			}
			for _, disk := range d.Disks {
				for _, path := range disk.Chain {
					if id, ok := u.stored(path); ok {
						used[id] = true
					}
				}
			}
		}
	})
	for id := range used {
		if u.pins[id] == nil {
			u.pins[id] = u.Pin(id)
		}
	}
	for id, unpin := range u.pins {
		if !used[id] {
			unpin()
			delete(u.pins, id)
		}
	}
}

// needed marks the versions that a need may mean.
func (u *InUse) needed(s *placement.State, n placement.Need, used map[content.Digest]bool) {
	f, ok := s.File(n.Name)
	if !ok {
		return
	}
	for _, v := range f.Versions {
		exact := n.ID != "" && n.ID == v.ID.String()
		newest := n.ID == "" && (v.ID == f.Newest().ID || u.pins[v.ID] != nil)
		if exact || newest {
			used[v.ID] = true
		}
	}
}

// stored returns the content whose data file in the store a path is.
func (u *InUse) stored(path string) (content.Digest, bool) {
	rest, ok := strings.CutPrefix(path, u.Store+string(filepath.Separator))
	if !ok {
		return content.Digest{}, false
	}
	for part := range strings.SplitSeq(rest, string(filepath.Separator)) {
		if id, err := content.ParseDigest("b3:" + part); err == nil {
			return id, true
		}
	}
	return content.Digest{}, false
}
