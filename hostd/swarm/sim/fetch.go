package main

import (
	"slices"
	"time"
)

// fill asks for whatever may be asked for.
func (h *host) fill() {
	if h.dead || !h.fetching() {
		return
	}
	for {
		r, ok := h.pick.Next()
		if !ok {
			return
		}
		p := h.sources[r.Source]
		w := &wish{fetcher: p, holder: p.back, draw: r.Draw, chunk: r.Chunk, lo: r.Lo, hi: r.Hi, prio: r.Priority, since: h.net.now}
		if r.Draw {
			w.chunk = -1
			p.draws = append(p.draws, w)
		} else {
			p.owe(w)
		}
		p.post(event{kind: asked, w: w})
	}
}

func (p *peer) owe(w *wish) {
	if len(p.asked) == 0 {
		p.alive = p.host.net.now
	}
	p.asked[w.chunk] = w
	p.pace.Owe(p.host.net.time())
}

// granted: a draw of this peer has become a chunk.
func (p *peer) granted(w *wish, c int) {
	if p.gone || p.host.dead || w.over {
		return
	}
	p.draws = slices.DeleteFunc(p.draws, func(o *wish) bool { return o == w })
	if !p.host.pick.Granted(p.src, c) {
		p.cancel(w)
	} else {
		w.since = p.host.net.now
		p.owe(w)
	}
	p.host.fill()
}

// spent: a draw of this peer has found nothing.
func (p *peer) spent(w *wish) {
	if p.gone || p.host.dead || w.over {
		return
	}
	p.draws = slices.DeleteFunc(p.draws, func(o *wish) bool { return o == w })
	p.host.pick.Spent(p.src, w.lo, w.hi)
	p.host.fill()
}

func (p *peer) cancel(w *wish) {
	w.over = true
	p.post(event{kind: withdrawn, w: w})
}

// arrived: a segment has come from this peer.
func (p *peer) arrived(w *wish) {
	h, n := p.host, p.host.net
	if h.dead || p.gone {
		return // and no credit
	}
	w.holder.flight--
	if !w.holder.host.dead {
		w.holder.host.send()
	}
	p.alive = n.now
	if w.got++; w.got < n.spec.segments() {
		return
	}
	if w.over {
		n.duplicates++
		return
	}
	c, size := w.chunk, n.spec.chunk
	now := n.time()
	p.pace.Got(now, size)
	rate := p.pace.Rate(now, size)
	p.pace.Took(time.Duration(n.now-w.since), size, p.src.Owes(), rate)
	delete(p.asked, c)
	if len(p.asked) == 0 {
		p.pace.Idle()
	}
	for _, s := range h.pick.Done(c) {
		if o := h.sources[s]; o != p {
			o.giveUp(c)
		}
	}
	h.pick.SetPace(p.src, p.pace.Rate(now, size), p.pace.Allowed(size))
	h.store(c)
	h.fill()
}

// giveUp cancels the request for chunk c.
func (p *peer) giveUp(c int) {
	if w := p.asked[c]; w != nil {
		delete(p.asked, c)
		if len(p.asked) == 0 {
			p.pace.Idle()
		}
		p.cancel(w)
	}
}

// store notes that chunk c is here.
func (h *host) store(c int) {
	n := h.net
	if h.have[c] {
		n.duplicates++
		return
	}
	h.have[c] = true
	h.count++
	if h.want--; h.want == 0 {
		h.ended = n.now
		n.left--
		for _, p := range h.list {
			for _, w := range p.draws {
				p.cancel(w)
			}
			p.draws = nil
		}
	}
	if h.giver != nil {
		h.giver.Hold(c)
	}
	h.news = append(h.news, c)
	if !h.telling {
		h.telling = true
		n.after(gather+latency+time.Duration(ns(float64(n.spec.segment())/h.up)), event{kind: told, h: h})
	}
}

// tell tells h's peers what is new here.
func (h *host) tell() {
	h.telling = false
	if h.dead {
		return
	}
	for _, p := range h.list {
		q := p.back // h, as the peer sees it
		if q.follower != nil {
			for _, c := range h.news {
				q.host.giver.Has(q.follower, c)
			}
		}
		if q.src == nil || !q.host.fetching() {
			continue
		}
		use := false
		for _, c := range h.news {
			use = q.host.pick.Have(q.src, c) || use
		}
		if use {
			q.host.fill()
		}
	}
	h.news = h.news[:0]
}

// tick looks at what the sources owe.
func (h *host) tick() {
	if h.dead || !h.fetching() {
		return
	}
	now, size := h.net.time(), h.net.spec.chunk
	for _, p := range h.list {
		if p.src != nil && len(p.asked) > 0 {
			h.pick.SetPace(p.src, p.pace.Rate(now, size), p.pace.Allowed(size))
		}
	}
	if len(h.heard) == 0 {
		h.heard, h.later = h.later, nil
	}
	h.connect()
	h.fill()
	h.net.after(h.net.spec.tick(), event{kind: tick, h: h})
}
