package control

import (
	"sync"
	"time"
)

const (
	// pollEvery is how often a stream looks at what no event announces.
	pollEvery = 500 * time.Millisecond
	// paceEvery is how often a stream reports at most: what a person can read.
	paceEvery = 200 * time.Millisecond
	// paceSpan is the time over which a rate is taken.
	paceSpan = 2 * time.Second
)

// pace thins out progress and measures its rate. It is safe for concurrent use.
type pace struct {
	mu    sync.Mutex
	last  time.Time
	marks []mark // oldest first, within paceSpan
}

type mark struct {
	at   time.Time
	done int64
}

func newPace() *pace { return &pace{} }

// tick notes how much is done and calls report, with the rate in bytes a second, if it is time to. Calls of report do
// not overlap.
func (p *pace) tick(done int64, report func(rate float64)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if now.Sub(p.last) < paceEvery {
		return
	}
	p.last = now
	p.marks = append(p.marks, mark{now, done})
	for len(p.marks) > 2 && now.Sub(p.marks[0].at) > paceSpan {
		p.marks = p.marks[1:]
	}
	first := p.marks[0]
	rate := 0.0
	if span := now.Sub(first.at).Seconds(); span > 0 && done > first.done {
		rate = float64(done-first.done) / span
	}
	report(rate)
}
