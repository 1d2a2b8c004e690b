package swarm

import (
	"testing"

	"github.com/virtswarm/virtswarm/internal/wire"
)

func TestBudget(t *testing.T) {
	b := newBudget(800, 400)
	j := &job{room: make(chan struct{}, 1)}
	a, c := wire.PeerID{1}, wire.PeerID{2}
	for i, step := range []struct {
		peer wire.PeerID
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
		{wire.PeerID{3}, 1, Repair, false}, // the same of the total
		{wire.PeerID{3}, 200, Demand, true},
		{wire.PeerID{4}, 1, Demand, false},
	} {
		if step.n < 0 {
			b.give(step.peer, -step.n)
			continue
		}
		if got := b.take(j, step.peer, step.n, step.prio); got != step.want {
			t.Fatalf("step %d: %v, want %v", i, got, step.want)
		}
	}
	for len(j.room) > 0 {
		<-j.room
	}
	b.give(c, 200)
	if len(j.room) != 1 {
		t.Error("a job that was refused does not hear of room")
	}
	b.take(j, a, 1<<20, Repair)
	b.forget(j)
	<-j.room
	b.give(a, 400)
	if len(j.room) != 0 {
		t.Error("a job that has ended hears of room")
	}
}
