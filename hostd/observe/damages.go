package observe

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/placement"
)

// Damages remembers the chunks that were found damaged since the start of the daemon. Its zero value is empty. It is
// safe for concurrent use.
type Damages struct {
	mu    sync.Mutex
	files map[content.Digest]map[int]time.Time // when each chunk was found
}

// Note remembers a chunk.
func (d *Damages) Note(f *store.File, chunk int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.files == nil {
		d.files = map[content.Digest]map[int]time.Time{}
	}
	if d.files[f.ID()] == nil {
		d.files[f.ID()] = map[int]time.Time{}
	}
	d.files[f.ID()][chunk] = time.Now()
}

// left gives what is still damaged, ordered by name. It forgets what is healed, and what this host need not hold any
// more: nobody fetches that again.
func (d *Damages) left(s *placement.State, self placement.HostID, st *store.Store) (all []damage) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, chunks := range d.files {
		file, here := st.Get(id)
		c, known := s.Content(id)
		must := s.HomeShards(self, id)
		for chunk := range chunks {
			if !here || !known || file.Has(chunk) || !must.Has(file.Manifest().ShardOf(chunk)) {
				delete(chunks, chunk)
			}
		}
		if len(chunks) == 0 {
			delete(d.files, id)
			continue
		}
		all = append(all, describeDamage(s, self, c, file, chunks))
	}
	slices.SortFunc(all, func(a, b damage) int { return strings.Compare(a.name, b.name) })
	return all
}

func describeDamage(s *placement.State, self placement.HostID, c placement.Content, file *store.File, chunks map[int]time.Time) damage {
	d := damage{name: c.ID.String(), chunks: len(chunks)}
	if len(c.Names) > 0 {
		d.name = c.Names[0]
	}
	held := map[int]bool{} // shards on other hosts that are up
	for _, holder := range s.Holders(c.ID) {
		if host, ok := s.Host(holder.Host); ok && host.State.Serves() && holder.Host != self {
			for shard := range c.Shards {
				held[shard] = held[shard] || holder.Shards.Has(shard)
			}
		}
	}
	for chunk, found := range chunks {
		if d.since.IsZero() || found.Before(d.since) {
			d.since = found
		}
		d.lost = d.lost || !held[file.Manifest().ShardOf(chunk)]
	}
	return d
}
