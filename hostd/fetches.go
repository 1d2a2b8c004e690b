package hostd

import (
	"context"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/hostd/fetch"
	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/hostd/swarm"
	"github.com/virtswarm/virtswarm/internal/content"
)

// fetches is the read path with a view on what is under way and what was, for 'status' and 'distribute --watch'.
type fetches struct {
	fetch  *fetch.Fetcher
	recent *recent

	mu     sync.Mutex
	active map[content.Digest]*activeFetch
}

// activeFetch is what is known of the fetches of one content; the swarm shares one job among them.
type activeFetch struct {
	callers  int
	progress swarm.Progress
	begun    time.Time
	had      int64 // bytes that were here then
	sources  int   // at most at a time
}

func newFetches(f *fetch.Fetcher) *fetches {
	return &fetches{fetch: f, recent: newRecent(), active: map[content.Digest]*activeFetch{}}
}

// File returns the file of a content, see fetch.Fetcher.File.
func (f *fetches) File(ctx context.Context, id content.Digest) (*store.File, error) {
	return f.fetch.File(ctx, id)
}

// Ensure fetches what is wanted, see fetch.Fetcher.Ensure.
func (f *fetches) Ensure(ctx context.Context, id content.Digest, want content.Bits, prio swarm.Priority, progress func(swarm.Progress)) error {
	file, err := f.fetch.File(ctx, id)
	if err != nil {
		return err
	}
	a := f.begin(file)
	defer f.end(file, a)
	return f.fetch.Ensure(ctx, id, want, prio, func(p swarm.Progress) {
		f.note(a, p)
		if progress != nil {
			progress(p)
		}
	})
}

// note takes the progress of a fetch.
func (f *fetches) note(a *activeFetch, p swarm.Progress) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a.progress, a.sources = p, max(a.sources, p.Sources())
	rate := 0.0
	for _, other := range f.active {
		rate += other.progress.Rate
	}
	f.recent.sawRate(rate)
}

func (f *fetches) begin(file *store.File) *activeFetch {
	f.mu.Lock()
	defer f.mu.Unlock()
	a := f.active[file.ID()]
	if a == nil {
		a = &activeFetch{begun: time.Now(), had: file.HeldBytes()}
		f.active[file.ID()] = a
	}
	a.callers++
	return a
}

func (f *fetches) end(file *store.File, a *activeFetch) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if a.callers--; a.callers > 0 {
		return
	}
	delete(f.active, file.ID())
	now := time.Now()
	f.recent.add(finished{
		id: file.ID(), bytes: file.HeldBytes() - a.had, took: now.Sub(a.begun), sources: a.sources, at: now,
	})
}

// underWay returns the latest progress of each content that is being fetched.
func (f *fetches) underWay() map[content.Digest]swarm.Progress {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := make(map[content.Digest]swarm.Progress, len(f.active))
	for id, a := range f.active {
		all[id] = a.progress
	}
	return all
}
