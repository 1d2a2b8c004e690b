package sim

import (
	"slices"
	"time"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
	"github.com/virtswarm/virtswarm/internal/content"
)

// serve carries out what the server decides, until it has nothing more.
func (h *host) serve() {
	if h.dead {
		return
	}
	n := h.net
	for {
		actions := h.server.Act(n.time())
		if len(actions) == 0 {
			break
		}
		for _, a := range actions {
			if a.Do == plan.Announce {
				h.announce(a)
			} else {
				a.Session.Tag.(*end).serve(a)
			}
		}
	}
	if due := h.server.Due(); !due.IsZero() {
		if at := max(n.at(due), n.now); h.ringAt == 0 || at < h.ringAt {
			h.ringAt = at
			n.after(time.Duration(at-n.now), event{kind: rang, h: h})
		}
	}
	h.send()
}

// ring: the server is due.
func (h *host) ring(at int64) {
	if at == h.ringAt {
		h.ringAt = 0
		h.serve()
	}
}

func (e *end) serve(a plan.ServerAction) {
	h := e.host
	switch a.Do {
	case plan.Introduce:
		e.say(func(far *end) {
			if far.job != nil {
				far.host.record.step(Step{What: Met, Peer: e.host.self, Hosts: a.Hosts})
				far.host.job.Met(far.host.net.time(), a.Hosts...)
				far.host.act()
			}
		})
	case plan.Deliver:
		w := a.Pull.Tag.(*wish)
		w.left = h.net.spec.segments()
		h.active = append(h.active, w)
		if w.draw {
			w.chunk = a.Pull.Chunk
			e.post(event{kind: granted, w: w, arg: int32(w.chunk)})
		}
	case plan.Decline:
		w := a.Pull.Tag.(*wish)
		w.ended = true
		e.drop(w)
		e.post(event{kind: spent, w: w})
	case plan.Follow:
		e.hears = true
		e.listen(false)
	case plan.Unfollow:
		e.hears = false
		e.unlisten()
	}
}

// copy tells the server what is here.
func (h *host) copy(content.Digest) (plan.Copy, bool) {
	return plan.Copy{Size: h.net.spec.Size, Chunk: h.net.spec.Chunk, Have: h.have.Clone()}, true
}

// asked: a wish has come.
func (e *end) asked(w *wish) {
	h := e.host
	if e.gone || h.dead || !e.opened {
		return
	}
	w.pull = &plan.Pull{Tag: w, File: file, Draw: w.draw, First: w.lo, Count: w.hi - w.lo, Chunk: w.chunk, Priority: w.prio}
	if !w.draw {
		w.pull.Len = h.net.spec.len(w.chunk)
	}
	e.pulls = append(e.pulls, w)
	h.server.Push(h.net.time(), e.session, w.pull)
	h.serve()
}

// withdrawn: the other wants it no more.
func (e *end) withdrawn(w *wish) {
	if e.gone || e.host.dead || w.pull == nil {
		return
	}
	e.stop(w)
	e.host.serve()
}

// stop gives up a wish that waits or is being sent.
func (e *end) stop(w *wish) {
	if w.ended {
		return
	}
	if e.host.server.Withdraw(w.pull) {
		w.ended = true
		e.drop(w)
		return
	}
	e.host.finish(w, false)
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
		h.finish(w, true)
		h.serve()
		return
	}
	h.send()
}

// finish frees w's slot.
func (h *host) finish(w *wish, whole bool) {
	w.ended, w.left = true, 0
	if w.holder.current == w {
		w.holder.current = nil
	}
	h.active = slices.DeleteFunc(h.active, func(o *wish) bool { return o == w })
	w.holder.drop(w)
	h.server.Sent(w.pull, whole, false)
}
