package keeper

import (
	"sync"

	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/placement"
)

// Withdrawn are the shards that are about to be evicted: whoever tells the catalogue what this disk holds leaves them
// out. The zero value holds none. It is safe for concurrent use.
type Withdrawn struct {
	mu     sync.Mutex
	shards map[content.Digest]content.Bits
}

// Told returns the shards of a file that the catalogue is to be told of: those held, but for those that are withdrawn.
func (w *Withdrawn) Told(f *store.File) placement.ShardSet {
	w.mu.Lock()
	defer w.mu.Unlock()
	held := Held(f)
	gone, ok := w.shards[f.ID()]
	if !ok {
		return held
	}
	told := held.Bits(gone.Len())
	told.AndNot(gone)
	return placement.ShardsIn(told)
}

func (w *Withdrawn) add(id content.Digest, shards content.Bits) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.shards == nil {
		w.shards = map[content.Digest]content.Bits{}
	}
	w.shards[id] = shards
}

func (w *Withdrawn) remove(id content.Digest) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.shards, id)
}
