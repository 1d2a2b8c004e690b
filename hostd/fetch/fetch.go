// Package fetch is the read path: whoever on this host needs bytes of a file, whole or in part, asks here. What the
// store has is taken from there; what it lacks, or what turns out to be damaged, comes from the swarm.
//
// It promises that every byte it returns was verified by this call, that a chunk which several callers wait for is
// fetched once, and that what was fetched stays in the store.
package fetch

import (
	"context"

	"github.com/hashicorp/go-hclog"

	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/hostd/swarm"
	"github.com/virtswarm/virtswarm/internal/content"
)

// Files is a store as the swarm wants to see it: what swarm.Config.Store takes.
func Files(st *store.Store) swarm.Store { return files{st} }

type files struct{ store *store.Store }

func (f files) Get(id content.Digest) (swarm.File, bool) {
	file, ok := f.store.Get(id)
	return file, ok
}

// Fetcher reads through the store. It is safe for concurrent use and keeps nothing running between calls.
type Fetcher struct{}

// New makes a Fetcher over a store and the swarm that serves it. A nil logger is silent.
func New(st *store.Store, sw *swarm.Swarm, logger hclog.Logger) *Fetcher { panic("todo") }

// File returns the file of this id, which may lack some or all of its chunks. If the store does not know it yet, its
// manifest is fetched and the file created, with the chunks that other local files already hold.
func (f *Fetcher) File(ctx context.Context, id content.Digest) (*store.File, error) { panic("todo") }

// Ensure returns nil once the store holds every chunk in want of the file, or all of them if want is the zero Bits.
// Everything then is in the store, but not yet durable: see store.File.Sync. progress may be nil; see swarm.Fetch.
func (f *Fetcher) Ensure(ctx context.Context, id content.Digest, want content.Bits, prio swarm.Priority, progress func(swarm.Progress)) error {
	panic("todo")
}

// ReadChunk reads chunk i of file into buf (grown if it is too small) and returns it. A chunk that the store lacks, or
// has damaged, is fetched first, at the highest priority.
func (f *Fetcher) ReadChunk(ctx context.Context, file *store.File, i int, buf []byte) ([]byte, error) {
	panic("todo")
}
