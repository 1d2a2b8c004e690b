package plan

import (
	"math"
	"time"
)

const (
	// MaxWindow bounds the bytes that one source may owe: 10 Gbit/s over 13 ms.
	MaxWindow = 16 << 20

	// paceMemory is the time over which a source's rate is averaged: several chunks on a slow link, soon enough to see
	// that a fast one has become slow.
	paceMemory = 500 * time.Millisecond
	// queueTime is how long a chunk may wait at the source behind others of ours, beside a quarter of the time that it
	// takes without: what covers the hiccups of two hosts. Every bit more makes decisions older, and buffers colder:
	// between 100 ms and 2 ms, a gigabyte costs a quarter of its processor time.
	queueTime = 2 * time.Millisecond
	// firstWindow is how many chunks a source may owe at least, so that it never waits for us, and at first: a seed
	// that many come to at once is not asked for the same megabytes by all of them before they have met.
	firstWindow = 2
	// silence is how long a source that has shown no rate may be silent before that is taken for its rate.
	silence = time.Second
)

// Pace measures how fast a source delivers: an exponentially weighted average over the time in which it owes something,
// so that a pause of ours is no slowness of its. From that and from the time that a chunk takes it finds how much to
// ask for at a time: as much more with each chunk as long as nothing queues up (which doubles it every round trip), and
// what the source delivers in the time that a chunk should take as soon as something does. It reads no clock. Not safe
// for concurrent use.
type Pace struct {
	best   time.Duration // shortest time from a request to its chunk
	window int           // bytes that the source may owe; 0 until a chunk came
	sum    float64       // weighted bytes a second
	weight float64       // of sum; below 1 while little was seen
	mark   time.Time     // until when it is counted; zero while nothing is owed
}

// Owe notes that the source owes something from now on.
func (p *Pace) Owe(now time.Time) {
	if p.mark.IsZero() {
		p.mark = now
	}
}

// Got notes n bytes that came in.
func (p *Pace) Got(now time.Time, n int) {
	dt := 0.0
	if !p.mark.IsZero() {
		dt = max(0, now.Sub(p.mark).Seconds())
	}
	keep := math.Exp(-dt / paceMemory.Seconds())
	gain := float64(n) / paceMemory.Seconds() // the limit for dt to 0
	if dt > 0 {
		gain = float64(n) / dt * (1 - keep)
	}
	p.sum = p.sum*keep + gain
	p.weight = 1 - (1-p.weight)*keep
	p.mark = now
}

// Idle notes that the source owes nothing more.
func (p *Pace) Idle() { p.mark = time.Time{} }

// Rate returns bytes a second, 0 while nothing is known. A source whose next chunk of n bytes is overdue cannot be
// faster than one chunk in the time since its last.
func (p *Pace) Rate(now time.Time, n int) float64 {
	rate := 0.0
	if p.weight > 0 {
		rate = p.sum / p.weight
	}
	if p.mark.IsZero() {
		return rate
	}
	owed := now.Sub(p.mark)
	if rate == 0 && owed < silence {
		return 0
	}
	if most := float64(n) / max(owed.Seconds(), 1e-6); rate == 0 || most < rate {
		return most
	}
	return rate
}

// Took notes that a chunk of n bytes came so long after it was asked for, while the source owed that many bytes.
func (p *Pace) Took(d time.Duration, n, owed int, rate float64) {
	if p.best == 0 || d < p.best {
		p.best = d
	}
	target := p.best + p.best/4 + queueTime
	switch {
	case d > target:
		p.window = int(min(rate*target.Seconds(), MaxWindow))
	case owed+n > p.window: // it was used
		p.window = min(max(p.window, firstWindow*n)+n, MaxWindow)
	}
}

// Allowed returns how many bytes the source may owe, for chunks of n bytes.
func (p *Pace) Allowed(n int) int { return max(p.window, firstWindow*n) }
