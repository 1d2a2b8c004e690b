package swarm

import (
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/internal/wire"
)

// TestPaceFindsTheWindow drives a source of a given rate and round trip, in a clock of its own.
func TestPaceFindsTheWindow(t *testing.T) {
	const n = 256 << 10
	for _, tc := range []struct {
		name  string
		rate  float64 // bytes a second
		rtt   time.Duration
		least int // chunks that keep it busy
		most  int
	}{
		{"slow link", 1e6, time.Millisecond, 2, 2},
		{"gigabit", 125e6, 200 * time.Microsecond, 2, 4},
		{"ten gigabit far away", 1250e6, 10 * time.Millisecond, 47, 64},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var p pace
			now := time.Unix(1000, 0)
			each := time.Duration(n / tc.rate * 1e9)
			type sent struct{ asked, comes time.Time }
			var queue []sent
			free := now // when the source has sent what it owes
			for range 2000 {
				for len(queue)*n+n <= p.allowed(n) {
					p.owe(now)
					free = later(free, now.Add(tc.rtt/2)).Add(each)
					queue = append(queue, sent{now, free.Add(tc.rtt / 2)})
				}
				first := queue[0]
				queue = queue[1:]
				now = first.comes
				p.got(now, n)
				p.took(now.Sub(first.asked), n, (len(queue)+1)*n, p.rate(now, n))
			}
			if got := p.rate(now, n); got < tc.rate*0.9 || got > tc.rate*1.1 {
				t.Errorf("measured %.0f bytes/s of %.0f", got, tc.rate)
			}
			if got := p.allowed(n) / n; got < tc.least || got > tc.most {
				t.Errorf("may owe %d chunks, want %d to %d", got, tc.least, tc.most)
			}
		})
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// TestPaceOfTheSilent: a source that owes and sends nothing becomes slower by the second, and one that owes nothing does not.
func TestPaceOfTheSilent(t *testing.T) {
	var p pace
	now := time.Unix(1000, 0)
	if r := p.rate(now, 1000); r != 0 {
		t.Errorf("rate %v before anything is known", r)
	}
	p.owe(now)
	if r := p.rate(now.Add(silence/2), 1000); r != 0 {
		t.Errorf("rate %v of one that has not had its time", r)
	}
	if r := p.rate(now.Add(10*time.Second), 1000); r != 100 {
		t.Errorf("rate %v of one that sent not even 1000 bytes in 10 s", r)
	}
	for range 100 {
		now = now.Add(time.Millisecond)
		p.got(now, 1000)
	}
	if r := p.rate(now, 1000); r < 0.99e6 || r > 1.01e6 {
		t.Errorf("rate %v, want 1e6", r)
	}
	if r := p.rate(now.Add(time.Second), 1000); r != 1000 {
		t.Errorf("rate %v after a second of silence", r)
	}
	p.idle()
	if r := p.rate(now.Add(time.Second), 1000); r < 0.99e6 || r > 1.01e6 {
		t.Errorf("rate %v after a second in which it owed nothing", r)
	}
}

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
