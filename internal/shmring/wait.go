package shmring

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	pauses     = 8  // of the processor, between two looks while spinning
	looks      = 16 // between two looks at the clock
	leastSpin  = 10 * time.Microsecond
	relearn    = 8  // one wait in so many spins as long as it may, to learn if that helps again
	yieldAfter = 64 // looks, where another processor may run whom we wait for
)

// A side of a connection waits for one thing: the reading side for a new position of the peer's writer, the writing
// side for one of its reader.
type side struct {
	mu   sync.Mutex // held by the one Read or Write at work, also while it waits
	bell chan struct{}

	watch  *atomic.Uint64 // the peer's position
	flag   uint64         // what the peer says when the position will not change any more
	asleep *atomic.Uint64 // own word: odd while asleep, another number each time
	naps   uint64         // what asleep holds
	rung   uint64         // what the peer's asleep was when the bell was rung for it

	sleeping atomic.Bool   // the hub is to look
	seen     atomic.Uint64 // while sleeping: the position that is known

	deadline deadline
	ended    atomic.Bool // writing side: CloseWrite

	spinMax time.Duration // negative: none
	spinNow time.Duration // as long as has paid lately
	waits   uint
}

func (s *side) ring() {
	select {
	case s.bell <- struct{}{}:
	default:
	}
}

// stirred says whether a wait is over; the waiter finds out why.
func (s *side) stirred(c *Conn, seen uint64) bool {
	return s.watch.Load() != seen || c.over.Load() || s.deadline.passed.Load() || s.ended.Load() ||
		c.peer.flags.Load()&s.flag != 0
}

// wait returns when the peer's position is not seen any more, or something else has happened. The caller holds mu.
func (s *side) wait(c *Conn, seen uint64) {
	if s.spinMax > 0 && s.spin(c, seen) {
		return
	}
	s.seen.Store(seen)
	s.sleeping.Store(true)
	s.naps++
	s.asleep.Store(s.naps) // before the last look: the peer looks at it after it has published
	theHub.stir()
	for !s.stirred(c, seen) {
		<-s.bell
	}
	s.naps++
	s.asleep.Store(s.naps)
	s.sleeping.Store(false)
}

// spin waits for a while without sleeping. It spins longer next time if that helped, less if it did not.
func (s *side) spin(c *Conn, seen uint64) bool {
	if s.waits++; s.waits%relearn == 1 {
		s.spinNow = s.spinMax
	}
	alone := runtime.GOMAXPROCS(0) == 1
	start := time.Now()
	for i := 1; ; i++ {
		if s.stirred(c, seen) {
			s.spinNow = min(2*s.spinNow, s.spinMax)
			return true
		}
		if alone || i%yieldAfter == 0 {
			runtime.Gosched()
		} else {
			pause(pauses)
		}
		if i%looks != 0 {
			continue
		}
		spent := time.Since(start)
		if spent >= s.spinNow {
			s.spinNow = max(s.spinNow/2, min(leastSpin, s.spinMax))
			return false
		}
		if spent > leastSpin { // the peer may wait for this very processor
			unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		}
	}
}

// A deadline of one side.
type deadline struct {
	passed atomic.Bool
	mu     sync.Mutex
	timer  *time.Timer
}

// set moves the deadline to t, the zero time being never. ring is called when it passes.
func (d *deadline) set(t time.Time, ring func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	left := time.Until(t)
	if t.IsZero() || left > 0 {
		d.passed.Store(false)
	} else {
		d.passed.Store(true)
		ring()
	}
	if t.IsZero() || left <= 0 {
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(left, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.timer == timer { // not replaced meanwhile
			d.passed.Store(true)
			ring()
		}
	})
	d.timer = timer
}
