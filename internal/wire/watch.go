package wire

import "time"

// watch keeps the session alive and ends it when the other side is not. What counts as life is a frame that is
// complete: one that comes byte by byte, each in time, does not. It wakes often enough to be late by a quarter at most.
func (s *Session) watch() {
	start := time.Now()
	period := min(s.o.KeepAlive, s.o.StallTimeout, helloTimeout) / 4
	tick := time.NewTicker(max(period, time.Millisecond))
	defer tick.Stop()
	in := progress{since: start}
	out := progress{since: start}
	for {
		select {
		case <-s.ending:
			return
		case <-tick.C:
		}
		now := time.Now()
		silent := in.still(s.framesIn.Load(), now)
		writes := s.out.writes.Load()
		stuck := out.still(writes, now)
		switch {
		case silent >= helloTimeout && !s.isReady():
			s.end(ErrStalled, CodeStalled, "no Hello came")
		case silent >= s.o.StallTimeout:
			s.end(ErrStalled, CodeStalled, "no whole frame came for "+s.o.StallTimeout.String())
		case stuck >= s.o.StallTimeout && writes%2 == 1:
			s.end(ErrStalled, CodeStalled, "no frame was taken for "+s.o.StallTimeout.String())
		case silent >= s.o.KeepAlive && s.isReady() && !s.pings.outstanding():
			s.ping()
		}
	}
}

func (s *Session) isReady() bool {
	select {
	case <-s.ready:
		return true
	default:
		return false
	}
}

// progress remembers when a counter last changed.
type progress struct {
	last  uint64
	since time.Time
}

// still returns for how long the counter has had this value.
func (p *progress) still(v uint64, now time.Time) time.Duration {
	if v != p.last {
		p.last, p.since = v, now
	}
	return now.Sub(p.since)
}
