package hostd

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/raft"
)

const (
	// gather is the least time from a report to the next: each is an entry of everybody's log.
	gather = 50 * time.Millisecond
	// settle is the least time between two comparisons: a busy catalogue changes many times a second.
	settle = 5 * time.Millisecond
	// reportRetry is the pause after a report that failed.
	reportRetry = time.Second
	// compareAll is how often all that this disk holds is compared with what the catalogue says of it.
	compareAll = time.Minute
)

// facts tells the catalogue what this disk holds, and tells it again whenever the two differ: after a fetch, after
// damage, after a start, or when a content enters the catalogue that this host has had all along.
type facts struct {
	self    placement.HostID
	node    *raft.Node
	store   *store.Store
	told    func(*store.File) placement.ShardSet // what to tell of a file
	log     hclog.Logger
	wake    chan struct{} // something is dirty; holds one
	telling chan struct{} // holds one while the catalogue is told, so that no older word comes after a newer one

	mu    sync.Mutex
	dirty map[content.Digest]bool
}

// newFacts makes facts that can be touched from now on; node, store and told are set before run.
func newFacts(self placement.HostID, log hclog.Logger) *facts {
	return &facts{
		self: self, log: log, wake: make(chan struct{}, 1), telling: make(chan struct{}, 1), dirty: map[content.Digest]bool{},
	}
}

// Touch implements keeper.Reporter.
func (f *facts) Touch(id content.Digest) { f.touch(id) }

// Report implements keeper.Reporter.
func (f *facts) Report(ctx context.Context, ids []content.Digest) error {
	dirty := map[content.Digest]bool{}
	for _, id := range ids {
		dirty[id] = true
	}
	_, err := f.tell(ctx, dirty, true)
	return err
}

// touch notes that what this disk holds of a content changed. It does not block.
func (f *facts) touch(id content.Digest) {
	f.mu.Lock()
	f.dirty[id] = true
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// run reports until ctx ends.
func (f *facts) run(ctx context.Context) {
	all := time.NewTicker(compareAll)
	defer all.Stop()
	seen := f.touchChanged(0)
	for {
		changed := f.node.Changed()
		pause := settle
		seen = f.touchChanged(seen)
		if told, err := f.report(ctx); told {
			pause = gather
		} else if err != nil {
			if ctx.Err() != nil {
				return
			}
			f.log.Debug("cannot report to the catalogue yet", "error", err)
			f.touch(content.Digest{}) // wakes, and names nothing
			pause = reportRetry
		}
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		case <-changed:
		case <-all.C:
			seen = 0
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// touchChanged marks what changed in the catalogue after an index as dirty, as far as this disk holds it or is said
// to, and returns the index that it has seen.
func (f *facts) touchChanged(since uint64) uint64 {
	var ids []content.Digest
	var now uint64
	f.node.View(func(s *placement.State) {
		now = s.Applied()
		ids = s.ChangedSince(since).Contents
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range ids {
		f.dirty[id] = true
	}
	return now
}

// report tells the catalogue of every dirty content of which it says something else than this disk; told says whether
// there was any. What could not be told stays dirty.
func (f *facts) report(ctx context.Context) (told bool, err error) {
	f.mu.Lock()
	dirty := f.dirty
	f.dirty = map[content.Digest]bool{}
	f.mu.Unlock()
	told, err = f.tell(ctx, dirty, false)
	if err != nil {
		f.mu.Lock()
		for id := range dirty {
			f.dirty[id] = true
		}
		f.mu.Unlock()
	}
	return told, err
}

// tell tells the catalogue of those of the contents of which it says something else than this disk; sure means the
// catalogue as it is, not only as this host knows it.
func (f *facts) tell(ctx context.Context, dirty map[content.Digest]bool, sure bool) (told bool, err error) {
	select {
	case f.telling <- struct{}{}:
		defer func() { <-f.telling }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	if sure {
		if err := f.node.ReadIndex(ctx); err != nil {
			return false, err
		}
	}
	held := map[content.Digest]placement.ShardSet{}
	for id := range dirty {
		if file, ok := f.store.Get(id); ok {
			held[id] = f.told(file)
		}
	}
	r := placement.Report{Host: f.self}
	f.node.View(func(s *placement.State) {
		for id := range dirty {
			if _, known := s.Content(id); !known {
				continue
			}
			switch now, said := held[id], s.Held(f.self, id); {
			case now.Equal(said):
			case now.Empty():
				r.Dropped = append(r.Dropped, id)
			default:
				r.Holdings = append(r.Holdings, placement.Holding{ID: id, Shards: now})
			}
		}
	})
	if len(r.Holdings)+len(r.Dropped) == 0 {
		return false, nil
	}
	for _, part := range r.Split() {
		if _, err := f.node.Apply(ctx, placement.Command{Report: &part}); err != nil {
			return false, err
		}
	}
	return true, nil
}
