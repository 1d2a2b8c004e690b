package shmring

import (
	"runtime/debug"
	"time"
)

// What the hub does for a connection. The mapping is there: a guest's connection leaves the hub before it leaves the
// mapping, and a host's listener holds the mapping for all of its connections.

// look implements watched.
func (c *Conn) look(time.Time) bool {
	if c.over.Load() || c.muted.Load() {
		return false
	}
	busy, err := c.inspect()
	if err != nil {
		c.fail(err)
	}
	return busy
}

// inspect wakes the sides whose waiting is over.
func (c *Conn) inspect() (busy bool, err error) {
	defer c.m.guard(debug.SetPanicOnFault(true), &err)
	if !c.host && !c.answered.Load() {
		return true, c.hear()
	}
	if !c.current() {
		return true, ErrGone
	}
	for _, s := range []*side{&c.in.side, &c.out.side} {
		if s.sleeping.Load() && s.stirred(c, s.seen.Load()) {
			s.ring()
			busy = true
		}
	}
	if c.moved.Load() {
		c.moved.Store(false)
		busy = true
	}
	return busy, nil
}

// hear tells Dial of what the host says.
func (c *Conn) hear() error {
	if c.epochWord.Load() != c.epoch {
		return ErrGone
	}
	if c.peer.generation.Load() == c.generation {
		c.answered.Store(true)
		c.in.side.ring()
	}
	return nil
}

// pulse implements watched.
func (c *Conn) pulse(step time.Duration) {
	if c.over.Load() || c.muted.Load() {
		return
	}
	if err := c.compare(step); err != nil {
		c.fail(err)
	}
}

// compare finds out if the peer lives. A peer that has closed need not: what it left behind can be read.
func (c *Conn) compare(step time.Duration) (err error) {
	defer c.m.guard(debug.SetPanicOnFault(true), &err)
	word := c.peer.beat
	if !c.host {
		c.beat++
		c.own.beat.Store(c.beat)
		word = c.m.word(offBeat)
	}
	if beat := word.Load(); beat != c.heard {
		c.heard, c.silence = beat, 0
		return nil
	}
	if c.peer.flags.Load()&flagClosed != 0 && (c.host || c.answered.Load()) {
		return nil
	}
	if c.o.Paused != nil && c.o.Paused() {
		c.silence = 0
		return nil
	}
	if c.silence += step; c.silence > c.o.Timeout {
		return ErrGone
	}
	return nil
}

// called implements watched: a bell of a connection wakes its sides without the hub.
func (c *Conn) called() bool { return false }
