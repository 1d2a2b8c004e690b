package control

import (
	"strings"
	"testing"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

// TestIncompleteStraysAreRefused: shards count wherever they are, and what nobody has is named.
func TestIncompleteStraysAreRefused(t *testing.T) {
	tell := func(host, held string, seen uint64, names ...string) Stray {
		shards, err := placement.ParseShardSet(held)
		if err != nil {
			t.Fatal(err)
		}
		s := Stray{
			Host: placement.HostID(host), ID: content.Sum(nil), Size: 4 * content.ShardSize, ChunkSize: content.MinChunkSize, Shards: 4,
			Held: shards, Seen: seen,
		}
		for _, n := range names {
			s.Names = append(s.Names, StrayName{Name: n})
		}
		return s
	}
	for _, c := range []struct {
		strays  []Stray
		missing string
		names   int
	}{
		{[]Stray{tell("a", "0-1", 1, "x"), tell("b", "3", 2, "x", "y")}, "2", 2},
		{[]Stray{tell("a", "0-1", 3, "x"), tell("b", "1-3", 2, "x", "y")}, "", 1},
		{[]Stray{tell("a", "all", 0), tell("b", "3", 2, "x")}, "", 1},
		{[]Stray{tell("a", "0-1000000", 0), tell("b", "", 0)}, "", 0},
	} {
		lost := gatherLost(c.strays)
		l := lost[content.Sum(nil)]
		if l == nil || l.missing().String() != c.missing || len(l.names) != c.names {
			t.Fatalf("%v: %+v", c.strays, l)
		}
		entries := []*entry{{cmd: placement.Adopt{Publish: l.like}, missing: l.missing().Count(4)}}
		refuseIncomplete(entries, lost, []string{"hv9"})
		r := outcome(entries)
		if c.missing == "" {
			if r.Entered != 1 {
				t.Errorf("%+v", r)
			}
			continue
		}
		why := reason.As(r.Entries[0].Refused, "")
		if r.Refused != 1 || !strings.Contains(why.Error(), "has shards 2 of 4") || !strings.HasPrefix(why.Next(), "bring back hv9") {
			t.Errorf("%+v", r)
		}
	}
	if lost := gatherLost([]Stray{{ID: content.Sum(nil), Shards: 1 << 31}, {}}); len(lost) != 0 {
		t.Errorf("believed %v", lost)
	}
}
