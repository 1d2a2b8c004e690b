// Package keeper makes this host hold what the catalogue says it must: the shards it is a home of, and the whole of
// what it was told to hold. It drops what an operator has removed, and when the store is crowded it evicts, the least
// recently used first, what others hold safely. It reads the catalogue and never writes it: what this disk holds is its
// owner's to tell.
//
// It promises to drop nothing only because the catalogue does not know it. A content is dropped at once if the
// catalogue named it in this run and, by its newest state, does not any more, or if it is left of a publication of this
// run that failed. Any other that the catalogue's newest state does not name is a stray: the catalogue may be new, or
// older than the content. A stray is kept for Config.KeepStrays, also over restarts, and goes earlier only for room
// that somebody asks for. A content that is pinned, by a publication on its way to the catalogue, stays in any case.
//
// And it promises that no eviction takes a copy that anybody counts on. The danger is not the copy that is surplus now,
// but the one that becomes a counted one while it goes: another host dies, this one becomes a home, and a third, which
// still reads in the catalogue that this one holds the shard, gives up its own. So the order is:
//
//  1. choose, by a catalogue that is current (ReadIndex): shards that this host need not hold, and of which all the
//     copies asked for are on other hosts, alive, that must keep them;
//  2. tell the catalogue that this host does not hold them any more, and wait until it has that;
//  3. look at the catalogue again (ReadIndex): whoever decides from here on counts without this host. If all the copies
//     are still elsewhere without it, drop them: first the marks, then the bytes. Else tell that they are held, as ever.
//
// Of two hosts that evict the same shard one has told first; the other, which looks after it has told, counts without
// either. So there are the copies asked for at every moment, as far as the hosts that are said to hold them do. A crash
// in between leaves a copy too many, which the next start tells of.
package keeper

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/virtswarm/virtswarm/hostd/fetch"
	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/hostd/swarm"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/placement"
)

// Timings. None decides whether something is done, only how soon.
const (
	// settle is the least time between two looks: a busy catalogue changes many times a second.
	settle = 20 * time.Millisecond
	// lookAnyway is how often everything is compared although nothing changed.
	lookAnyway = time.Minute
	// firstRetry and lastRetry bound the wait after a fetch that failed; it doubles in between.
	firstRetry = 500 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// Catalogue is the replicated state as this host has it. It is called concurrently.
type Catalogue interface {
	// ReadIndex returns once View shows every write acknowledged before the call.
	ReadIndex(ctx context.Context) error
	// View calls f with the state, of which f must keep nothing.
	View(f func(*placement.State))
	// Changed returns a channel that is closed at the next change after the call.
	Changed() <-chan struct{}
}

// Fetcher is the read path. Its handles must not pin what they open: what an operator has removed is dropped while it
// is still being fetched. It is called concurrently.
type Fetcher interface {
	Open(ctx context.Context, id content.Digest, purpose fetch.Priority) (*fetch.Handle, error)
}

// Config is what a Keeper works with. All fields but Logger and Metrics are needed.
type Config struct {
	Self      placement.HostID
	Catalogue Catalogue
	Store     *store.Store
	Fetch     Fetcher
	Reporter  Reporter
	// Withdrawn is filled by the Keeper, for the Reporter to heed.
	Withdrawn *Withdrawn
	// KeepStrays is how long a content is kept that no catalogue names; 0 means DefaultKeepStrays.
	KeepStrays time.Duration
	// Fetches is how many files are fetched at once because somebody waits for them; repairs come on top, half as many.
	Fetches int
	Logger  hclog.Logger
	Metrics prometheus.Registerer
}

// Keeper runs until its context ends. Its methods are safe for concurrent use.
type Keeper struct {
	cfg  Config
	log  hclog.Logger
	wake chan struct{} // a look at everything is wanted; holds one
	jobs sync.WaitGroup
	free map[swarm.Priority]chan struct{} // hold one for each fetch that runs

	evictor *evictor
	evicted atomic.Int64 // bytes
	began   time.Time

	mu      sync.Mutex
	pins    map[content.Digest]*pin
	running map[content.Digest]*job
	// known are the contents that the catalogue of this lineage named: once it does not any more, they go.
	known   map[content.Digest]bool
	lineage lineage
	// found are the contents that were in the store at the beginning, until it is clear whether they are strays: this
	// host's catalogue may be older than they are.
	found   map[content.Digest]bool
	strays  map[content.Digest]*stray
	unnoted bool // one of strays came since they were noted; for Run alone
	// failed are the contents of publications of this run that have ended, until it is clear how.
	failed map[content.Digest]bool
	// settled is closed once found is decided on.
	settled     chan struct{}
	closeSettle func()
	stampAfter  time.Time // the store is not stamped again before
}

// New makes a Keeper; Run starts it.
func New(cfg Config) *Keeper {
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	k := &Keeper{
		cfg:  cfg,
		log:  cfg.Logger,
		wake: make(chan struct{}, 1),
		free: map[swarm.Priority]chan struct{}{
			swarm.Distribute: make(chan struct{}, cfg.Fetches),
			swarm.Repair:     make(chan struct{}, max(1, cfg.Fetches/2)),
		},
		pins:    map[content.Digest]*pin{},
		running: map[content.Digest]*job{},
		known:   map[content.Digest]bool{},
		found:   map[content.Digest]bool{},
		strays:  map[content.Digest]*stray{},
		failed:  map[content.Digest]bool{},
		began:   time.Now(),
	}
	if k.cfg.KeepStrays == 0 {
		k.cfg.KeepStrays = DefaultKeepStrays
	}
	for _, f := range cfg.Store.List() { // nobody can publish yet
		k.found[f.ID()] = true
	}
	k.settled = make(chan struct{})
	k.closeSettle = sync.OnceFunc(func() { close(k.settled) })
	k.evictor = newEvictor(k)
	k.register()
	cfg.Store.SetEvictor(k)
	return k
}

// Held returns the shards of a file that are whole and durable on this disk.
func Held(f *store.File) placement.ShardSet {
	return placement.ShardsHeld(f.Manifest(), f.Durable())
}

// pin counts those who want a content to stay.
type pin struct {
	count int
	done  func() // ends the use of the file, if there was one when it was pinned first
}

// Pin keeps a content from being dropped or evicted until the returned function is called, whatever the catalogue says.
func (k *Keeper) Pin(id content.Digest) (unpin func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.pins[id]
	if p == nil {
		p = &pin{done: func() {}}
		if f, ok := k.cfg.Store.Get(id); ok {
			p.done = f.Use() // an eviction that has chosen it already finds it in use
		}
		k.pins[id] = p
	}
	p.count++
	return sync.OnceFunc(func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if p.count--; p.count == 0 {
			p.done()
			delete(k.pins, id)
			if k.strays[id] == nil && !k.found[id] { // those were there before
				k.failed[id] = true // if the publication failed, nothing else remembers it
			}
			k.Recheck()
		}
	})
}

// Recheck asks to compare all that this disk holds with what it must hold; after damage, say.
func (k *Keeper) Recheck() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Run compares and fetches until ctx ends; then it waits for the fetches to stop. It may be called once.
func (k *Keeper) Run(ctx context.Context) {
	defer k.jobs.Wait()
	k.jobs.Go(func() { k.evictor.run(ctx) })
	anyway := time.NewTicker(lookAnyway)
	defer anyway.Stop()
	seen := uint64(0) // the catalogue's index up to which contents were compared
	for {
		changed := k.cfg.Catalogue.Changed()
		settled := time.After(settle)
		var looked []content.Digest
		seen, looked = k.compare(ctx, seen)
		k.rememberAll(looked)
		k.settle(ctx)
		if k.unnoted {
			k.noteStrays()
			k.unnoted = false
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-k.wake:
			seen = 0
		case <-anyway.C:
			seen = 0
			k.noteStrays()
		case <-time.After(k.nextDue()):
		}
		select {
		case <-ctx.Done():
			return
		case <-settled:
		}
	}
}

// compare looks at the contents that changed since an index, starts what is missing and drops what is gone. It
// returns the index that it has seen, and the contents that it has looked at.
func (k *Keeper) compare(ctx context.Context, since uint64) (now uint64, looked []content.Digest) {
	var duties []placement.Duty
	var gone []content.Digest
	k.mu.Lock()
	defer k.mu.Unlock()
	replaced := false
	k.cfg.Catalogue.View(func(s *placement.State) {
		if line := lineageOf(s); line != k.lineage {
			replaced, since, k.lineage = true, 0, line
		}
		now = s.Applied()
		duties = s.Must(k.cfg.Self, since)
		if !replaced && !s.ChangedSince(since).Removed {
			return
		}
		for id := range k.known {
			if _, ok := s.Content(id); !ok {
				gone = append(gone, id)
			}
		}
	})
	for _, d := range duties {
		k.known[d.ID] = true
		delete(k.strays, d.ID)
		looked = append(looked, d.ID)
		if j := k.running[d.ID]; j != nil {
			k.news(d.ID, j)
		} else if k.lacks(d) {
			k.start(ctx, d.ID)
		}
	}
	for _, id := range gone {
		k.vanished(id, replaced)
	}
	return now, looked
}

// lacks says whether a part of a duty is not durable on this disk.
func (k *Keeper) lacks(d placement.Duty) bool {
	if d.Shards.Empty() {
		return false
	}
	f, ok := k.cfg.Store.Get(d.ID)
	if !ok {
		return true
	}
	return !missing(f, d.Shards).Empty()
}

// missing returns the shards of a set that are not durable on this disk.
func missing(f *store.File, must placement.ShardSet) placement.ShardSet {
	n := f.Manifest().Shards()
	lack := must.Bits(n)
	lack.AndNot(Held(f).Bits(n))
	return placement.ShardsIn(lack)
}

// drop takes a content off this disk, unless it is pinned. It is called with mu held.
func (k *Keeper) drop(id content.Digest) {
	if k.pins[id] != nil {
		return
	}
	k.forget(id)
	if _, ok := k.cfg.Store.Get(id); !ok {
		delete(k.strays, id)
		return
	}
	if err := k.cfg.Store.Remove(id); err != nil {
		k.log.Warn("cannot drop a content that nothing refers to", "id", id, "error", err)
		return
	}
	delete(k.strays, id)
	k.log.Info("dropped a content that nothing refers to", "id", id)
}

// forget ends what was to be done for a content that the catalogue named. It is called with mu held.
func (k *Keeper) forget(id content.Digest) {
	delete(k.known, id)
	if j := k.running[id]; j != nil {
		j.cancel()
		delete(k.running, id)
	}
}
