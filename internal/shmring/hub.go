package shmring

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	coarseTick = 10 * time.Millisecond // between two looks when nothing has happened for long
	delay      = 8                     // in between, of the time that nothing has happened one in so many parts
	share      = 10                    // looking takes no more than one in so many parts of the time
	beatEvery  = 20 * time.Millisecond // counters move, and are compared
	// longestStep is what a tick counts at most when silence is measured: more time means that this process did not run.
	longestStep = 2 * beatEvery
)

// fineTick is between two looks while something happens: some 200 µs, but not the same in two processes. Ticks in step
// would let a reader and a writer always wake when the other has just begun to sleep.
var fineTick = 160*time.Microsecond + rand.N(80*time.Microsecond)

// Somebody who is watched: a Listener with its connections, or a connection of a guest.
type watched interface {
	// look wakes who can go on, and reports whether anything happened. It must not block.
	look(now time.Time) bool
	// pulse moves own counters and looks at those of the peers, step after the last time.
	pulse(step time.Duration)
	// called says, once, that a bell rang.
	called() bool
}

// A hub watches all regions of the process from one goroutine with one timer. It has none while it has no region.
type hub struct {
	mu      sync.Mutex // held while it looks: who has been removed is not looked at any more
	all     []watched
	timer   *timer // nil: no goroutine
	coarse  atomic.Bool
	wakened atomic.Bool // stir was called
	alarm   alarm
}

var theHub hub

// An alarm is the way to the hub's timer for those who must not wait for mu.
type alarm struct {
	mu    sync.Mutex
	timer *timer
}

func (a *alarm) set(t *timer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.timer = t
}

// ring makes it tick finely, and at once if that is asked for.
func (a *alarm) ring(now bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.timer != nil {
		a.timer.set(fineTick, now)
	}
}

// add lets w be looked at from now on.
func (h *hub) add(w watched) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.timer == nil {
		t, err := newTimer()
		if err != nil {
			return err
		}
		h.timer = t
		h.alarm.set(t)
		go h.run(t)
	}
	h.all = append(h.all, w)
	h.wakened.Store(true)
	h.coarse.Store(false)
	h.timer.set(fineTick, true)
	return nil
}

// remove returns when w is not looked at any more.
func (h *hub) remove(w watched) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if i := slices.Index(h.all, w); i >= 0 {
		h.all = slices.Delete(h.all, i, i+1)
	}
	if len(h.all) == 0 && h.timer != nil {
		h.timer.set(fineTick, true) // to end
	}
}

// stir makes a hub that looks rarely look often: somebody begins to wait.
func (h *hub) stir() {
	if h.coarse.Load() && h.coarse.CompareAndSwap(true, false) {
		h.wakened.Store(true)
		h.alarm.ring(false)
	}
}

func (h *hub) run(t *timer) {
	p := pacer{timer: t, period: fineTick, last: time.Now()}
	p.lastBeat, p.lastBusy = p.last, p.last
	for {
		t.wait()
		h.mu.Lock()
		if len(h.all) == 0 {
			h.timer = nil
			h.alarm.set(nil)
			t.close()
			h.mu.Unlock()
			return
		}
		h.pass(&p)
		h.mu.Unlock()
	}
}

// A pacer decides how often the hub looks.
type pacer struct {
	timer                    *timer
	period                   time.Duration
	last, lastBeat, lastBusy time.Time
}

func (h *hub) pass(p *pacer) {
	now := time.Now()
	stirred := h.wakened.Swap(false)
	if now.Sub(p.last) < p.period/2 && !stirred { // a bell, not the time
		for _, w := range h.all {
			if w.called() {
				w.look(now)
			}
		}
		if p.period != fineTick {
			p.timer.set(p.period, false)
		}
		return
	}
	busy := stirred
	for _, w := range h.all {
		w.called()
		busy = w.look(now) || busy
	}
	if step := now.Sub(p.lastBeat); step >= beatEvery {
		p.lastBeat = now
		for _, w := range h.all {
			w.pulse(min(step, longestStep))
		}
	}
	p.last = now
	if busy {
		p.lastBusy = now
	}
	h.pace(p, time.Since(now), stirred)
}

// pace sets when to look next. Whoever waits for something waits longer by no more than the delay's part, and a look
// costs tens of microseconds of a process that does nothing else.
func (h *hub) pace(p *pacer, cost time.Duration, stirred bool) {
	period := max(fineTick, min(p.last.Sub(p.lastBusy)/delay, coarseTick), share*cost)
	h.coarse.Store(period > 2*fineTick)
	if stirred || period < p.period || period > p.period+p.period/4 || period == coarseTick && p.period != period {
		p.period = period
		p.timer.set(period, false)
	}
}

// A timer ticks more finely than those of the Go runtime, which wait in whole milliseconds when a process sleeps.
type timer struct {
	f  *os.File
	fd int
}

func newTimer() (*timer, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make timer: %w", err)
	}
	return &timer{f: os.NewFile(uintptr(fd), "timer"), fd: fd}, nil
}

// set makes it tick every period, the first time after one, or now.
func (t *timer) set(period time.Duration, now bool) {
	first := period
	if now {
		first = 1
	}
	unix.TimerfdSettime(t.fd, 0, &unix.ItimerSpec{
		Interval: unix.NsecToTimespec(int64(period)),
		Value:    unix.NsecToTimespec(int64(first)),
	}, nil)
}

// wait returns at the next tick, at once if one has passed.
func (t *timer) wait() {
	var ticks [8]byte
	t.f.Read(ticks[:])
}

func (t *timer) close() { t.f.Close() }
