// Package fetch is the read path: whoever on this host needs bytes of a file, whole or in part, asks here. What the
// store has is taken from there; what it lacks, or what turns out to be damaged, comes from the swarm.
//
// It promises that every byte it returns was verified by this call, that a chunk which several callers wait for is
// fetched once, and that what was fetched stays in the store.
package fetch

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/go-hclog"

	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/hostd/swarm"
	"github.com/virtswarm/virtswarm/internal/content"
)

// maxHeals is how often one read fetches a chunk that then cannot be read. A disk that damages what was just written to it
// more often than that is beyond healing.
const maxHeals = 3

// Files is a store as the swarm wants to see it: what swarm.Config.Store takes.
func Files(st *store.Store) swarm.Store { return files{st} }

type files struct{ store *store.Store }

func (f files) Get(id content.Digest) (swarm.File, bool) {
	file, ok := f.store.Get(id)
	return file, ok
}

// Fetcher reads through the store. It is safe for concurrent use and keeps nothing running between calls.
type Fetcher struct {
	store *store.Store
	swarm *swarm.Swarm
	log   hclog.Logger
}

// New makes a Fetcher over a store and the swarm that serves it. A nil logger is silent.
func New(st *store.Store, sw *swarm.Swarm, logger hclog.Logger) *Fetcher {
	if logger == nil {
		logger = hclog.NewNullLogger()
	}
	return &Fetcher{store: st, swarm: sw, log: logger}
}

// File returns the file of this id, which may lack some or all of its chunks. If the store does not know it yet, its
// manifest is fetched and the file created, with the chunks that other local files already hold.
//
// Errors: those of swarm.Manifest and store.Create.
func (f *Fetcher) File(ctx context.Context, id content.Digest) (*store.File, error) {
	if file, ok := f.store.Get(id); ok {
		return file, nil
	}
	m, err := f.swarm.Manifest(ctx, id)
	if err != nil {
		return nil, err
	}
	file, err := f.store.Create(ctx, m)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", id.Short(), err)
	}
	return file, nil
}

// Ensure returns nil once the store holds every chunk in want of the file, or all of them if want is the zero Bits.
// Everything then is in the store, but not yet durable: see store.File.Sync. progress may be nil; see swarm.Fetch.
//
// Errors: those of File and of swarm.Fetch.
func (f *Fetcher) Ensure(ctx context.Context, id content.Digest, want content.Bits, prio swarm.Priority, progress func(swarm.Progress)) error {
	file, err := f.File(ctx, id)
	if err != nil {
		return err
	}
	defer file.Use()() // nothing of it is evicted meanwhile
	return f.swarm.Fetch(ctx, file, want, prio, progress)
}

// ReadChunk reads chunk i of file into buf (grown if it is too small) and returns it. A chunk that the store lacks, or
// has damaged, is fetched first, at the highest priority.
//
// Errors: those of swarm.Fetch, and of file.ReadChunk as far as fetching does not help.
func (f *Fetcher) ReadChunk(ctx context.Context, file *store.File, i int, buf []byte) ([]byte, error) {
	for tries := 0; ; tries++ {
		p, err := file.ReadChunk(i, buf)
		if err == nil {
			return p, nil
		}
		damaged := errors.Is(err, store.ErrCorrupt)
		if !damaged && !errors.Is(err, store.ErrMissing) || tries == maxHeals {
			return nil, err
		}
		if err := f.fetch(ctx, file, i); err != nil {
			return nil, err
		}
		if damaged {
			f.log.Warn("healed a damaged chunk", "file", file.ID().Short(), "chunk", i)
		}
	}
}

// fetch gets one chunk that a reader waits for.
func (f *Fetcher) fetch(ctx context.Context, file *store.File, i int) error {
	want := content.NewBits(file.Manifest().Chunks())
	want.Set(i)
	return f.swarm.Fetch(ctx, file, want, swarm.Demand, nil)
}
