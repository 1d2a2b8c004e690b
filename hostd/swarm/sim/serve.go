package main

import (
	"slices"
	"time"
)

// serve: a wish of this peer has come.
func (p *peer) serve(w *wish) {
	if p.gone || p.host.dead {
		return
	}
	w.ticket = p.host.uplink.Push(p.asker, w.prio, w.draw, w)
	p.host.pump()
}

// withdrawn: this peer wants it no more.
func (p *peer) withdrawn(w *wish) {
	h := p.host
	if p.gone || h.dead || w.ended || h.uplink.Cancel(w.ticket) {
		return
	}
	h.finish(w)
	if w.draw && w.chunk >= 0 && p.follower != nil {
		h.giver.Revoke(p.follower, w.chunk)
		h.uplink.Wake(func(*wish) bool { return true })
	}
	h.pump()
}

// Load implements plan.Granter.
func (h *host) Load(w *wish) int { return h.giver.Load(w.holder.follower) }

// Grant implements plan.Granter.
func (h *host) Grant(w *wish) bool {
	c, ok := h.giver.Grant(w.holder.follower, w.lo, w.hi)
	if !ok {
		h.refused = append(h.refused, w)
		return false
	}
	w.chunk = c
	return true
}

// pump gives free slots to whose turn it is.
func (h *host) pump() {
	if h.dead {
		return
	}
	n := h.net
	for {
		t := h.uplink.Next(n.time(), h)
		if t == nil {
			break
		}
		w := t.What
		w.left = n.spec.segments()
		h.active = append(h.active, w)
		if w.draw {
			w.holder.post(event{kind: granted, w: w, arg: w.chunk})
		}
	}
	for _, w := range h.refused {
		if !h.fetching() && h.uplink.Cancel(w.ticket) {
			w.ended = true
			w.holder.post(event{kind: spent, w: w})
		}
	}
	h.refused = h.refused[:0]
	if at, ok := h.uplink.Due(n.time()); ok && !h.lending {
		h.lending = true
		n.after(max(0, at.Sub(n.time())), event{kind: lend, h: h})
	}
	h.send()
}

// send gives the next segment to the uplink, if it is free.
func (h *host) send() {
	if h.sending || h.dead {
		return
	}
	for i, w := range h.active {
		if w.left == 0 || w.holder.flight >= window || w.holder.current != nil && w.holder.current != w {
			continue // a session sends its chunks one after another
		}
		w.holder.current = w
		w.left--
		w.holder.flight++
		h.sending = true
		// Its turn comes again after the others'.
		copy(h.active[i:], h.active[i+1:])
		h.active[len(h.active)-1] = w
		h.net.after(time.Duration(ns(float64(h.net.spec.segment())/h.up)), event{kind: sent, h: h, w: w})
		return
	}
}

// sent: a segment has left.
func (h *host) sent(w *wish) {
	h.sending = false
	if h.dead {
		return
	}
	h.out += int64(h.net.spec.segment())
	h.net.carry(w)
	if w.left == 0 && !w.ended {
		h.finish(w)
	}
	h.pump()
}

// finish frees w's slot.
func (h *host) finish(w *wish) {
	w.ended, w.left = true, 0
	if w.holder.current == w {
		w.holder.current = nil
	}
	h.active = slices.DeleteFunc(h.active, func(o *wish) bool { return o == w })
	h.uplink.Done(w.ticket)
}
