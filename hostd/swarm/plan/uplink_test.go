package plan

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// granter grants as many draws as it has, and knows who is loaded.
type granter struct {
	left int
	load map[string]int
}

func (g *granter) Load(what string) int { return g.load[what] }
func (g *granter) Grant(string) bool {
	g.left--
	return g.left >= 0
}

// TestUplinkOrder: by priority, then by kind, then in turn.
func TestUplinkOrder(t *testing.T) {
	u := NewUplink[string](1, time.Second)
	a, b, far := u.Join(true), u.Join(true), u.Join(false)
	u.Push(far, Distribute, true, "far draw")
	u.Push(far, Distribute, false, "far request")
	u.Push(a, Distribute, false, "a1")
	u.Push(a, Distribute, false, "a2")
	u.Push(b, Distribute, false, "b1")
	u.Push(b, Distribute, true, "loaded draw")
	u.Push(a, Distribute, true, "near draw")
	u.Push(a, Repair, false, "repair")
	u.Push(far, Demand, false, "demand")
	g := &granter{left: 3, load: map[string]int{"loaded draw": 2}}
	var order []string
	now := time.Unix(0, 0)
	for t := u.Next(now, g); t != nil; t = u.Next(now, g) {
		order = append(order, t.What)
		u.Done(t)
	}
	want := "[demand near draw loaded draw a1 b1 a2 far request far draw repair]"
	if got := fmt.Sprint(order); got != want {
		t.Errorf("order %v, want %v", got, want)
	}
}

// TestUplinkLendsSlots: a receiver that is slow holds nobody up, and gets no second slot.
func TestUplinkLendsSlots(t *testing.T) {
	u := NewUplink[string](1, time.Second)
	slow, fast := u.Join(true), u.Join(true)
	u.Push(slow, Distribute, false, "s1")
	u.Push(slow, Distribute, false, "s2")
	now := time.Unix(0, 0)
	s1 := u.Next(now, nil)
	u.Push(fast, Distribute, false, "f1")
	if u.Next(now, nil) != nil {
		t.Fatal("gave a slot that is held")
	}
	at, ok := u.Due(now)
	if !ok || at != now.Add(time.Second) {
		t.Fatalf("lends at %v (%v)", at, ok)
	}
	f1 := u.Next(at, nil)
	if f1 == nil || f1.What != "f1" {
		t.Fatalf("lent the slot to %v", f1)
	}
	u.Done(f1)
	if got := u.Next(at, nil); got != nil {
		t.Errorf("gave %s a second slot while the first is overdue", got.What)
	}
	u.Done(s1)
	if got := u.Next(at, nil); got == nil || got.What != "s2" {
		t.Errorf("gave %v the slot, want s2", got)
	}
}

// TestDrawsWaitUntilWoken: a draw for which there is nothing stands in nobody's way.
func TestDrawsWaitUntilWoken(t *testing.T) {
	u := NewUplink[string](2, time.Second)
	a := u.Join(true)
	d := u.Push(a, Distribute, true, "draw")
	u.Push(a, Distribute, false, "request")
	g := &granter{}
	now := time.Unix(0, 0)
	if got := u.Next(now, g); got == nil || got.What != "request" {
		t.Fatalf("%v goes first", got)
	}
	g.left = 1
	if u.Next(now, g) != nil {
		t.Fatal("a parked draw had its turn")
	}
	u.Wake(func(what string) bool { return what == "draw" })
	if u.Next(now, g) != d {
		t.Fatal("a draw that was woken had no turn")
	}
	if u.Cancel(d) {
		t.Error("took back what is being sent")
	}
}

// TestUplinkServesAll drives an Uplink at random: no more slots than it has, nothing twice, and in the end everything
// once.
func TestUplinkServesAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		slots := rapid.IntRange(1, 4).Draw(t, "slots")
		u := NewUplink[int](slots, time.Second)
		now := time.Unix(0, 0)
		var askers []*Asker[int]
		waiting := map[*Ticket[int]]bool{}
		var busy []*Ticket[int]
		next := func() bool {
			got := u.Next(now, yes{})
			if got == nil {
				return false
			}
			if !waiting[got] {
				t.Fatalf("gave a slot to %d, which does not wait", got.What)
			}
			delete(waiting, got)
			busy = append(busy, got)
			if len(busy) > slots {
				t.Fatalf("%d of %d slots are held", len(busy), slots)
			}
			return true
		}
		done := func(i int) {
			u.Done(busy[i])
			busy = append(busy[:i], busy[i+1:]...)
		}
		t.Repeat(map[string]func(*rapid.T){
			"join": func(t *rapid.T) { askers = append(askers, u.Join(rapid.Bool().Draw(t, "near"))) },
			"push": func(t *rapid.T) {
				if len(askers) == 0 {
					t.Skip("nobody")
				}
				a := rapid.SampledFrom(askers).Draw(t, "asker")
				waiting[u.Push(a, Priority(rapid.IntRange(int(Repair), int(Demand)).Draw(t, "prio")), rapid.Bool().Draw(t, "draw"), len(waiting))] = true
			},
			"next": func(t *rapid.T) { next() },
			"done": func(t *rapid.T) {
				if len(busy) > 0 {
					done(rapid.IntRange(0, len(busy)-1).Draw(t, "slot"))
				}
			},
		})
		for len(waiting) > 0 || len(busy) > 0 {
			if !next() && len(busy) == 0 {
				t.Fatalf("%d wishes wait for ever", len(waiting))
			} else if len(busy) > 0 {
				done(0)
			}
		}
	})
}

type yes struct{}

func (yes) Load(int) int   { return 0 }
func (yes) Grant(int) bool { return true }

// BenchmarkGive is a decision of a seed, and its outcome: 40,000 chunks, 50 followers that always draw.
func BenchmarkGive(b *testing.B) {
	const n = 40000
	for b.Loop() {
		g, u := NewGiver(1, n), NewUplink[*benchDraw](Slots, LendTime)
		for c := range n {
			g.Hold(c)
		}
		for i := range 50 {
			d := &benchDraw{g: g, f: g.Follow(), asker: u.Join(i%2 == 0)}
			u.Push(d.asker, Distribute, true, d)
		}
		now := time.Unix(0, 0)
		for range n {
			t := u.Next(now, benchGranter{})
			d := t.What
			g.Has(d.f, d.chunk)
			u.Done(t)
			u.Push(d.asker, Distribute, true, d)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/chunk")
}

type benchDraw struct {
	g     *Giver
	f     *Follower
	asker *Asker[*benchDraw]
	chunk int
}

type benchGranter struct{}

func (benchGranter) Load(d *benchDraw) int { return d.g.Load(d.f) }
func (benchGranter) Grant(d *benchDraw) (ok bool) {
	d.chunk, ok = d.g.Grant(d.f, 0, d.g.n)
	return ok
}
