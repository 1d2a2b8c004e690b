package swarm

import (
	"math"
	"time"
)

const (
	// paceMemory is the time over which a source's rate is averaged: several chunks on a slow link, soon enough to see
	// that a fast one has become slow.
	paceMemory = 500 * time.Millisecond
	// queueTime is how much work beyond the round trip a source is kept supplied with. It must cover the time that this
	// host takes to store a chunk and to ask for the next; every bit more only makes decisions older.
	queueTime = 100 * time.Millisecond
	// silence is how long a source that has shown no rate may be silent before that is taken for its rate.
	silence = time.Second
)

// pace measures how fast a source delivers: an exponentially weighted average over the time in which it owes something, so
// that a pause of ours is no slowness of its. It reads no clock. Not safe for concurrent use.
type pace struct {
	rtt    time.Duration // shortest seen; without the queue that we make ourselves
	sum    float64       // weighted bytes a second
	weight float64       // of sum; below 1 while little was seen
	mark   time.Time     // until when it is counted; zero while nothing is owed
}

// owe notes that the source owes something from now on.
func (p *pace) owe(now time.Time) {
	if p.mark.IsZero() {
		p.mark = now
	}
}

// got notes n bytes that came in.
func (p *pace) got(now time.Time, n int) {
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

// idle notes that the source owes nothing more.
func (p *pace) idle() { p.mark = time.Time{} }

// rate returns bytes a second, 0 while nothing is known. A source whose next chunk of n bytes is overdue cannot be faster
// than one chunk in the time since its last.
func (p *pace) rate(now time.Time, n int) float64 {
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

// window returns how many bytes the source may owe at a time, for chunks of n bytes: what it delivers in a round trip and
// queueTime, at least two chunks so that it never waits for us, at most MaxPeerInFlight. A new source begins with two: the
// first of them shows its rate, and a seed that many come to at once is not asked for the same megabytes by all of them
// before they have met.
func (p *pace) window(rate float64, n int) int {
	return max(2*n, int(min(rate*(p.rtt+queueTime).Seconds(), MaxPeerInFlight)))
}
