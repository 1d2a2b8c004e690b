package control

import (
	"cmp"
	"slices"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/placement"
)

// lostContent is a stray as all hosts that answer have it together.
type lostContent struct {
	like    placement.Publish // size and the like, of no name
	cluster string            // by the note that gave the names
	names   []StrayName       // ordered by name
	held    content.Bits      // shards that some host holds
	holders map[placement.HostID]placement.ShardSet
	seen    uint64
}

// gatherLost puts together what hosts tell of the same contents. Of two hosts that know other names, the one that heard
// of the catalogue last is right.
func gatherLost(strays []Stray) map[content.Digest]*lostContent {
	all := map[content.Digest]*lostContent{}
	for _, s := range strays {
		l := all[s.ID]
		if l == nil {
			l = &lostContent{holders: map[placement.HostID]placement.ShardSet{}}
			l.like = placement.Publish{
				ID: s.ID, Size: s.Size, DataBytes: s.DataBytes, ChunkSize: s.ChunkSize, Shards: s.Shards,
			}
			if l.like.Shards < 1 || l.like.Shards > placement.MaxShards {
				continue // no content has so many
			}
			l.held = content.NewBits(l.like.Shards)
			all[s.ID] = l
		}
		l.learn(s)
	}
	return all
}

// learn adds what one host tells.
func (l *lostContent) learn(s Stray) {
	l.held.Or(s.Held.Bits(l.like.Shards))
	l.holders[s.Host] = s.Held
	if len(s.Names) > 0 && (len(l.names) == 0 || s.Seen > l.seen) {
		l.names, l.seen, l.cluster = slices.Clone(s.Names), s.Seen, s.Cluster
		slices.SortFunc(l.names, func(a, b StrayName) int { return cmp.Compare(a.Name, b.Name) })
	}
}

// missing returns the shards that no host which answered holds.
func (l *lostContent) missing() placement.ShardSet {
	lack := content.NewBits(l.like.Shards)
	lack.SetRange(0, l.like.Shards)
	lack.AndNot(l.held)
	return placement.ShardsIn(lack)
}

// named says whether it had a name.
func (l *lostContent) named(name string) bool {
	return slices.ContainsFunc(l.names, func(n StrayName) bool { return n.Name == name })
}
