package plan

import (
	"slices"
	"time"
)

// Ask is one chunk asked of one peer: a request by its index, or a draw.
type Ask struct {
	Tag any // the driver's own

	Peer     *Peer
	Draw     bool
	Lo, Hi   int // of a draw: any chunk in [Lo, Hi)
	Chunk    int // of a draw -1 until it is granted
	Len      int // of the chunk, in bytes; of a draw that was not granted the most that it can be
	Priority Priority

	asked time.Time
}

// Outcome is what became of an Ask.
type Outcome uint8

const (
	Stored     Outcome = iota // the chunk has come and is stored
	Mismatched                // what came does not match the digest
	Unstorable                // what came could not be stored here
	NotHeld                   // the peer does not have the chunk, or not any more
	Spent                     // of a draw: the peer has given all that it has of it
	Withdrawn                 // this side gave it up
	Broken                    // anything else
)

// fill asks for whatever may be asked for.
func (j *Job) fill(now time.Time) {
	if len(j.claims) == 0 {
		return
	}
	for {
		r, ok := j.pick.Next()
		if !ok {
			return
		}
		if j.cfg.Budget.Ask(now, r.Source.peer.cand.host, r.Len, r.Priority, r.Draw) {
			j.ask(r, now)
			continue
		}
		if r.Draw {
			j.pick.Refused(r.Source)
		} else {
			j.pick.Release(r.Source, r.Chunk)
		}
		j.pick.Limit(r.Source, max(r.Priority+1, Demand)) // until there is room
		j.starved = true
	}
}

// Room notes that the budget may have room again: sources are asked that were limited for want of it.
func (j *Job) Room() {
	if !j.starved {
		return
	}
	j.idle, j.starved = false, false
	for _, p := range j.peers {
		if p.src != nil {
			j.pick.Limit(p.src, Unwanted)
		}
	}
}

// ask sends one request.
func (j *Job) ask(r Request, now time.Time) {
	p := r.Source.peer
	a := &Ask{Peer: p, Draw: r.Draw, Lo: r.Lo, Hi: r.Hi, Chunk: r.Chunk, Len: r.Len, Priority: r.Priority, asked: now}
	p.pace.Owe(now)
	j.pace.Owe(now)
	if r.Draw {
		a.Chunk = -1
		if len(p.asks)+len(p.draws) == 0 {
			p.alive(now)
		}
		p.draws = append(p.draws, a)
	} else {
		p.owes(a, now)
	}
	j.act(Action{Do: Send, Ask: a})
}

// owes notes that a peer owes the chunk of a request.
func (p *Peer) owes(a *Ask, now time.Time) {
	if len(p.asks) == 0 {
		p.alive(now)
	}
	p.asks = append(p.asks, a)
}

// Granted notes that a peer chose chunk c for a draw; it is on its way.
func (j *Job) Granted(now time.Time, a *Ask, c int) {
	j.idle = false
	a.Chunk, a.Len = c, j.len(c)
	p := a.Peer
	if !p.undrew(a) {
		return // it was given up
	}
	if j.pick.Granted(p.src, c) {
		p.owes(a, now)
		return
	}
	p.rest()
	j.act(Action{Do: Cancel, Ask: a})
}

// Ended notes that an Ask is over. took is the time from when it was sent until its chunk had come, whatever then
// became of that; 0 if it has not come.
func (j *Job) Ended(now time.Time, a *Ask, took time.Duration, what Outcome) {
	j.idle = false
	if a.Chunk < 0 {
		j.drewNothing(a, what, now)
		return
	}
	p := a.Peer
	current := slices.Contains(p.asks, a) // it was not given up
	if took > 0 {
		j.pace.Got(now, a.Len)
		j.received += int64(a.Len)
	}
	if current {
		if took > 0 {
			p.pace.Got(now, a.Len)
			p.pace.Took(took, a.Len, p.src.Owes(), p.pace.Rate(now, a.Len))
		}
		p.take(a.Chunk)
	}
	if what == Stored {
		p.cand.fails = 0
		j.arrived(a.Chunk, !p.near || p.src != nil && j.pick.Complete(p.src), now)
	}
	if current {
		j.pick.Release(p.src, a.Chunk) // if it failed, that is
		p.alive(now)
		j.setPace(p, now)
	}
	j.blame(a, what, current, now)
}

// blame draws the consequences of a failure. What happened to an Ask that was given up says nothing, unless the peer
// lied.
func (j *Job) blame(a *Ask, what Outcome, current bool, now time.Time) {
	switch {
	case what == Stored || what == Withdrawn:
	case what == Mismatched:
		j.drop(a.Peer, Lied, now)
		j.act(Action{Do: Shun, Peer: a.Peer})
	case !current:
	case what == Unstorable:
		j.fail(Faulty, now)
	case what == NotHeld:
		j.pick.Lost(a.Peer.src, a.Chunk)
	default:
		j.drop(a.Peer, Failed, now)
	}
}

// drewNothing draws the consequences of a draw that ended without a grant.
func (j *Job) drewNothing(a *Ask, what Outcome, now time.Time) {
	p := a.Peer
	if !p.undrew(a) {
		return // it was given up
	}
	p.rest()
	switch what {
	case Spent:
		j.pick.Spent(p.src, a.Lo, a.Hi)
	case Withdrawn, NotHeld: // it will choose another the next time
		j.pick.Refused(p.src)
	default:
		j.pick.Refused(p.src)
		j.drop(p, Failed, now)
	}
}

// undraw gives up the draws that wait at a peer for something below a priority.
func (j *Job) undraw(p *Peer, below Priority) {
	j.idle = false
	p.draws = slices.DeleteFunc(p.draws, func(a *Ask) bool {
		if a.Priority >= below {
			return false
		}
		j.pick.Refused(p.src)
		j.act(Action{Do: Cancel, Ask: a})
		return true
	})
	p.rest()
}

// undrew takes a draw off the peer's list; false if it is not on it.
func (p *Peer) undrew(a *Ask) bool {
	i := slices.Index(p.draws, a)
	if i >= 0 {
		p.draws = slices.Delete(p.draws, i, i+1)
	}
	return i >= 0
}

// take takes the request for chunk c off the peer's list; nil if there is none.
func (p *Peer) take(c int) *Ask {
	for i, a := range p.asks {
		if a.Chunk == c {
			p.asks = slices.Delete(p.asks, i, i+1)
			p.rest()
			return a
		}
	}
	return nil
}

// rest notes that the peer owes nothing more, if that is so.
func (p *Peer) rest() {
	if len(p.asks)+len(p.draws) == 0 {
		p.pace.Idle()
	}
}

// arrived notes that chunk c is on this host's disk. It is news to the others if it came from a seed, or first of all
// into this rack.
func (j *Job) arrived(c int, news bool, now time.Time) {
	for _, s := range j.pick.Done(c) {
		if a := s.peer.take(c); a != nil {
			j.act(Action{Do: Cancel, Ask: a})
		}
	}
	for _, claim := range slices.Clone(j.claims) {
		if claim.got(c) {
			j.finish(claim, Complete, now)
		}
	}
	if j.have.Has(c) {
		return
	}
	j.have.Set(c)
	if news {
		j.news = append(j.news, c)
	} else {
		j.old = append(j.old, c)
	}
}
