package plan

import (
	"testing"
	"time"
)

// TestBudget: one chunk of any size, then the bounds of a peer and of all, of which a quarter is for demand.
func TestBudget(t *testing.T) {
	b := NewBudget(800, 400)
	now := time.Unix(0, 0)
	a, c := Host{1}, Host{2}
	for i, step := range []struct {
		peer Host
		n    int
		prio Priority
		want bool
	}{
		{a, 5000, Repair, true}, // one of any size
		{c, 1, Demand, false},
		{a, -5000, 0, true},
		{a, 300, Distribute, true},
		{a, 1, ReadAhead, false}, // what is left of the peer's is for demand
		{a, 100, Demand, true},
		{a, 1, Demand, false},
		{c, 200, Repair, true},
		{Host{3}, 1, Repair, false}, // the same of the total
		{Host{3}, 200, Demand, true},
		{Host{4}, 1, Demand, false},
	} {
		if step.n < 0 {
			b.Give(step.peer, -step.n)
			continue
		}
		got := b.Room(now, step.peer, step.n, step.prio)
		if got != step.want {
			t.Fatalf("step %d: %v, want %v", i, got, step.want)
		}
		if got {
			b.Take(now, step.peer, step.n)
		}
	}
}

// TestThrottle: what goes is paid for before more goes, and a pause saves up no more than a burst.
func TestThrottle(t *testing.T) {
	var th Throttle
	now := time.Unix(0, 0)
	if th.Wait(now) != 0 {
		t.Error("without a rate something waits")
	}
	th.Set(now, 1<<20)
	th.spend(now, throttleBurst+1<<20)
	if w := th.Wait(now); w < 999*time.Millisecond || w > 1001*time.Millisecond {
		t.Errorf("a second's worth is owed: waits %v", w)
	}
	now = now.Add(time.Hour)
	th.spend(now, 2*throttleBurst)
	if w := th.Wait(now); w < 240*time.Millisecond || w > 260*time.Millisecond {
		t.Errorf("after a pause, a burst's worth is owed: waits %v", w)
	}
}
