package swarm

import (
	"context"
	"slices"
	"time"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
	"github.com/virtswarm/virtswarm/internal/content"
)

// give is a file of which peers draw here. It belongs to the uplink and is guarded by its lock.
type give struct {
	uplink  *uplink
	id      content.Digest
	m       *content.Manifest
	plan    *plan.Giver
	drawers map[*link]*drawer
	near    time.Time // when somebody in this rack drew
	held    []*wish   // draws of others, which wait until nobody does
}

// drawer is a peer that draws. This host follows the file there, to hear what it has.
type drawer struct {
	give *give
	link *link
	plan *plan.Follower
	stop context.CancelFunc // ends the following
}

// give returns the giver of a file, which begins with the first draw and ends with the last drawer; nil if the file is not
// known here. u.mu is held.
func (u *uplink) give(id content.Digest) *give {
	if g := u.gives[id]; g != nil {
		return g
	}
	f, ok := u.swarm.store.Get(id)
	if !ok {
		return nil
	}
	m := f.Manifest()
	g := &give{uplink: u, id: id, m: m, plan: plan.NewGiver(keyOf(u.swarm.self), m.Chunks()), drawers: map[*link]*drawer{}}
	have := f.Have()
	have.AndNot(m.Holes()) // which nobody lacks
	for i, ok := have.NextSet(0); ok; i, ok = have.NextSet(i + 1) {
		g.plan.Hold(i)
	}
	u.gives[id] = g
	return g
}

// holdTime is how long after a draw from this rack others are held back. Whoever draws here does so again within a round
// trip, and waits for no more than a few chunks.
const holdTime = 250 * time.Millisecond

// hold keeps a draw back which comes from another rack while hosts of this one draw: what they get, the other rack can have
// from any of them, once; what it gets first, this one must fetch back. It says whether it does.
func (g *give) hold(w *wish, now time.Time) bool {
	if w.link.near {
		g.near = now
		return false
	}
	if now.Sub(g.near) >= holdTime {
		return false
	}
	g.held = append(g.held, w)
	return true
}

func (g *give) unhold(w *wish) {
	g.held = slices.DeleteFunc(g.held, func(o *wish) bool { return o == w })
}

// release lets draws go on that need not be held back any more; u.mu is held.
func (u *uplink) release(now time.Time) {
	for _, g := range u.gives {
		if len(g.held) == 0 {
			continue
		}
		if till := g.near.Add(holdTime); now.Before(till) {
			u.wakeAt(till)
			continue
		}
		for _, w := range g.held {
			w.queue(u)
		}
		g.held = nil
	}
}

// drawer returns a peer that draws, and begins to follow the file there.
func (g *give) drawer(l *link) *drawer {
	d := g.drawers[l]
	if d != nil {
		return d
	}
	d = &drawer{give: g, link: l, plan: g.plan.Follow()}
	g.drawers[l] = d
	s := g.uplink.swarm
	ctx, cancel := context.WithCancel(s.ctx)
	d.stop = cancel
	if !s.enter() {
		return d
	}
	go func() {
		defer s.wg.Done()
		d.follow(ctx)
	}()
	return d
}

// follow hears what the drawer has until stop. If the drawer does not tell, it is taken to have what it was granted.
func (d *drawer) follow(ctx context.Context) {
	id := d.give.id
	have, _, err := d.link.listen(ctx, id, d.give.m.Chunks(), false)
	if err != nil {
		d.link.swarm.log.Debug("cannot follow a drawer", "file", id.Short(), "host", d.link.peer, "error", err)
		return
	}
	d.give.uplink.heard(d.link, id, indexes(have))
	<-ctx.Done()
	d.link.unlisten(id)
}

// revoke notes that chunk i, which was granted, did not get to the drawer; lost says that it is not here.
func (d *drawer) revoke(i int, lost bool) {
	if lost {
		d.give.plan.Drop(i)
	}
	d.give.plan.Revoke(d.plan, i)
}

// held notes that chunks of a file came here.
func (u *uplink) held(id content.Digest, chunks []int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	g := u.gives[id]
	if g == nil {
		return
	}
	for _, i := range chunks {
		g.plan.Hold(i)
	}
}

// heard notes that a peer has chunks of a file.
func (u *uplink) heard(l *link, id content.Digest, chunks []int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	g := u.gives[id]
	if g == nil {
		return
	}
	if d := g.drawers[l]; d != nil {
		for _, i := range chunks {
			g.plan.Has(d.plan, i)
		}
	}
}

// left forgets a drawer that has closed the file, or is gone. What it was granted and nobody has may be granted again.
func (u *uplink) left(l *link, id content.Digest) {
	u.mu.Lock()
	defer u.mu.Unlock()
	g := u.gives[id]
	if g == nil {
		return
	}
	d := g.drawers[l]
	if d == nil {
		return
	}
	d.stop()
	g.plan.Leave(d.plan)
	delete(g.drawers, l)
	if len(g.drawers) == 0 {
		delete(u.gives, id)
	}
}
