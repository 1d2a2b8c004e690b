package sim

import (
	"slices"
	"time"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
)

// act carries out what the job decides, until it has nothing more.
func (h *host) act() {
	for !h.dead {
		actions := h.job.Act(h.net.time())
		if len(actions) == 0 {
			return
		}
		for _, a := range actions {
			h.do(a)
		}
	}
}

func (h *host) do(a plan.Action) {
	n := h.net
	h.record.did(a)
	switch a.Do {
	case plan.Look:
		h.job.Listed(n.time(), n.seeds)
	case plan.Connect:
		h.connect(a.Peer, a.Mutual)
	case plan.Part:
		h.part(a.Peer)
	case plan.Send:
		h.request(a.Ask)
	case plan.Cancel:
		h.cancel(a.Ask.Tag.(*wish))
	case plan.Probe:
		h.probe(a.Peer)
	case plan.Shun:
		for _, l := range h.sessions.Shun(n.time(), a.Peer.Host()) {
			endOf(l).hangUp()
		}
	case plan.Tell:
		h.log = append(h.log, a.Chunks...)
		h.server.Hold(file, a.Chunks, a.Soon)
		h.serve()
	case plan.Crowd:
		h.server.Crowd(file, a.Full)
	case plan.Finish:
		h.ended = n.now
		n.left--
	}
}

// schedule calls the job when it is due.
func (h *host) schedule() {
	h.tickAt = h.net.at(h.job.Due())
	h.net.after(time.Duration(max(h.tickAt-h.net.now, 0)), event{kind: ticked, h: h})
}

// tick: the job is due.
func (h *host) tick() {
	if h.dead {
		return
	}
	for _, p := range h.job.Peers() {
		if e, ok := p.Tag.(*end); ok {
			p.Vital(e.received, 0)
		}
	}
	h.job.Tick(h.net.time())
	h.act()
	if !h.job.Over(h.net.time()) {
		h.schedule()
		return
	}
	h.server.Fetch(file, false)
	h.job.Close(h.net.time())
	h.act()
}

// connect gets a session with a peer and opens the file there.
func (h *host) connect(p *plan.Peer, mutual bool) {
	h.hold(p.Host(), mutual, func(e *end) {
		_, over := p.Tag.(parted)
		switch {
		case e == nil:
			h.record.step(Step{What: Ended, Peer: p.Host()})
			h.job.Refused(h.net.time(), p)
			h.act()
		case over:
			h.sessions.Release(h.net.time(), e.link)
		default:
			p.Tag, e.job = e, p
			e.listen(true)
		}
	})
}

// parted is the tag of a peer that the job has parted with.
type parted struct{}

// part closes the file at a peer.
func (h *host) part(p *plan.Peer) {
	e, ok := p.Tag.(*end)
	p.Tag = parted{}
	if ok {
		e.job = nil
		h.sessions.Release(h.net.time(), e.link)
		e.unlisten()
	}
}

// refused: a peer does not answer, or not any more.
func (e *end) refused(p *plan.Peer) {
	if h := e.host; p != nil && e.job == p && !h.dead {
		h.record.step(Step{What: Ended, Peer: p.Host()})
		h.job.Refused(h.net.time(), p)
		h.act()
	}
}

// probe asks a peer for a sign of life.
func (h *host) probe(p *plan.Peer) {
	e := p.Tag.(*end)
	answer := func(alive bool) {
		if !h.dead {
			h.job.Alive(h.net.time(), p, alive)
			h.act()
		}
	}
	if e.far.host.dead {
		h.net.call(plan.StallTime, func() { answer(false) })
		return
	}
	e.say(func(far *end) { far.say(func(*end) { answer(true) }) })
}

// wish is a request or a draw.
type wish struct {
	ask             *plan.Ask
	fetcher, holder *end
	pull            *plan.Pull
	lo, hi          int
	draw            bool
	chunk           int // -1 = a draw not granted
	prio            plan.Priority
	len             int   // bytes of the budget that it holds
	since           int64 // asked
	over            bool  // the fetcher does not want it any more

	left  int // segments to send
	got   int // segments arrived
	ended bool
}

// request asks a peer for a chunk, or for one of its choice.
func (h *host) request(a *plan.Ask) {
	e := a.Peer.Tag.(*end)
	w := &wish{ask: a, fetcher: e, holder: e.far, draw: a.Draw, chunk: a.Chunk, lo: a.Lo, hi: a.Hi, prio: a.Priority,
		since: h.net.now}
	if !a.Draw {
		w.len = a.Len
	}
	a.Tag = w
	e.post(event{kind: asked, w: w})
}

// free returns what a wish held of the budget.
func (h *host) free(w *wish) {
	if w.len > 0 {
		h.budget.Give(w.holder.host.self, w.len)
		w.len = 0
		h.job.Room()
	}
}

func (h *host) cancel(w *wish) {
	w.over = true
	h.free(w)
	if !w.fetcher.gone {
		w.fetcher.post(event{kind: withdrawn, w: w})
	}
}

// granted: a draw has become a chunk.
func (e *end) granted(w *wish, c int) {
	h := e.host
	if e.gone || h.dead || w.over {
		return
	}
	h.record.step(Step{What: Granted, Peer: w.holder.host.self, Chunk: c, Lo: w.lo, Hi: w.hi})
	w.chunk, w.len = c, h.net.spec.len(c)
	h.budget.Take(h.net.time(), w.holder.host.self, w.len)
	h.job.Granted(h.net.time(), w.ask, c)
	h.act()
}

// spent: a draw has found nothing.
func (e *end) spent(w *wish) {
	h := e.host
	if e.gone || h.dead || w.over {
		return
	}
	h.record.step(Step{What: Spent, Peer: w.holder.host.self, Lo: w.lo, Hi: w.hi})
	h.job.Ended(h.net.time(), w.ask, 0, plan.Spent)
	h.act()
}

// arrived: a segment has come.
func (e *end) arrived(w *wish) {
	h, n := e.host, e.host.net
	if h.dead || e.gone {
		return // and no credit
	}
	w.holder.flight--
	if !w.holder.host.dead {
		w.holder.host.send()
	}
	e.received += uint64(n.spec.segment())
	if w.got++; w.got < n.spec.segments() {
		return
	}
	if w.over || h.have.Has(w.chunk) {
		n.duplicates++
	}
	if w.over {
		return
	}
	w.over = true
	h.record.step(Step{What: Arrived, Peer: w.holder.host.self, Chunk: w.chunk})
	h.free(w)
	if !h.have.Has(w.chunk) {
		h.have.Set(w.chunk)
		h.missing--
	}
	h.job.Ended(n.time(), w.ask, time.Duration(n.now-w.since), plan.Stored)
	h.act()
}

// drop takes a wish off the list of those that wait or are sent.
func (e *end) drop(w *wish) {
	if i := slices.Index(e.pulls, w); i >= 0 {
		e.pulls = slices.Delete(e.pulls, i, i+1)
	}
}
