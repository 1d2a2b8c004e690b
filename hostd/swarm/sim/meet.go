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
	if h.learn(o) {
		h.connect()
	}
}

// learn notes that there is o; false if that is no news.
func (h *host) learn(o *host) bool {
	if h.knows(o) || h.nknown == maxKnown {
		return false
	}
	h.known[o.id>>6] |= 1 << (o.id & 63)
	h.nknown++
	h.heard = append(h.heard, o.id)
	return true
}

func (h *host) knows(o *host) bool { return h.known[o.id>>6]&(1<<(o.id&63)) != 0 }

// connect dials hosts that it has heard of, in an order of its own.
func (h *host) connect() {
	enough := h.net.spec.sources() * plan.DialSources / plan.MaxSources
	if h.net.now < h.looked {
		return
	}
	for h.fetching() && len(h.heard) > 0 && len(h.sources)+h.dialing < enough && h.dialing < maxDials {
		if h.nknown > maxDials && h.tried > 2*enough && h.dialing > 0 {
			return // most are full: one at a time
		}
		h.tried++
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
	full := len(h.list) >= maxSessions || len(o.list) >= maxSessions || o.fetching() && max(o.followers, len(o.sources)) >= h.net.spec.sources()
	if p == nil && full {
		h.introduced(o)
		h.later = append(h.later, o.id)
		h.connect()
		return
	}
	h.introduced(o)
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
		o.learn(h)
	} else {
		h.pick.Gives(p.src)
		o.gives()
		q.follow()
	}
	o.followers++
	h.connect()
	h.fill()
}

// introduced: o names to h some of those who came to it before, and h to them, whether it has room for h or not. Whom it names is
// a matter of chance, not of who came first or last: else those who came together know only one another, and make a swarm of
// their own.
func (h *host) introduced(o *host) {
	k := len(o.openers)
	named := min(introductions, k)
	for i := range named {
		other := o.openers[i]
		if k > named {
			other = o.openers[plan.Mix(h.key+uint64(i))%uint64(k)]
		}
		if other == h || other.dead {
			continue
		}
		if !h.knows(other) {
			h.net.after(latency, event{kind: met, h: h, arg: other.id})
		}
		if !other.knows(h) {
			h.net.after(latency, event{kind: met, h: other, arg: h.id})
		}
	}
	if k < maxKnown && !slices.Contains(o.openers, h) {
		o.openers = append(o.openers, h)
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
