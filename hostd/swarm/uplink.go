package swarm

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/wire"
)

// uplink sends what peers want of this host, in the order that plan.Uplink decides, a few chunks at a time. For draws it keeps
// a giver of each file (see give.go). It is safe for concurrent use and never waits for a peer or the disk: each chunk on
// its way has a goroutine.
type uplink struct {
	swarm    *Swarm
	throttle *throttle

	mu      sync.Mutex
	plan    *plan.Uplink[*wish]
	waiting map[*wire.Pull]*wish
	gives   map[content.Digest]*give
	vain    []*wish       // draws whose turn has come while nothing was fresh
	granted map[*link]int // draws of a session that were granted and are on their way
	sending int           // bytes on their way
	alarm   *time.Timer
	due     time.Time // when it rings; zero if it does not
}

// wish is a chunk that a peer wants.
type wish struct {
	link   *link
	pull   *wire.Pull
	ticket *plan.Ticket[*wish]
	drawer *drawer // of a draw
	index  int     // the chunk; of a draw, once it is granted
	len    int     // its length, likewise
}

func newUplink(s *Swarm) *uplink {
	u := &uplink{swarm: s, throttle: newThrottle(), waiting: map[*wire.Pull]*wish{}, gives: map[content.Digest]*give{}, granted: map[*link]int{},
		plan: plan.NewUplink[*wish](plan.Slots, plan.LendTime)}
	u.alarm = time.AfterFunc(time.Hour, u.ring)
	u.alarm.Stop()
	return u
}

// join makes a session one that may ask, until leave.
func (u *uplink) join(l *link) {
	u.mu.Lock()
	defer u.mu.Unlock()
	l.asker = u.plan.Join(l.near)
}

func (u *uplink) leave(l *link) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.plan.Leave(l.asker)
	u.vain = slices.DeleteFunc(u.vain, func(w *wish) bool { return w.link == l })
	u.pump()
}

// push lets a pull wait for its turn.
func (u *uplink) push(l *link, p *wire.Pull) {
	u.mu.Lock()
	defer u.mu.Unlock()
	w := &wish{link: l, pull: p, index: p.First, len: p.Length}
	if p.Drawn {
		g := u.give(p.File)
		if g == nil {
			p.Reject(wire.ErrNotFound)
			return
		}
		w.drawer = g.drawer(l)
	}
	u.waiting[p] = w
	if w.drawer == nil || !w.drawer.give.hold(w, time.Now()) {
		w.queue(u)
	}
	u.pump()
}

// queue lets a wish wait for its turn; u.mu is held.
func (w *wish) queue(u *uplink) {
	w.ticket = u.plan.Push(w.link.asker, Priority(w.pull.Priority), w.pull.Drawn, w)
}

// withdraw forgets a pull that its peer does not want any more.
func (u *uplink) withdraw(p *wire.Pull) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if w := u.waiting[p]; w != nil {
		if w.ticket != nil {
			u.plan.Cancel(w.ticket)
		} else {
			w.drawer.give.unhold(w)
		}
		u.vain = slices.DeleteFunc(u.vain, func(o *wish) bool { return o == w })
		delete(u.waiting, p)
	}
}

// waits returns how many wishes of a session wait.
func (u *uplink) waits() map[*link]int {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := map[*link]int{}
	for _, w := range u.waiting {
		n[w.link]++
	}
	return n
}

// pump begins to send whatever may be sent now; u.mu is held. It is called after everything that may change that.
func (u *uplink) pump() {
	now := time.Now()
	u.release(now)
	for u.sending < MaxServing {
		if wait := u.throttle.wait(now); wait > 0 && len(u.waiting) > 0 {
			u.wakeAt(now.Add(wait))
			break
		}
		t := u.plan.Next(now, u)
		if t == nil {
			break
		}
		w := t.What
		delete(u.waiting, w.pull)
		if !u.swarm.enter() {
			u.plan.Done(t)
			continue // its session is about to end
		}
		u.throttle.spend(now, w.len)
		u.sending += w.len
		if w.drawer != nil {
			u.granted[w.link]++
		}
		go u.send(w)
	}
	u.refuse()
	if at, ok := u.plan.Due(now); ok && len(u.waiting) > 0 {
		u.wakeAt(at)
	}
}

// refuse answers the draws whose turn came in vain. They do not wait here: they would take the place of what their peer may
// ask for by name. It draws again when this host has announced more. But they wait for what their peer was granted and has
// not heard of yet: it would ask for that by name, and get it twice. u.mu is held.
func (u *uplink) refuse() {
	u.vain = slices.DeleteFunc(u.vain, func(w *wish) bool {
		if u.granted[w.link] > 0 {
			return false
		}
		u.plan.Cancel(w.ticket)
		delete(u.waiting, w.pull)
		w.pull.Reject(wire.ErrSpent)
		return true
	})
}

// send carries a wish out.
func (u *uplink) send(w *wish) {
	defer u.swarm.wg.Done()
	err := w.pull.Send(w.index, w.len, func(buf []byte) ([]byte, error) { return w.link.read(w, buf) })
	u.mu.Lock()
	defer u.mu.Unlock()
	u.plan.Done(w.ticket)
	u.sending -= w.len
	if w.drawer != nil {
		if u.granted[w.link]--; u.granted[w.link] == 0 {
			delete(u.granted, w.link)
		}
	}
	if err != nil && w.drawer != nil {
		w.drawer.revoke(w.index, errors.Is(err, wire.ErrNotHeld))
	}
	u.pump()
}

// wakeAt makes pump run at a time, or before; u.mu is held.
func (u *uplink) wakeAt(at time.Time) {
	if u.due.IsZero() || at.Before(u.due) {
		u.due = at
		u.alarm.Reset(max(time.Until(at), 0))
	}
}

func (u *uplink) ring() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.due = time.Time{}
	u.pump()
}

// Load implements plan.Granter.
func (u *uplink) Load(w *wish) int { return w.drawer.give.plan.Load(w.drawer.plan) }

// Grant implements plan.Granter.
func (u *uplink) Grant(w *wish) bool {
	g := w.drawer.give
	c, ok := g.plan.Grant(w.drawer.plan, w.pull.First, w.pull.First+w.pull.Count)
	if !ok {
		u.vain = append(u.vain, w)
		return false
	}
	w.index, w.len = c, g.m.ChunkLen(c)
	return true
}
