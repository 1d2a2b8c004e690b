package main

import (
	"slices"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
)

// meet: h hears of a host.
func (h *host) meet(o *host) {
	if o == h || h.pick == nil || h.dead {
		return
	}
	if p := h.peers[o.id]; p != nil && p.src != nil && o.fetching() {
		h.pick.Fellow(p.src)
	}
	if !h.known[o.id] && len(h.known) < maxKnown {
		h.known[o.id] = true
		h.heard = append(h.heard, o.id)
	}
	h.connect()
}

// connect dials hosts that it has heard of, in an order of its own.
func (h *host) connect() {
	for h.fetching() && len(h.heard) > 0 && len(h.sources)+h.dialing < h.net.spec.sources()*plan.DialSources/plan.MaxSources {
		best := 0
		for i, id := range h.heard {
			if h.before(id, h.heard[best]) {
				best = i
			}
		}
		id := h.heard[best]
		h.heard = slices.Delete(h.heard, best, best+1)
		h.dialing++
		h.net.after(dialTime, event{kind: dialed, h: h, arg: id})
	}
}

// before says which of two hosts is dialed first.
func (h *host) before(a, b int) bool {
	seeds := len(h.net.spec.seeds)
	if x, y := a < seeds, b < seeds; x != y {
		return x
	}
	ha, hb := h.net.hosts[a], h.net.hosts[b]
	if x, y := h.rack.place.Distance(ha.rack.place), h.rack.place.Distance(hb.rack.place); x != y {
		return x < y
	}
	return plan.Mix(h.key^ha.key) < plan.Mix(h.key^hb.key)
}

// session returns how h sees o; there is one from now on.
func (h *host) session(o *host) *peer {
	if p := h.peers[o.id]; p != nil {
		return p
	}
	p, q := &peer{host: h, other: o, asked: map[int]*wish{}}, &peer{host: o, other: h, asked: map[int]*wish{}}
	p.back, q.back = q, p
	h.peers[o.id], o.peers[h.id] = p, q
	h.list, o.list = append(h.list, p), append(o.list, q)
	return p
}

// open opens the file at o.
func (h *host) open(o *host) {
	h.dialing--
	if h.dead || !h.fetching() {
		return
	}
	if o.dead {
		h.connect()
		return
	}
	p := h.peers[o.id]
	if p != nil && p.src != nil {
		return
	}
	h.introduced(o)
	if p == nil && (len(h.list) >= maxSessions || len(o.list) >= maxSessions) || p == nil && o.fetching() && len(o.sources)+o.dialing >= h.net.spec.sources() {
		h.connect()
		return
	}
	p = h.session(o)
	q := p.back
	q.asker = o.uplink.Join(h.rack == o.rack)
	p.src = h.pick.Add(o.key, o.rack.place, func(c int) bool { return o.have[c] })
	h.sources[p.src] = p
	if o.fetching() {
		h.pick.Fellow(p.src)
		if q.src == nil {
			o.dialing++
			h.net.after(latency, event{kind: dialed, h: o, arg: h.id})
		}
		o.known[h.id] = true
	} else {
		h.pick.Gives(p.src)
		o.gives()
		q.follow()
	}
	o.followers++
	h.fill()
}

// introduced: o names some of its followers to h, and h to all of them.
func (h *host) introduced(o *host) {
	k := len(o.list)
	if k == 0 {
		return
	}
	named, first := 0, int(plan.Mix(h.key)%uint64(k))
	for i := range k {
		p := o.list[(first+i)%k]
		if p.asker == nil || p.other == h {
			continue
		}
		if named < introductions {
			named++
			h.net.after(latency, event{kind: met, h: h, arg: p.other.id})
		}
		if !p.other.known[h.id] {
			h.net.after(latency, event{kind: met, h: p.other, arg: h.id})
		}
	}
}

// gives makes h grant draws.
func (h *host) gives() {
	if h.giver != nil {
		return
	}
	h.giver = plan.NewGiver(h.key, h.net.spec.chunks())
	for c, has := range h.have {
		if has {
			h.giver.Hold(c)
		}
	}
	for _, p := range h.list {
		p.follow()
	}
}

// follow lets a holder that gives follow who draws from it.
func (p *peer) follow() {
	if p.follower == nil && p.asker != nil {
		p.follower = p.host.giver.Follow()
		for c, has := range p.other.have {
			if has {
				p.host.giver.Has(p.follower, c)
			}
		}
	}
}
