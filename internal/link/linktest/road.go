package linktest

import (
	"context"
	"sync"
	"time"
)

// A road is one direction between two hosts of a Fabric. What is on it arrives in order.
type road struct {
	mu      sync.Mutex
	cut     bool
	delay   time.Duration
	rate    int       // bytes a second, 0: any number
	free    time.Time // when what was sent before is through, if there is a rate
	changed chan struct{}
}

// change sets what is wrong with the road, and wakes who waits at it.
func (r *road) change(set func(*road)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	set(r)
	close(r.changed)
	r.changed = make(chan struct{})
}

// open says whether anything gets through.
func (r *road) open() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.cut
}

// send says when n bytes that are sent now will arrive.
func (r *road) send(n int) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := time.Now()
	if r.rate > 0 {
		if r.free.Before(at) {
			r.free = at
		}
		r.free = r.free.Add(time.Duration(n) * time.Second / time.Duration(r.rate))
		at = r.free
	}
	return at.Add(r.delay)
}

// pass waits as long as a few bytes need for the road, or until ctx ends.
func (r *road) pass(ctx context.Context) error {
	for {
		r.mu.Lock()
		cut, delay, changed := r.cut, r.delay, r.changed
		r.mu.Unlock()
		if !cut && delay == 0 {
			return nil
		}
		var through <-chan time.Time
		if !cut {
			timer := time.NewTimer(delay)
			defer timer.Stop()
			through = timer.C
		}
		select {
		case <-through:
			return nil
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// A mark says when bytes of a stream arrive.
type mark struct {
	bytes int
	at    time.Time
}

// sent notes that n more bytes are on the road; 0 are the end of the stream. The caller holds mu.
func (s *stream) sent(n int) {
	if s.road == nil {
		return
	}
	at := s.road.send(n)
	if last := len(s.marks) - 1; last >= 0 {
		if before := s.marks[last].at; before.After(at) {
			at = before
		}
		if s.marks[last].at.Equal(at) {
			s.marks[last].bytes += n
			return
		}
	}
	if last := len(s.marks); last == 0 && !at.After(time.Now()) {
		s.arrived += n
		return
	}
	s.marks = append(s.marks, mark{n, at})
}

// ready returns how many bytes the reader may have, and whether all that was ever sent has arrived. If there is more
// to come, the reader is woken in time. The caller holds mu.
func (s *stream) ready() (n int, all bool) {
	switch {
	case s.road == nil:
		return s.length, true
	case s.mute || !s.road.open():
		return 0, false
	}
	now := time.Now()
	for len(s.marks) > 0 && !s.marks[0].at.After(now) {
		s.arrived += s.marks[0].bytes
		s.marks = s.marks[1:]
	}
	if len(s.marks) > 0 && !s.alarmAt.Equal(s.marks[0].at) {
		if s.alarm != nil {
			s.alarm.Stop()
		}
		s.alarmAt = s.marks[0].at
		s.alarm = time.AfterFunc(s.alarmAt.Sub(now), s.wake)
	}
	return s.arrived, len(s.marks) == 0
}

// on puts a stream on a road.
func (s *stream) on(r *road) { s.road, s.limit = r, roadBuffer }

// wake has the reader and the writer look again.
func (s *stream) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed.Broadcast()
}

// snap breaks the stream for both sides at once.
func (s *stream) snap() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken, s.mute = true, false
	s.changed.Broadcast()
}

// reset ends a connection as the kernel does for a process that was killed.
func (p *pipeEnd) reset() {
	p.in.closeRead()
	p.out.closeWrite(true)
}

// vanish ends a connection for this end alone: the other end hears nothing.
func (p *pipeEnd) vanish() {
	p.in.lose(func(s *stream) { s.readClosed = true })
	p.out.lose(func(s *stream) { s.writeClosed = true })
}

// lose closes one end of a stream without a word to the other.
func (s *stream) lose(close func(*stream)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s)
	s.mute = true
	s.changed.Broadcast()
}
