// Package fetch is the read path: whoever on this host needs bytes of a content, whole or in part, opens a Handle here.
// What the store has is taken from there; what it lacks, or what turns out to be damaged, comes from the swarm.
//
// It promises that every byte a Handle returns or exports was verified since this process began; that a chunk which
// several handles wait for is fetched once; that what was fetched stays in the store, and is not dropped or evicted
// while a handle is open; and that nothing is fetched which no open handle wants.
package fetch

import (
	"context"
	"fmt"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/hostd/swarm"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// ErrClosed says that the handle was closed.
var ErrClosed = reason.Sentinel(reason.Interrupted, "the handle is closed")

// Priority says who waits for a chunk: see package plan. That of a handle is the purpose for which it is opened.
type Priority = swarm.Priority

// Swarm is where chunks come from that the store lacks: package swarm. It is called concurrently.
type Swarm interface {
	Manifest(ctx context.Context, id content.Digest) (*content.Manifest, error)
	Fetch(ctx context.Context, file swarm.File, want content.Bits, prio swarm.Priority, progress func(swarm.Progress)) error
}

// Files is a store as the swarm wants to see it: what swarm.Config.Store takes.
func Files(st *store.Store) swarm.Store { return files{st} }

type files struct{ store *store.Store }

func (f files) Get(id content.Digest) (swarm.File, bool) {
	file, ok := f.store.Get(id)
	return file, ok
}

// Config is what a Fetcher works with. Logger may be nil.
type Config struct {
	Store  *store.Store
	Swarm  Swarm
	Logger hclog.Logger
}

// Fetcher opens handles. It is safe for concurrent use, and keeps nothing running but what its handles do.
type Fetcher struct {
	*shared
	pin func(id content.Digest) (unpin func())
}

// shared is what the Fetchers of one store have in common.
type shared struct {
	store *store.Store
	swarm Swarm
	log   hclog.Logger

	mu      sync.Mutex
	handles map[content.Digest]map[*Handle]struct{} // those that are open
}

// New makes a Fetcher whose handles pin nothing: for the one who decides what is dropped. Nothing is evicted under them
// either.
func New(cfg Config) *Fetcher {
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	return &Fetcher{pin: func(content.Digest) func() { return func() {} }, shared: &shared{
		store: cfg.Store, swarm: cfg.Swarm, log: cfg.Logger, handles: map[content.Digest]map[*Handle]struct{}{},
	}}
}

// Pinning returns a Fetcher of the same store whose handles pin what they open. pin keeps a content, also one that is
// not here yet, from being dropped until unpin is called.
func (f *Fetcher) Pinning(pin func(id content.Digest) (unpin func())) *Fetcher {
	return &Fetcher{shared: f.shared, pin: pin}
}

// Open opens a content for a purpose, which is the priority of all that the handle fetches unless Want says otherwise.
// If the store does not know the content yet, its manifest is fetched and the file created, with the chunks that other
// local files hold. ctx is for that alone: the handle stays open until Close, which must be called.
//
// Errors: those of swarm.Manifest and store.Create.
func (f *Fetcher) Open(ctx context.Context, id content.Digest, purpose Priority) (*Handle, error) {
	unpin := f.pin(id)
	file, err := f.find(ctx, id)
	if err != nil {
		unpin()
		return nil, err
	}
	h := newHandle(f.shared, file, purpose, unpin)
	f.enter(h)
	return h, nil
}

// find returns the file of a content.
func (s *shared) find(ctx context.Context, id content.Digest) (*store.File, error) {
	if file, ok := s.store.Get(id); ok {
		return file, nil
	}
	m, err := s.swarm.Manifest(ctx, id)
	if err != nil {
		return nil, err
	}
	file, err := s.store.Create(ctx, m)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", id.Short(), err)
	}
	return file, nil
}

func (s *shared) enter(h *Handle) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := h.file.ID()
	if s.handles[id] == nil {
		s.handles[id] = map[*Handle]struct{}{}
	}
	s.handles[id][h] = struct{}{}
}

func (s *shared) leave(h *Handle) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := h.file.ID()
	delete(s.handles[id], h)
	if len(s.handles[id]) == 0 {
		delete(s.handles, id)
	}
}

// UnderWay returns how far each content is that is being fetched now, for whomever: of all chunks that any handle is
// getting together.
func (s *shared) UnderWay() map[content.Digest]Progress {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[content.Digest]Progress{}
	for id, handles := range s.handles {
		var sum sum
		for h := range handles {
			h.addTo(&sum)
		}
		if sum.file != nil {
			all[id] = sum.progress()
		}
	}
	return all
}
