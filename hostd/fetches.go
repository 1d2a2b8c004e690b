package hostd

import (
	"context"
	"sync"

	"github.com/virtswarm/virtswarm/hostd/fetch"
	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/hostd/swarm"
	"github.com/virtswarm/virtswarm/internal/content"
)

// fetches is the read path with a view on what is under way, for 'status' and 'distribute --watch'.
type fetches struct {
	fetch *fetch.Fetcher

	mu     sync.Mutex
	active map[content.Digest]*activeFetch
}

// activeFetch is what is known of the fetches of one content; the swarm shares one job among them.
type activeFetch struct {
	callers  int
	progress swarm.Progress
}

func newFetches(f *fetch.Fetcher) *fetches {
	return &fetches{fetch: f, active: map[content.Digest]*activeFetch{}}
}

// File returns the file of a content, see fetch.Fetcher.File.
func (f *fetches) File(ctx context.Context, id content.Digest) (*store.File, error) {
	return f.fetch.File(ctx, id)
}

// Ensure fetches what is wanted, see fetch.Fetcher.Ensure.
func (f *fetches) Ensure(ctx context.Context, id content.Digest, want content.Bits, prio swarm.Priority, progress func(swarm.Progress)) error {
	a := f.begin(id)
	defer f.end(id, a)
	return f.fetch.Ensure(ctx, id, want, prio, func(p swarm.Progress) {
		f.mu.Lock()
		a.progress = p
		f.mu.Unlock()
		if progress != nil {
			progress(p)
		}
	})
}

func (f *fetches) begin(id content.Digest) *activeFetch {
	f.mu.Lock()
	defer f.mu.Unlock()
	a := f.active[id]
	if a == nil {
		a = &activeFetch{}
		f.active[id] = a
	}
	a.callers++
	return a
}

func (f *fetches) end(id content.Digest, a *activeFetch) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if a.callers--; a.callers == 0 {
		delete(f.active, id)
	}
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
