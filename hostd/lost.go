package hostd

import (
	"cmp"
	"slices"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/placement"
)

// lostContent is a stray as all hosts that answer have it together.
type lostContent struct {
	like    placement.Publish // size and the like, of no name
	cluster string            // by the note that gave the names
	names   []*v1.StrayName   // ordered by name
	held    content.Bits      // shards that some host holds
	holders map[placement.HostID]placement.ShardSet
	seen    uint64
}

// gatherLost puts together what hosts tell of the same contents. Of two hosts that know other names, the one that heard of
// the catalogue last is right.
func gatherLost(strays []*v1.StrayHere) map[content.Digest]*lostContent {
	all := map[content.Digest]*lostContent{}
	for _, s := range strays {
		id, err := content.ParseDigest(s.GetStray().GetId())
		if err != nil {
			continue // allStrays has looked already
		}
		l := all[id]
		if l == nil {
			l = &lostContent{holders: map[placement.HostID]placement.ShardSet{}}
			l.like = placement.Publish{
				ID: id, Size: int64(s.GetStray().GetSize()), DataBytes: int64(s.GetStray().GetDataBytes()), ChunkSize: int(s.GetChunkSize()),
				Shards: int(s.GetStray().GetShards()),
			}
			if l.like.Shards < 1 || l.like.Shards > placement.MaxShards {
				continue // no content has so many
			}
			l.held = content.NewBits(l.like.Shards)
			all[id] = l
		}
		l.learn(s)
	}
	return all
}

// learn adds what one host tells.
func (l *lostContent) learn(s *v1.StrayHere) {
	if held, err := placement.ParseShardSet(s.GetHeld()); err == nil {
		l.held.Or(held.Bits(l.like.Shards))
		l.holders[placement.HostID(s.GetStray().GetHostId())] = held
	}
	if len(s.GetNames()) > 0 && (len(l.names) == 0 || s.GetSeen() > l.seen) {
		l.names, l.seen, l.cluster = slices.Clone(s.GetNames()), s.GetSeen(), s.GetStray().GetCluster()
		slices.SortFunc(l.names, func(a, b *v1.StrayName) int { return cmp.Compare(a.GetName(), b.GetName()) })
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
	return slices.ContainsFunc(l.names, func(n *v1.StrayName) bool { return n.GetName() == name })
}
