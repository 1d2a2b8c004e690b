package shmring

import (
	"runtime/debug"
	"slices"
	"time"
)

// What the hub does for a listener: it takes calls, looks after the connections and moves the host's counter.

// look implements watched.
func (l *Listener) look(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over != nil || l.muted.Load() {
		return false
	}
	busy, err := l.inspect(now)
	if err != nil {
		l.lose(err)
	}
	return busy
}

func (l *Listener) inspect(now time.Time) (busy bool, err error) {
	defer l.m.guard(debug.SetPanicOnFault(true), &err)
	for i := range l.slots {
		s := &l.slots[i]
		if s.conn != nil && s.conn.vacant.Load() {
			s.conn = nil
		}
		if s.conn != nil {
			busy = s.conn.look(now) || busy
			l.drop(s.conn)
			continue // the next may call when this one is closed: no more than one connection a channel
		}
		g := s.call.Load()
		if g == 0 || g == s.seen {
			continue
		}
		busy = true
		if now.Sub(s.opened) >= callEvery {
			s.seen, s.opened = g, now
			l.answer(i, g)
		}
	}
	return busy, nil
}

// answer makes the connection that the guest asks for.
func (l *Listener) answer(channel int, generation uint64) {
	c := newConn(l.m, l.l, channel, true, generation, l.o)
	l.m.refs.Add(1)
	l.slots[channel].conn = c
	c.own.generation.Store(0)
	c.own.reset()
	c.own.generation.Store(generation)
	if l.o.Ring != nil {
		l.o.Ring() // Dial sleeps
	}
	l.pending = append(l.pending, c)
	l.announce()
}

// drop closes a connection that broke before anybody accepted it.
func (l *Listener) drop(c *Conn) {
	if !c.over.Load() {
		return
	}
	if i := slices.Index(l.pending, c); i >= 0 {
		l.pending = slices.Delete(l.pending, i, i+1)
		c.Close()
	}
}

// pulse implements watched.
func (l *Listener) pulse(step time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over != nil || l.muted.Load() {
		return
	}
	if err := l.throb(); err != nil {
		l.lose(err)
		return
	}
	for i := range l.slots {
		if c := l.slots[i].conn; c != nil {
			c.pulse(step)
		}
	}
}

// throb moves the host's counter. A header that is not as the host left it means that something has overwritten the
// region, as the memory of a guest that arrives by migration or from a snapshot does: it is formatted anew.
func (l *Listener) throb() (err error) {
	defer l.m.guard(debug.SetPanicOnFault(true), &err)
	word := l.m.word
	asLeft := word(offBeat).Load() == l.beat && word(offEpoch).Load() == l.epoch
	for _, w := range l.fixed() {
		asLeft = asLeft && word(w.off).Load() == w.value
	}
	if asLeft {
		l.beat++
		word(offBeat).Store(l.beat)
		return nil
	}
	if now := time.Now(); now.Sub(l.complaint) >= complainEvery {
		l.complaint = now
		l.o.Logger.Warn("region was overwritten, its connections end", "path", l.m.path)
	}
	for _, c := range l.conns() {
		c.fail(ErrGone)
		l.drop(c)
	}
	return l.format()
}

// lose gives the region up: its file is not what it was. The caller holds mu.
func (l *Listener) lose(err error) {
	l.over = err
	l.o.Logger.Error("region is lost", "path", l.m.path, "error", err)
	for _, c := range l.conns() {
		c.fail(err)
		l.drop(c)
	}
	close(l.done)
}

// called implements watched.
func (l *Listener) called() bool { return l.rang.Load() && l.rang.Swap(false) }
