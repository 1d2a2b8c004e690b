package swarm

import (
	"time"

	"golang.org/x/time/rate"
)

// throttleBurst is how many bytes may go at once after a pause.
const throttleBurst = 256 << 10

// throttle keeps one direction of this host's traffic at a rate. It lets whole chunks go and then waits until they are paid
// for, so that who goes next is decided when the way is free. It is safe for concurrent use.
type throttle struct{ limiter *rate.Limiter }

func newThrottle() *throttle { return &throttle{rate.NewLimiter(rate.Inf, throttleBurst)} }

// set changes the rate, in bytes a second; 0 is none.
func (t *throttle) set(bytes int64) {
	limit := rate.Inf
	if bytes > 0 {
		limit = rate.Limit(bytes)
	}
	t.limiter.SetLimit(limit)
}

// wait returns how long nothing may go; 0 if something may.
func (t *throttle) wait(now time.Time) time.Duration {
	limit := t.limiter.Limit()
	if limit == rate.Inf {
		return 0
	}
	owed := -t.limiter.TokensAt(now)
	if owed < 0 {
		return 0
	}
	return time.Duration((owed+1)/float64(limit)*float64(time.Second)) + time.Microsecond
}

// spend notes that n bytes go.
func (t *throttle) spend(now time.Time, n int) {
	for ; n > 0; n -= throttleBurst {
		t.limiter.ReserveN(now, min(n, throttleBurst)) // never more than the burst: it always succeeds
	}
}

// SetLimits bounds the rates at which this host sends and receives chunks, all peers together, in bytes a second; 0 is no
// bound. It may be called at any time. Within the bounds the higher priority goes first, and chunks that a reader waits for
// are received even beyond theirs: what they take, the others lack afterwards.
func (s *Swarm) SetLimits(up, down int64) {
	s.uplink.throttle.set(up)
	s.budget.throttle.set(down)
	s.uplink.mu.Lock()
	s.uplink.pump()
	s.uplink.mu.Unlock()
	s.budget.wake()
}
