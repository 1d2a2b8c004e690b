package plan

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

const testChunk = 64 << 10

// all is a source that has everything.
func all(int) bool { return true }

// TestPickerIsDeterministic makes the same calls of two pickers.
func TestPickerIsDeterministic(t *testing.T) {
	run := func() (asked []int) {
		rnd := rand.New(rand.NewPCG(1, 2))
		p := NewPicker(7, Place{}, 500*testChunk, testChunk)
		var sources []*Source
		for i := range 10 {
			sources = append(sources, p.Add(uint64(i)<<50, Place{}, func(int) bool { return i == 0 || rnd.IntN(3) == 0 }))
		}
		for c := range 500 {
			p.Want(c, Distribute)
		}
		for range 2000 {
			if r, ok := p.Next(); ok {
				asked = append(asked, r.Chunk)
				continue
			}
			s := sources[rnd.IntN(len(sources))]
			if len(s.queue) > 0 {
				p.Done(s.queue[0])
			}
		}
		return asked
	}
	a, b := run(), run()
	if fmt.Sprint(a) != fmt.Sprint(b) {
		t.Errorf("the same calls gave %v and %v", a, b)
	}
	if len(a) < 500 {
		t.Errorf("asked for %d chunks of 500", len(a))
	}
}

// TestAloneInOrder: with seeds only, the file comes from this host's start to its end, and then from its beginning.
func TestAloneInOrder(t *testing.T) {
	p := NewPicker(99, Place{}, 100*testChunk, testChunk)
	s := p.Add(1, Place{}, all)
	for c := range 100 {
		p.Want(c, Distribute)
	}
	for i := range 100 {
		want := (p.start + i) % 100
		r, ok := p.Next()
		if !ok || r.Chunk != want {
			t.Fatalf("asked for chunk %d (%v), want %d", r.Chunk, ok, want)
		}
		p.Done(r.Chunk)
	}
	if s.Owes() != 0 {
		t.Errorf("owes %d bytes at the end", s.Owes())
	}
}

// TestFetcherBeforeSeed: what both have is asked of the fetcher.
func TestFetcherBeforeSeed(t *testing.T) {
	p := NewPicker(1, Place{}, 10*testChunk, testChunk)
	p.Gives(p.Add(2, Place{}, all))
	fetcher := p.Add(3, Place{}, func(c int) bool { return c == 4 })
	p.Want(4, Distribute)
	if r, ok := p.Next(); !ok || r.Source != fetcher {
		t.Errorf("asked the seed")
	}
}

// TestRarestFirst: of what a source has, what fewest others have.
func TestRarestFirst(t *testing.T) {
	p := NewPicker(1, Place{}, 4*testChunk, testChunk)
	a := p.Add(2, Place{}, func(c int) bool { return c != 3 })
	p.Add(3, Place{}, func(c int) bool { return c == 0 || c == 1 })
	p.Add(4, Place{}, func(c int) bool { return c == 0 })
	for c := range 3 {
		p.Want(c, Distribute)
	}
	p.SetPace(a, 0, 4*testChunk)
	var order []int
	for range 3 {
		r, _ := fromFellow(p, a)
		order = append(order, r.Chunk)
	}
	if fmt.Sprint(order) != "[2 1 0]" {
		t.Errorf("order %v", order)
	}
}

// TestTwinOnlyOfStragglers: an idle source is asked for what another owes if that one is much slower, and not
// otherwise.
func TestTwinOnlyOfStragglers(t *testing.T) {
	for _, tc := range []struct {
		rate float64
		want bool
	}{{1e6, false}, {1.5e6, false}, {10e6, true}} {
		p := NewPicker(1, Place{}, 2*testChunk, testChunk)
		slow := p.Add(2, Place{}, all)
		p.SetPace(slow, 1e6, 2*testChunk)
		p.Want(0, Distribute)
		if r, ok := p.Next(); !ok || r.Source != slow {
			t.Fatal("did not ask the only source")
		}
		fast := p.Add(3, Place{}, all)
		p.SetPace(fast, tc.rate, 2*testChunk)
		r, ok := p.Next()
		if ok != tc.want || ok && r.Source != fast {
			t.Errorf("at %v bytes/s beside 1e6: asked again: %v", tc.rate, ok)
		}
		if owe := p.Done(0); ok && len(owe) != 2 {
			t.Errorf("%d sources to cancel", len(owe))
		}
	}
}

// TestDemandGoesToTheSoonest: not to the first that has room.
func TestDemandGoesToTheSoonest(t *testing.T) {
	p := NewPicker(1, Place{}, 100*testChunk, testChunk)
	slow, fast := p.Add(2, Place{}, all), p.Add(3, Place{}, all)
	p.SetPace(slow, 1e6, 10*testChunk)
	p.SetPace(fast, 5e6, 10*testChunk)
	for c := range 20 {
		p.Want(c, Repair)
	}
	for range 20 {
		p.Next()
	}
	if slow.Owes() != 10*testChunk || fast.Owes() != 10*testChunk {
		t.Fatal("windows are not full")
	}
	p.Want(99, Demand)
	if r, ok := p.Next(); !ok || r.Chunk != 99 || r.Source != fast {
		t.Errorf("demanded chunk not asked of the fast source beyond its window")
	}
}

// BenchmarkPick is one decision and its outcome: 40,000 chunks, a seed and 49 fetchers which have the half.
func BenchmarkPick(b *testing.B) {
	const n = 40000
	for b.Loop() {
		b.StopTimer()
		rnd := rand.New(rand.NewPCG(1, 2))
		p := NewPicker(1, Place{}, n*testChunk, testChunk)
		p.Add(2, Place{}, all)
		for i := range uint64(49) {
			p.Add(Mix(i+3), Place{}, func(int) bool { return rnd.IntN(2) == 0 })
		}
		for c := range n {
			p.Want(c, Distribute)
		}
		b.StartTimer()
		for done := 0; done < n; {
			r, ok := p.Next()
			if ok {
				continue
			}
			for _, s := range p.sources {
				if len(s.queue) > 0 {
					r.Chunk = s.queue[0]
					p.Done(r.Chunk)
					done++
				}
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/chunk")
}

// TestStartGoesBetween: what a start waits for goes after what is read ahead and before what is distributed, and is
// drawn of a seed like that.
func TestStartGoesBetween(t *testing.T) {
	p := NewPicker(1, Place{}, 4*testChunk, testChunk)
	s := p.Add(1, Place{}, all)
	p.SetPace(s, 0, 100*testChunk)
	for c, prio := range []Priority{Distribute, Start, ReadAhead, Demand} {
		p.Want(c, prio)
	}
	for _, want := range []int{3, 2, 1, 0} {
		r, ok := p.Next()
		if !ok || r.Draw || r.Chunk != want {
			t.Fatalf("asks for %+v, want chunk %d", r, want)
		}
		p.Done(r.Chunk)
	}
	p.Gives(s)
	p.Want(1, Start)
	p.Want(0, Distribute)
	if r, ok := p.Next(); !ok || !r.Draw || r.Priority != Start || r.Lo > 1 || r.Hi < 2 {
		t.Fatalf("asks for %+v, want a draw for the start", r)
	}
}
