package plan

import "time"

// throttleBurst is how many bytes may go at once after a pause.
const throttleBurst = 256 << 10

// Throttle keeps one direction of a host's traffic at a rate: a token bucket that may go below zero. It lets whole
// chunks go and then waits until they are paid for, so that who goes next is decided when the way is free. The zero
// Throttle has no bound.
type Throttle struct {
	rate   float64 // bytes a second; 0 is no bound
	tokens float64 // bytes that may go at once, at most throttleBurst; below zero: that must be paid for first
	at     time.Time
}

// Set changes the rate from now on, in bytes a second; 0 is no bound.
func (t *Throttle) Set(now time.Time, rate int64) {
	if t.rate == 0 {
		t.tokens, t.at = throttleBurst, now
	}
	t.settle(now)
	t.rate = float64(rate)
}

// Wait returns how long nothing may go; 0 if something may.
func (t *Throttle) Wait(now time.Time) time.Duration {
	if t.rate == 0 {
		return 0
	}
	t.settle(now)
	if t.tokens > 0 {
		return 0
	}
	return time.Duration((1-t.tokens)/t.rate*float64(time.Second)) + time.Microsecond
}

// spend notes that n bytes go.
func (t *Throttle) spend(now time.Time, n int) {
	if t.rate > 0 {
		t.settle(now)
		t.tokens -= float64(n)
	}
}

func (t *Throttle) settle(now time.Time) {
	if now.After(t.at) {
		t.tokens = min(t.tokens+t.rate*now.Sub(t.at).Seconds(), throttleBurst)
		t.at = now
	}
}
