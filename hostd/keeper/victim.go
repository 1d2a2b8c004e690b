package keeper

import (
	"cmp"
	"slices"
	"time"

	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/placement"
)

// victim is a file of which shards are to go.
type victim struct {
	file   *store.File
	shards content.Bits
	bytes  int64
}

// shardsOf returns the shards of a content, of so many, that may be evicted. It is called with the keeper's mu held.
type shardsOf func(id content.Digest, shards int) content.Bits

// choose finds what to evict, the longest unused first, and withdraws it: from now on Withdrawn.Told does not name it.
func (e *evictor) choose(want int64, spared map[content.Digest]bool, may shardsOf) []victim {
	k := e.keeper
	files := k.cfg.Store.List()
	slices.SortStableFunc(files, func(a, b *store.File) int { return cmp.Compare(a.LastUse().UnixNano(), b.LastUse().UnixNano()) })
	var batch []victim
	for _, f := range files {
		if want <= 0 || len(batch) == maxBatch {
			break
		}
		if spared[f.ID()] || f.HeldBytes() == 0 {
			continue
		}
		if v, ok := k.withdraw(f, want, may); ok {
			batch = append(batch, v)
			want -= v.bytes
		}
	}
	return batch
}

// withdraw picks shards of a file to evict, want bytes or what there is.
func (k *Keeper) withdraw(f *store.File, want int64, may shardsOf) (victim, bool) {
	id, m, have := f.ID(), f.Manifest(), f.Have()
	v := victim{file: f, shards: content.NewBits(m.Shards())}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.pins[id] != nil || k.running[id] != nil || f.InUse() {
		return v, false
	}
	can := may(id, m.Shards())
	for s, ok := can.NextSet(0); ok && v.bytes < want; s, ok = can.NextSet(s + 1) {
		if n := heldBytes(m, have, s); n > 0 {
			v.shards.Set(s)
			v.bytes += n
		}
	}
	if v.bytes == 0 {
		return v, false
	}
	k.cfg.Withdrawn.add(id, v.shards)
	return v, true
}

// evictable returns the shards of a content that this host need not hold and that are safe on their homes: none of one
// that the catalogue does not know, or not yet.
func (k *Keeper) evictable(id content.Digest, shards int) content.Bits {
	var can content.Bits
	k.cfg.Catalogue.View(func(s *placement.State) {
		can = content.NewBits(shards)
		if c, ok := s.Content(id); ok && c.Shards >= shards { // an empty file has a shard in the catalogue
			can = s.SafeWithout(k.cfg.Self, id).Bits(shards)
		}
	})
	return can
}

// mayGo returns all shards of a stray, unless somebody is about to adopt it or the catalogue names it by now.
func (k *Keeper) mayGo(id content.Digest, shards int) content.Bits {
	can := content.NewBits(shards)
	if old := k.strays[id]; old == nil || time.Now().Before(old.held) {
		return can
	}
	k.cfg.Catalogue.View(func(s *placement.State) {
		if _, named := s.Content(id); !named {
			can.SetRange(0, shards)
		}
	})
	return can
}

// heldBytes returns the bytes of data of a shard that are in a set of chunks.
func heldBytes(m *content.Manifest, have content.Bits, shard int) (n int64) {
	lo, hi := m.ShardChunks(shard)
	for i, ok := have.NextSet(lo); ok && i < hi; i, ok = have.NextSet(i + 1) {
		if !m.IsHole(i) {
			n += int64(m.ChunkLen(i))
		}
	}
	return n
}

// lackingBytes returns the bytes of data of a shard that are not in a set of chunks. Holes are in every set.
func lackingBytes(m *content.Manifest, have content.Bits, shard int) (n int64) {
	lo, hi := m.ShardChunks(shard)
	for i, ok := have.NextClear(lo); ok && i < hi; i, ok = have.NextClear(i + 1) {
		n += int64(m.ChunkLen(i))
	}
	return n
}
