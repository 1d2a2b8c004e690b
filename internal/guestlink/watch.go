package guestlink

import (
	"time"
)

// tick is how often a session looks whether its link gets on.
const tick = time.Second

// watch gives up a link on which nothing comes, or nothing is taken, for StallTimeout. It counts its own ticks, of
// which a late one counts two at most: while this process stood still, nothing was to be expected of the other.
func (s *Session) watch() {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	last := time.Now()
	var heard, sent uint64
	var silent, stuck time.Duration
	for {
		select {
		case <-s.done:
			return
		case <-ticker.C:
		}
		now := time.Now()
		step := min(now.Sub(last), 2*tick)
		last = now
		if s.cfg.Paused != nil && s.cfg.Paused() {
			silent, stuck = 0, 0
			continue
		}
		s.clock.Add(int64(step))
		if n := s.carrier.heard.Load(); n != heard {
			heard, silent = n, 0
		} else {
			silent += step
		}
		if n := s.carrier.sent.Load(); n != sent || !s.carrier.writing.Load() {
			sent, stuck = n, 0
		} else {
			stuck += step
		}
		if silent >= StallTimeout || stuck >= StallTimeout || s.unclosed(step) {
			s.fail(ErrStalled)
			s.link.Close()
			return
		}
	}
}

// unclosed reports a stream that this side has closed long ago and the other has not: what it may still send would be
// held for nobody.
func (s *Session) unclosed(step time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.streams {
		if !e.out {
			continue
		}
		if e.closed += step; e.closed >= StallTimeout {
			return true
		}
	}
	return false
}

// beat shows the other side that this one lives.
func (s *Session) beat() {
	for {
		sent := s.carrier.sent.Load()
		select {
		case <-s.done:
			return
		case <-time.After(BeatEvery):
		}
		if s.carrier.beat(sent) != nil {
			s.link.Close()
			return
		}
	}
}
