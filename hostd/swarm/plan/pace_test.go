package plan

import (
	"testing"
	"time"
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
			var p Pace
			now := time.Unix(1000, 0)
			each := time.Duration(n / tc.rate * 1e9)
			type sent struct{ asked, comes time.Time }
			var queue []sent
			free := now // when the source has sent what it owes
			for range 2000 {
				for len(queue)*n+n <= p.Allowed(n) {
					p.Owe(now)
					free = later(free, now.Add(tc.rtt/2)).Add(each)
					queue = append(queue, sent{now, free.Add(tc.rtt / 2)})
				}
				first := queue[0]
				queue = queue[1:]
				now = first.comes
				p.Got(now, n)
				p.Took(now.Sub(first.asked), n, (len(queue)+1)*n, p.Rate(now, n))
			}
			if got := p.Rate(now, n); got < tc.rate*0.9 || got > tc.rate*1.1 {
				t.Errorf("measured %.0f bytes/s of %.0f", got, tc.rate)
			}
			if got := p.Allowed(n) / n; got < tc.least || got > tc.most {
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

// TestPaceOfTheSilent: a source that owes and sends nothing becomes slower by the second, and one that owes nothing
// does not.
func TestPaceOfTheSilent(t *testing.T) {
	var p Pace
	now := time.Unix(1000, 0)
	if r := p.Rate(now, 1000); r != 0 {
		t.Errorf("rate %v before anything is known", r)
	}
	p.Owe(now)
	if r := p.Rate(now.Add(silence/2), 1000); r != 0 {
		t.Errorf("rate %v of one that has not had its time", r)
	}
	if r := p.Rate(now.Add(10*time.Second), 1000); r != 100 {
		t.Errorf("rate %v of one that sent not even 1000 bytes in 10 s", r)
	}
	for range 100 {
		now = now.Add(time.Millisecond)
		p.Got(now, 1000)
	}
	if r := p.Rate(now, 1000); r < 0.99e6 || r > 1.01e6 {
		t.Errorf("rate %v, want 1e6", r)
	}
	if r := p.Rate(now.Add(time.Second), 1000); r != 1000 {
		t.Errorf("rate %v after a second of silence", r)
	}
	p.Idle()
	if r := p.Rate(now.Add(time.Second), 1000); r < 0.99e6 || r > 1.01e6 {
		t.Errorf("rate %v after a second in which it owed nothing", r)
	}
}
