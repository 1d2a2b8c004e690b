package placement

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/virtswarm/virtswarm/internal/content"
)

// TestHomesAreTheSameEverywhere pins some homes: whoever changes them moves data in every cluster.
func TestHomesAreTheSameEverywhere(t *testing.T) {
	for _, c := range []struct {
		name    string
		weights []uint32
		want    []int // homes of shards 0 to 4, two each
	}{
		{"equal", nil, []int{5, 4, 2, 3, 4, 3, 3, 1, 4, 3}},
		{"weighted", []uint32{1, 1000, 100, 50, 7}, []int{2, 3, 2, 3, 2, 4, 2, 3, 2, 4}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 5, c.weights...)
			w.do(t, publishing("a", 1, 5, 2, 1))
			var got []int
			for shard := range 5 {
				for _, h := range w.Homes(digest(1), shard) {
					got = append(got, slices.IndexFunc(w.Hosts(), func(o Host) bool { return o.ID == h })+1)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("homes %v, want %v", got, c.want)
			}
		})
	}
}

func TestCostIsALogarithm(t *testing.T) {
	last := uint64(math.MaxUint64)
	for _, h := range []uint64{0, 1, 2, 3, 1000, 1 << 20, 1<<32 - 1, 1 << 32, 1 << 63, 3 << 62, math.MaxUint64 - 1, math.MaxUint64} {
		got := cost(h)
		want := (64 - math.Log2(float64(h)+1)) * (1 << 32)
		if math.Abs(float64(got)-want) > 1+want*1e-9+2 {
			t.Errorf("cost(%d) = %d, want about %.0f", h, got, want)
		}
		if got > last || got == 0 {
			t.Errorf("cost(%d) = %d after %d: must fall and never be 0", h, got, last)
		}
		last = got
	}
}

func TestCostFalls(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.Uint64().Draw(t, "a"), rapid.Uint64().Draw(t, "b")
		if a < b && cost(a) < cost(b) {
			t.Fatalf("cost(%d) = %d < cost(%d) = %d", a, cost(a), b, cost(b))
		}
	})
}

// homesOf lists the homes of every shard.
func homesOf(s *State, id content.Digest) [][]HostID {
	c, _ := s.Content(id)
	homes := make([][]HostID, c.Shards)
	for i := range homes {
		homes[i] = s.Homes(id, i)
	}
	return homes
}

// TestHomesMoveOnlyAsFarAsTheyMust takes hosts down, brings them back and reweighs them.
func TestHomesMoveOnlyAsFarAsTheyMust(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 8).Draw(t, "hosts")
		weights := rapid.SliceOfN(rapid.Uint32Range(1, 300), 0, n).Draw(t, "weights")
		w := newWorld(t, n, weights...)
		replicas := rapid.IntRange(1, 4).Draw(t, "replicas")
		w.do(t, publishing("a", rapid.IntRange(0, 100).Draw(t, "content"), 40, replicas, 1))
		id := w.Names("")[0].Newest().ID
		one := hostID(rapid.IntRange(1, n).Draw(t, "host"))

		before := homesOf(w.State, id)
		w.do(t, Command{SetHostState: &SetHostState{ID: one, To: Lost, Now: 1}})
		down := homesOf(w.State, id)
		for shard := range before {
			for _, h := range before[shard] {
				if h != one && !slices.Contains(down[shard], h) {
					t.Fatalf("shard %d left %s when %s went down: %v to %v", shard, h, one, before[shard], down[shard])
				}
			}
			if slices.Contains(down[shard], one) || len(down[shard]) != min(replicas, n-1) {
				t.Fatalf("shard %d has homes %v with %s down", shard, down[shard], one)
			}
		}
		w.do(t, Command{SetHostState: &SetHostState{ID: one, To: Alive, Now: 2}})
		if got := homesOf(w.State, id); !slices.EqualFunc(got, before, slices.Equal) {
			t.Fatal("the homes are others when the host is back")
		}
		h, _ := w.Host(one)
		w.do(t, Command{UpdateHost: &UpdateHost{ID: one, Weight: h.Weight + 50}})
		for shard, homes := range homesOf(w.State, id) {
			for _, old := range before[shard] {
				if !slices.Contains(homes, old) && !slices.Contains(homes, one) {
					t.Fatalf("shard %d left %s for another than the host that became heavier", shard, old)
				}
			}
			if slices.Contains(before[shard], one) && !slices.Contains(homes, one) {
				t.Fatalf("shard %d left %s because it became heavier", shard, one)
			}
		}
	})
}

func TestHomesFollowTheWeights(t *testing.T) {
	for _, weights := range [][]uint32{{100, 100, 100, 100, 100}, {100, 200, 300, 400, 1000}, {1, 10, 100, 100, 100}} {
		t.Run(fmt.Sprint(weights), func(t *testing.T) {
			w := newWorld(t, len(weights), weights...)
			const shards = 40_000
			big := publishing("a", 1, shards, 1, 1)
			big.Publish.ChunkSize = content.MaxChunkSize
			w.do(t, big)
			var sum float64
			for _, x := range weights {
				sum += float64(x)
			}
			for i, x := range weights {
				got := float64(w.HomeShards(hostID(i+1), digest(1)).Count(shards))
				want := shards * float64(x) / sum
				// Five standard deviations of the binomial distribution; nothing here is random.
				if dev := 5 * math.Sqrt(want*(1-want/shards)); math.Abs(got-want) > dev {
					t.Errorf("host %d of weight %d has %.0f shards, want %.0f ± %.0f", i+1, x, got, want, dev)
				}
			}
		})
	}
}

// TestHomeShardsAgreesWithHomes compares the two ways to ask.
func TestHomeShardsAgreesWithHomes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 6).Draw(t, "hosts")
		w := newWorld(t, n, rapid.SliceOfN(rapid.Uint32Range(1, 3), 0, n).Draw(t, "weights")...)
		w.do(t, publishing("a", 1, rapid.IntRange(0, 20).Draw(t, "shards"), rapid.IntRange(0, 7).Draw(t, "replicas"), 1))
		for range rapid.IntRange(0, 3).Draw(t, "changes") {
			h := hostID(rapid.IntRange(1, n).Draw(t, "host"))
			w.do(t, Command{SetHostState: &SetHostState{ID: h, To: rapid.SampledFrom([]HostState{Alive, Down, Lost, Leaving}).Draw(t, "state"), Now: 1}})
			homes := homesOf(w.State, digest(1))
			for i := range n {
				set := w.HomeShards(hostID(i+1), digest(1))
				for shard := range homes {
					if set.Has(shard) != slices.Contains(homes[shard], hostID(i+1)) {
						t.Fatalf("host %d, shard %d: HomeShards %q, Homes %v", i+1, shard, set, homes[shard])
					}
				}
			}
		}
	})
}

func TestReplication(t *testing.T) {
	w := newWorld(t, 4)
	w.do(t, publishing("a", 1, 6, 2, 1))
	all := func(hosts ...int) {
		for _, n := range hosts {
			w.do(t, Command{Report: &Report{Host: hostID(n), Holdings: []Holding{{digest(1), AllShards()}}}})
		}
	}
	check := func(what string, want Replication) {
		t.Helper()
		if got, _ := w.Replication(digest(1)); got != want {
			t.Errorf("%s: %+v, want %+v", what, got, want)
		}
	}
	mine := w.HomeShards(hostID(1), digest(1)).Count(6)
	const shard = content.ShardSize
	check("at the publisher only", Replication{Wanted: 2, Possible: 2, Shards: 6, UnderReplicated: 6, ToGo: 10, ToGoBytes: 10 * shard})
	if mine == 6 {
		t.Fatal("the publisher is the home of all, the test says nothing")
	}
	all(2, 3, 4)
	check("everywhere", Replication{Wanted: 2, Possible: 2, Shards: 6, MinCopies: 2})
	set := func(host int, to HostState) {
		w.do(t, Command{SetHostState: &SetHostState{ID: hostID(host), To: to, Now: 1}})
	}
	set(2, Down)
	check("one down, its copies are awaited", Replication{Wanted: 2, Possible: 1, Shards: 6, MinCopies: 1, UnderReplicated: 1, Awaited: 1})
	set(2, Lost)
	check("one lost, the homes moved to those that have it", Replication{Wanted: 2, Possible: 2, Shards: 6, MinCopies: 2})
	set(3, Leaving)
	set(4, Lost)
	check("one left", Replication{Wanted: 2, Possible: 1, Shards: 6, MinCopies: 1, UnderReplicated: 6})
	w.do(t, Command{Report: &Report{Host: hostID(1), Dropped: []content.Digest{digest(1)}}})
	check("on a leaving host only", Replication{Wanted: 2, Possible: 1, Shards: 6, UnderReplicated: 6, ToGo: 6, ToGoBytes: 6 * shard})
	set(3, Lost)
	check("on dead hosts only", Replication{Wanted: 2, Possible: 1, Shards: 6, UnderReplicated: 6, Lost: 6, ToGo: 6, ToGoBytes: 6 * shard})
	if s := w.UnderReplicated(); s != (Summary{
		Contents: 1, Shards: 6, UnderContents: 1, UnderReplicated: 6, LostContents: 1, Lost: 6, ToGo: 6, ToGoBytes: 6 * shard,
	}) {
		t.Errorf("summary %+v", s)
	}
	if _, ok := w.Replication(digest(2)); ok {
		t.Error("an unknown content has a replication")
	}
}

func TestReplicationToAll(t *testing.T) {
	w := newWorld(t, 3)
	w.do(t, publishing("a", 1, 2, 0, 1))
	if r, _ := w.Replication(digest(1)); r.Wanted != 3 || r.MinCopies != 1 || r.UnderReplicated != 2 {
		t.Errorf("replication %+v", r)
	}
	part, _ := ParseShardSet("1")
	w.do(t, Command{Report: &Report{Host: hostID(2), Holdings: []Holding{{digest(1), AllShards()}}}})
	w.do(t, Command{Report: &Report{Host: hostID(3), Holdings: []Holding{{digest(1), part}}}})
	if r, _ := w.Replication(digest(1)); r.MinCopies != 2 || r.UnderReplicated != 1 {
		t.Errorf("replication %+v", r)
	}
}

// bigWorld is 10,000 files of 1 GiB on 50 hosts, three copies each, all in place.
func bigWorld(t fataler) *world {
	w := newWorld(t, 50)
	for i := range 10_000 {
		w.do(t, publishing(fmt.Sprintf("images/%d/file-%05d.qcow2", i%100, i), i, 16, 3, i%50+1))
	}
	for n := 1; n <= 50; n++ {
		r := Report{Host: hostID(n)}
		for _, d := range w.Must(r.Host, 0) {
			if !d.Shards.Empty() {
				r.Holdings = append(r.Holdings, Holding(d))
			}
		}
		for _, part := range r.Split() {
			w.do(t, Command{Report: &part})
		}
	}
	return w
}

func BenchmarkBigCatalogue(b *testing.B) {
	w := bigWorld(b)
	if s := w.UnderReplicated(); s.UnderReplicated != 0 {
		b.Fatalf("summary %+v", s)
	}
	flip := []HostState{Down, Alive}
	b.Run("host-lost-then-all-duties-of-one", func(b *testing.B) {
		for i := range b.N {
			w.do(b, Command{SetHostState: &SetHostState{ID: hostID(7), To: flip[i%2], Now: 1}})
			w.Must(hostID(1), 0)
		}
	})
	b.Run("host-lost-then-summary", func(b *testing.B) {
		for i := range b.N {
			w.do(b, Command{SetHostState: &SetHostState{ID: hostID(7), To: flip[i%2], Now: 1}})
			w.UnderReplicated()
		}
	})
	b.Run("summary", func(b *testing.B) {
		for b.Loop() {
			w.UnderReplicated()
		}
	})
	b.Run("list-all", func(b *testing.B) {
		for b.Loop() {
			w.Names("")
		}
	})
	b.Run("publish", func(b *testing.B) {
		for i := range b.N {
			w.do(b, publishing(fmt.Sprintf("new/%d", w.next), 1_000_000+int(w.next), 16, 3, i%50+1))
		}
	})
	b.Run("report", func(b *testing.B) {
		for i := range b.N {
			h := Holding{digest(i % 10_000), ShardSpan(0, 1+i/10_000%10)}
			w.do(b, Command{Report: &Report{Host: hostID(3), Holdings: []Holding{h}}})
		}
	})
	b.Run("changed-since", func(b *testing.B) {
		for b.Loop() {
			w.ChangedSince(w.Applied() - 10)
		}
	})
	b.Run("freeze", func(b *testing.B) {
		for b.Loop() {
			w.Freeze()
		}
	})
}

func BenchmarkSnapshot(b *testing.B) {
	w := bigWorld(b)
	p := freeze(b, w.State)
	b.Run("write", func(b *testing.B) {
		b.ReportMetric(float64(len(p)), "bytes")
		for b.Loop() {
			freeze(b, w.State)
		}
	})
	b.Run("restore", func(b *testing.B) {
		for b.Loop() {
			if _, err := Restore(bytes.NewReader(p)); err != nil {
				b.Fatal(err)
			}
		}
	})
}
