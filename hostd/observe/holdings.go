package observe

import (
	"context"
	"maps"
	"slices"
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

// Changes are the contents of which this disk may hold something else than the catalogue says. It is safe for
// concurrent use.
type Changes struct {
	wake chan struct{} // something changed; holds one

	mu  sync.Mutex
	ids map[content.Digest]bool
}

// NewChanges makes Changes, for a store to touch that is about to be opened and for the Holdings of that store.
func NewChanges() *Changes {
	return &Changes{wake: make(chan struct{}, 1), ids: map[content.Digest]bool{}}
}

// Touch notes that what this disk holds of a content changed. It does not block.
func (c *Changes) Touch(id content.Digest) {
	c.add(id)
	c.awake()
}

func (c *Changes) awake() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *Changes) add(ids ...content.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range ids {
		c.ids[id] = true
	}
}

// take empties the set and returns what was in it.
func (c *Changes) take() map[content.Digest]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	ids := c.ids
	c.ids = map[content.Digest]bool{}
	return ids
}

// HoldingsConfig is what Holdings works with. All fields are needed.
type HoldingsConfig struct {
	Self    placement.HostID
	Node    *raft.Node
	Store   *store.Store
	Changes *Changes                             // of Store
	Told    func(*store.File) placement.ShardSet // the shards of a file that the catalogue is to be told of
	Logger  hclog.Logger
}

// Holdings tells the catalogue what this disk holds, and tells it again whenever the two differ: after a fetch, after
// damage, after a start, or when a content enters the catalogue that this host has had all along. It is safe for
// concurrent use.
type Holdings struct {
	HoldingsConfig
	telling chan struct{} // holds one while the catalogue is told, so that no older word comes after a newer one
}

// NewHoldings makes Holdings; Run starts it.
func NewHoldings(cfg HoldingsConfig) *Holdings {
	return &Holdings{HoldingsConfig: cfg, telling: make(chan struct{}, 1)}
}

// Touch implements keeper.Reporter.
func (h *Holdings) Touch(id content.Digest) { h.Changes.Touch(id) }

// Report implements keeper.Reporter.
func (h *Holdings) Report(ctx context.Context, ids []content.Digest) error {
	dirty := map[content.Digest]bool{}
	for _, id := range ids {
		dirty[id] = true
	}
	_, err := h.tell(ctx, dirty, true)
	return err
}

// Run reports until ctx ends.
func (h *Holdings) Run(ctx context.Context) {
	all := time.NewTicker(compareAll)
	defer all.Stop()
	seen := h.touchChanged(0)
	for {
		changed := h.Node.Changed()
		pause := settle
		seen = h.touchChanged(seen)
		if told, err := h.report(ctx); told {
			pause = gather
		} else if err != nil {
			if ctx.Err() != nil {
				return
			}
			h.Logger.Debug("cannot report to the catalogue yet", "error", err)
			h.Changes.awake()
			pause = reportRetry
		}
		select {
		case <-ctx.Done():
			return
		case <-h.Changes.wake:
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
func (h *Holdings) touchChanged(since uint64) uint64 {
	var ids []content.Digest
	var now uint64
	h.Node.View(func(s *placement.State) {
		now = s.Applied()
		ids = s.ChangedSince(since).Contents
	})
	h.Changes.add(ids...)
	return now
}

// report tells the catalogue of every dirty content of which it says something else than this disk; told says whether
// there was any. What could not be told stays dirty.
func (h *Holdings) report(ctx context.Context) (told bool, err error) {
	dirty := h.Changes.take()
	told, err = h.tell(ctx, dirty, false)
	if err != nil {
		h.Changes.add(slices.Collect(maps.Keys(dirty))...)
	}
	return told, err
}

// tell tells the catalogue of those of the contents of which it says something else than this disk; sure means the
// catalogue as it is, not only as this host knows it.
func (h *Holdings) tell(ctx context.Context, dirty map[content.Digest]bool, sure bool) (told bool, err error) {
	select {
	case h.telling <- struct{}{}:
		defer func() { <-h.telling }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	if sure {
		if err := h.Node.ReadIndex(ctx); err != nil {
			return false, err
		}
	}
	held := map[content.Digest]placement.ShardSet{}
	for id := range dirty {
		if file, ok := h.Store.Get(id); ok {
			held[id] = h.Told(file)
		}
	}
	r := placement.Report{Host: h.Self}
	h.Node.View(func(s *placement.State) {
		for id := range dirty {
			if _, known := s.Content(id); !known {
				continue
			}
			switch now, said := held[id], s.Held(h.Self, id); {
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
		if _, err := h.Node.Apply(ctx, placement.Command{Report: &part}); err != nil {
			return false, err
		}
	}
	return true, nil
}
