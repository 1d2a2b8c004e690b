package plan

import (
	"slices"
	"time"
)

const (
	// Slots is how many chunks a host sends at a time: one on its way, and one ready behind it, for receivers that are
	// busy.
	Slots = 4
	// LendTime is how long a slot may be held before it is lent to another.
	LendTime = 100 * time.Millisecond
)

// Uplink orders what many askers want of one host: who gets a slot next, that is, whose chunk is sent. Few slots make a
// chunk whole early, so that it can be passed on early; every one more is a decision made too soon.
//
// The order is: the higher priority; draws of the own rack, then requests, of the own rack and of others in turn, then
// draws of others; then askers in turn, of draws the least loaded first. (A request out of another rack brings a chunk
// to many; one alone among the many of the own rack it would come too late.) A slot that is held for long, because its
// receiver is slow, is lent to another asker.
//
// T is what the host knows a wish by.
type Uplink[T any] struct {
	slots   int
	lend    time.Duration
	askers  []*Asker[T]
	count   [Demand + 1][classes]int // tickets that wait and are not parked
	turns   uint64
	crossed [Demand + 1]bool // the last request served was of another rack
	busy    []*Ticket[T]     // being sent, the oldest first
}

// The classes of wishes of equal priority, the first goes first.
const (
	nearDraw = iota
	nearRequest
	farRequest
	farDraw
	classes
)

// Asker is somebody who wants things of this host.
type Asker[T any] struct {
	near    bool
	waiting [Demand + 1][classes][]*Ticket[T]
	parked  []*Ticket[T]
	served  [Demand + 1][classes]uint64 // when it had its last turn
	sending int
}

// Ticket is one wish that waits for a slot, or holds one.
type Ticket[T any] struct {
	What  T
	asker *Asker[T]
	prio  Priority
	class int
	state int
	since time.Time // of a slot
}

const (
	waiting = iota
	parked
	sending
	gone
)

// Granter decides of a draw when it has its turn; see Giver.
type Granter[T any] interface {
	// Load tells how much its asker was given and has not passed on.
	Load(draw T) int
	// Grant chooses a chunk for it; false if there is none now. The draw then waits aside until Wake.
	Grant(draw T) bool
}

// NewUplink makes an Uplink of that many slots, each of which is lent out again after lend.
func NewUplink[T any](slots int, lend time.Duration) *Uplink[T] {
	return &Uplink[T]{slots: slots, lend: lend}
}

// Join takes an asker. near says that it stands in this host's rack.
func (u *Uplink[T]) Join(near bool) *Asker[T] {
	a := &Asker[T]{near: near}
	u.askers = append(u.askers, a)
	return a
}

// Leave forgets an asker and all its tickets, those being sent too.
func (u *Uplink[T]) Leave(a *Asker[T]) {
	for prio := range a.waiting {
		for class, q := range a.waiting[prio] {
			u.count[prio][class] -= len(q)
			for _, t := range q {
				t.state = gone
			}
			a.waiting[prio][class] = nil
		}
	}
	for _, t := range a.parked {
		t.state = gone
	}
	a.parked = nil
	u.busy = slices.DeleteFunc(u.busy, func(t *Ticket[T]) bool {
		if t.asker == a {
			t.state = gone
		}
		return t.asker == a
	})
	u.askers = slices.DeleteFunc(u.askers, func(o *Asker[T]) bool { return o == a })
}

// Push lets a wish wait: a request, or a draw.
func (u *Uplink[T]) Push(a *Asker[T], prio Priority, draw bool, what T) *Ticket[T] {
	t := &Ticket[T]{What: what, asker: a, prio: prio, class: farRequest}
	switch {
	case draw && a.near:
		t.class = nearDraw
	case draw:
		t.class = farDraw
	case a.near:
		t.class = nearRequest
	}
	u.enqueue(t)
	return t
}

func (u *Uplink[T]) enqueue(t *Ticket[T]) {
	q := &t.asker.waiting[t.prio][t.class]
	*q = append(*q, t)
	t.state = waiting
	u.count[t.prio][t.class]++
}

// Cancel takes a wish back that still waits; false if it does not: it is being sent or over.
func (u *Uplink[T]) Cancel(t *Ticket[T]) bool {
	switch t.state {
	case waiting:
		u.dequeue(t)
	case parked:
		t.asker.parked = slices.DeleteFunc(t.asker.parked, func(o *Ticket[T]) bool { return o == t })
	default:
		return false
	}
	t.state = gone
	return true
}

func (u *Uplink[T]) dequeue(t *Ticket[T]) {
	q := &t.asker.waiting[t.prio][t.class]
	if i := slices.Index(*q, t); i >= 0 {
		*q = slices.Delete(*q, i, i+1)
		u.count[t.prio][t.class]--
	}
}

// Done frees the slot of a ticket that was sent, or whose sending ended otherwise.
func (u *Uplink[T]) Done(t *Ticket[T]) {
	if i := slices.Index(u.busy, t); i >= 0 {
		u.busy = slices.Delete(u.busy, i, i+1)
		t.state = gone
		t.asker.sending--
	}
}

// Wake lets the parked draws have their turn again for which is says yes: there is something new to grant.
func (u *Uplink[T]) Wake(is func(T) bool) {
	for _, a := range u.askers {
		a.parked = slices.DeleteFunc(a.parked, func(t *Ticket[T]) bool {
			if !is(t.What) {
				return false
			}
			u.enqueue(t)
			return true
		})
	}
}

// Next gives a slot to the ticket whose turn it is, and returns it; nil if no slot is free or nothing waits.
func (u *Uplink[T]) Next(now time.Time, g Granter[T]) *Ticket[T] {
	if u.inUse(now) >= u.slots {
		return nil
	}
	for prio := Demand; prio >= Repair; prio-- {
		order := [classes]int{nearDraw, nearRequest, farRequest, farDraw}
		if !u.crossed[prio] && u.crossing() < u.slots/2 {
			order[nearRequest], order[farRequest] = farRequest, nearRequest
		}
		for _, class := range order {
			if t := u.serve(now, g, prio, class); t != nil {
				return t
			}
		}
	}
	return nil
}

// crossing counts the slots that requests of other racks hold. While own ones wait it should not be more than half:
// what goes over a crowded trunk holds its slot for long.
func (u *Uplink[T]) crossing() (n int) {
	for _, t := range u.busy {
		if t.class == farRequest {
			n++
		}
	}
	return n
}

// serve gives a slot to a ticket of a kind. Draws for which there is nothing are parked.
func (u *Uplink[T]) serve(now time.Time, g Granter[T], prio Priority, class int) *Ticket[T] {
	for u.count[prio][class] > 0 {
		t := u.first(now, g, prio, class)
		if t == nil {
			return nil
		}
		u.dequeue(t)
		switch class {
		case nearDraw, farDraw:
			if !g.Grant(t.What) {
				t.state = parked
				t.asker.parked = append(t.asker.parked, t)
				continue
			}
		default:
			u.crossed[prio] = class == farRequest
		}
		u.turns++
		t.asker.served[prio][class] = u.turns
		t.state, t.since = sending, now
		t.asker.sending++
		u.busy = append(u.busy, t)
		return t
	}
	return nil
}

// first finds the ticket whose turn it is among those of a kind; an asker that has been slow to take what it is being
// sent has none.
func (u *Uplink[T]) first(now time.Time, g Granter[T], prio Priority, class int) (best *Ticket[T]) {
	load := 0
	for _, a := range u.askers {
		q := a.waiting[prio][class]
		if len(q) == 0 || a.sending > 0 && u.slow(a, now) {
			continue
		}
		l := 0
		if class == nearDraw || class == farDraw {
			l = g.Load(q[0].What)
		}
		if best == nil || l < load || l == load && a.served[prio][class] < best.asker.served[prio][class] {
			best, load = q[0], l
		}
	}
	return best
}

// slow says whether an asker holds a slot that has been lent.
func (u *Uplink[T]) slow(a *Asker[T], now time.Time) bool {
	for _, t := range u.busy {
		if t.asker == a && u.late(t, now) {
			return true
		}
	}
	return false
}

// inUse counts the slots that are held and not lent.
func (u *Uplink[T]) inUse(now time.Time) (n int) {
	for _, t := range u.busy {
		if !u.late(t, now) {
			n++
		}
	}
	return n
}

func (u *Uplink[T]) late(t *Ticket[T], now time.Time) bool { return now.Sub(t.since) >= u.lend }

// Due returns when a slot is lent, unless one becomes free before; false if none is held that has not been.
func (u *Uplink[T]) Due(now time.Time) (at time.Time, ok bool) {
	for _, t := range u.busy {
		if !u.late(t, now) {
			return t.since.Add(u.lend), true // the oldest first
		}
	}
	return time.Time{}, false
}
