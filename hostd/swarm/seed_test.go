package swarm

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/placement"
)

// TestBusySeed: a seed that has no room for all turns some away, who live from those that it knows.
func TestBusySeed(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		seed := l.host(0)
		limit(slowRate, seed)
		seed.peers.plan = plan.NewSessions(plan.Host(seed.self), 2)
		const n = 200
		id := seed.publish(n)
		m, _ := seed.store.Get(id)
		var waits []func()
		for i := range 6 {
			h := l.host(i + 1)
			limit(slowRate, h)
			if _, err := h.store.Create(context.Background(), m.Manifest()); err != nil {
				t.Fatal(err)
			}
			waits = append(waits, h.mustFetch(id))
		}
		for _, wait := range waits {
			wait()
		}
		if seed.sent() > n*5/4 {
			t.Errorf("the seed sent %d chunks of a file of %d", seed.sent(), n)
		}
	})
}

// TestGrantedAnew: what was granted to a fetcher that dies, and that nobody has, others get; the seed sends the rest
// once.
func TestGrantedAnew(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		seed := l.host(0)
		limit(slowRate, seed)
		const n = 200
		id := seed.publish(n)
		hosts := []*labHost{l.host(1), l.host(2), l.host(3), l.host(4)}
		for _, h := range hosts {
			limit(slowRate, h)
		}
		victim := hosts[3]
		f := victim.file(id)
		ctx, cancel := context.WithCancel(context.Background())
		died := make(chan error, 1)
		go func() { died <- victim.Fetch(ctx, f, content.Bits{}, Distribute, nil) }()
		var waits []func()
		for _, h := range hosts[:3] {
			waits = append(waits, h.mustFetch(id))
		}
		until(t, "a quarter is here", func() bool { return victim.got() > n/4 })
		victim.kill()
		cancel()
		<-died
		for _, wait := range waits {
			wait()
		}
		if seed.sent() > n*5/4 {
			t.Errorf("the seed sent %d chunks of a file of %d", seed.sent(), n)
		}
	})
}

// TestTwoSeeds: they begin at different places, and hear of each other's grants: little comes twice.
func TestTwoSeeds(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, b := l.host(1), l.host(2)
		const n = 300
		id := a.publish(n)
		l.seedAll(id, b)
		time.Sleep(2 * LingerTime) // b fetches no more
		before := a.sent() + b.sent()
		limit(slowRate, a, b)
		var waits []func()
		start := time.Now()
		for i := range 4 {
			h := l.host(i + 3)
			limit(slowRate, h)
			waits = append(waits, h.mustFetch(id))
		}
		for _, wait := range waits {
			wait()
		}
		one := time.Duration(n * testChunk / slowRate * 1e9)
		t.Logf("%v, one uplink takes %v; %d chunks sent of %d", time.Since(start), one, a.sent()+b.sent()-before, n)
		if sent := a.sent() + b.sent() - before; sent > n*3/2 {
			t.Errorf("the seeds sent %d chunks of a file of %d", sent, n)
		}
		if took := time.Since(start); took > one {
			t.Errorf("took %v, one uplink takes %v", took, one)
		}
	})
}

// TestSeedDies half way; another has the rest.
func TestSeedDies(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, b := l.host(1), l.host(2)
		const n = 200
		id := a.publish(n)
		l.seedAll(id, b)
		limit(slowRate, a, b)
		var waits []func()
		var fetchers []*labHost
		for i := range 4 {
			h := l.host(i + 3)
			limit(slowRate, h)
			fetchers = append(fetchers, h)
			waits = append(waits, h.mustFetch(id))
		}
		until(t, "half is here", func() bool { return fetchers[0].got() > n/2 })
		a.kill()
		for _, wait := range waits {
			wait()
		}
	})
}

// TestFrozenSeed: draws that wait at a seed that does not answer are noticed, although it owes nothing.
func TestFrozenSeed(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, b := l.host(1), l.host(2)
		id := a.publish(100)
		limit(slowRate, a)
		wait := b.mustFetch(id)
		until(t, "a third is here", func() bool { return b.got() > 33 })
		a.freeze()
		until(t, "it is noticed", func() bool { return testutil.ToFloat64(b.metrics.stalls) > 0 })
		a.resume()
		wait()
	})
}

// TestLimits: both directions keep to their rates, which may change at any time, and readers go first.
func TestLimits(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		const n, rate = 100, 1 << 20
		for _, limit := range []string{"up", "down"} {
			a, b := l.host(1), l.host(2)
			id := a.publish(n)
			f := b.file(id)
			if limit == "up" {
				a.SetLimits(rate, 0)
			} else {
				b.SetLimits(0, rate)
			}
			start := time.Now()
			wait := b.mustFetch(id)
			until(t, "it has begun", func() bool { return b.got() > 10 })
			asked := time.Now()
			if err := b.Fetch(context.Background(), f, chunks(f, n-1, n-2, n-3), Demand, nil); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(asked); took > time.Second {
				t.Errorf("%s: a reader waited %v", limit, took)
			}
			until(t, "half is here", func() bool { return b.got() >= n/2 })
			half := time.Since(start)
			want := time.Duration(float64(n/2*testChunk) / rate * 1e9)
			if half < want*8/10 || half > want*11/10 {
				t.Errorf("%s: half took %v, want %v", limit, half, want)
			}
			a.SetLimits(0, 0)
			b.SetLimits(0, 0)
			wait()
			if rest := time.Since(start) - half; rest > time.Second {
				t.Errorf("%s: the rest took %v without a limit", limit, rest)
			}
			a.stop()
			b.stop()
			delete(l.hosts, a.id)
			delete(l.hosts, b.id)
		}
	})
}

// TestRacks: hosts of two racks, of which one has the seed, fetch through few crossings.
func TestRacks(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		const n = 256
		var hosts []*labHost
		for i := range 8 {
			h := l.host(i)
			limit(slowRate, h)
			l.mu.Lock()
			l.places[h.id] = Place{Rack: string(rune('a' + i%2))}
			l.mu.Unlock()
			hosts = append(hosts, h)
		}
		id := hosts[0].publish(n)
		crossed := 0
		var waits []func()
		for _, h := range hosts[1:] {
			waits = append(waits, h.mustFetch(id))
		}
		for _, wait := range waits {
			wait()
		}
		for _, h := range hosts {
			crossed += int(h.crossed.Load())
		}
		t.Logf("%.2f files crossed", float64(crossed)/n/testChunk)
		if crossed > n*testChunk*13/10 {
			t.Errorf("%.2f files crossed between the racks", float64(crossed)/n/testChunk)
		}
	})
}

// TestStats: what operators see of peers and fetches.
func TestStats(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, b := l.host(1), l.host(2)
		const n = 400
		id := a.publish(n)
		limit(slowRate, a)
		wait := b.mustFetch(id)
		until(t, "it flows", func() bool {
			p := b.Peers()
			return len(p) == 1 && p[0].Host == a.id && p[0].Down > slowRate/2
		})
		if p := a.Peers(); len(p) != 1 || p[0].Host != b.id || p[0].Up < slowRate/2 || p[0].Sessions != 1 {
			t.Errorf("the holder's peers: %+v", p)
		}
		wait()
		all := b.Recent()
		if len(all) != 1 {
			t.Fatalf("recent: %+v", all)
		}
		f := all[0]
		if f.File != id || f.Sources != 1 || f.Received != 1 || f.Ratio < 1 || f.Ratio > 1.2 || f.Bytes != b.file(id).Manifest().Size() {
			t.Errorf("recent: %+v", f)
		}
		if len(a.Recent()) != 0 {
			t.Error("the holder has fetched")
		}
	})
}

// TestFollowThenFetch: a host which follows a file at a peer, because that draws, fetches it later itself.
func TestFollowThenFetch(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, b, c := l.host(1), l.host(2), l.host(3)
		id := a.publish(60)
		f := b.file(id)
		var some []int
		for i := range 30 {
			some = append(some, i)
		}
		if err := b.Fetch(context.Background(), f, chunks(f, some...), Distribute, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * LingerTime)
		l.holds(id, b)
		limit(slowRate, a, b, c)
		c.catalogue = func(content.Digest) []placement.HostID { return []placement.HostID{a.id, b.id} }
		waitC := c.mustFetch(id)
		until(t, "c draws", func() bool { return c.got() > 5 })
		waitB := b.mustFetch(id)
		waitC()
		waitB()
		if order := c.order(); len(order) > 70 || len(slices.Compact(slices.Sorted(slices.Values(order)))) != 60 {
			t.Errorf("c stored %d chunks", len(order))
		}
	})
}
