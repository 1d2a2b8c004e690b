package main

import (
	"slices"
	"time"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
)

// host is one simulated host: a holder, a fetcher, or in turn both.
type host struct {
	net  *net
	id   int
	key  uint64
	rack *rack
	up   float64 // bytes a second
	down link
	dead bool

	have  []bool
	count int
	want  int   // chunks that it lacks of those it wants
	ended int64 // when it had them

	pick    *plan.Picker // of one that fetches
	sources map[*plan.Source]*peer
	dialing int
	known   map[int]bool // hosts that it has heard of
	heard   []int        // those of them that it has not tried

	peers     map[int]*peer // its sessions, by host
	list      []*peer       // the same, in order
	followers int
	uplink    *plan.Uplink[*wish]
	giver     *plan.Giver // of one that grants draws
	refused   []*wish     // draws that found nothing
	active    []*wish     // being sent, in turn
	sending   bool
	lending   bool
	out       int64 // bytes sent

	news    []int // chunks to tell of
	telling bool
}

// peer is another host as one host sees it.
type peer struct {
	host, other *host
	back        *peer // this host as the other sees it
	gone        bool

	src   *plan.Source // what this host fetches from it; nil if nothing
	pace  plan.Pace
	asked map[int]*wish
	draws []*wish
	alive int64 // when it last sent something, while it owes

	asker    *plan.Asker[*wish] // what it fetches from here
	follower *plan.Follower
	current  *wish // being sent to it
	flight   int   // segments on the way to it
	last     int64 // when the last message to it arrives
}

// wish is a request or a draw.
type wish struct {
	fetcher, holder *peer // each as the one sees the other
	draw            bool
	chunk           int // -1 = a draw not granted
	lo, hi          int
	prio            plan.Priority
	since           int64 // asked, or granted
	over            bool  // the fetcher does not want it any more

	ticket *plan.Ticket[*wish]
	left   int // segments to send
	got    int // segments arrived
	ended  bool
}

func (h *host) fetching() bool { return h.pick != nil && h.want > 0 }

// post sends a message: it waits behind what is on the way to the other, and behind those before it.
func (p *peer) post(e event) {
	n := p.host.net
	behind := ns(float64(p.flight*n.spec.segment()) / p.host.up)
	p.last = max(p.last, n.now+int64(latency)+behind)
	e.at = p.last
	n.events.push(e)
}

func (h *host) begin() {
	if h.dead {
		return
	}
	n := h.net
	h.pick = plan.NewPicker(h.key, h.rack.place, n.spec.size, n.spec.chunk)
	h.sources = map[*plan.Source]*peer{}
	for c := range n.spec.chunks() {
		if !h.have[c] && n.spec.wants(h, c) {
			h.pick.Want(c, plan.Distribute)
			h.want++
		}
	}
	for id := range n.spec.seeds {
		h.meet(n.hosts[id])
	}
	n.after(tickTime, event{kind: tick, h: h})
	h.connect()
}

// meet: h hears of a host.
func (h *host) meet(o *host) {
	if o == h || h.pick == nil || h.dead {
		return
	}
	if p := h.peers[o.id]; p != nil && p.src != nil && o.fetching() {
		h.pick.Fellow(p.src)
	}
	if !h.known[o.id] {
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
	h.fill()
	h.net.after(tickTime, event{kind: tick, h: h})
}

// die ends a host: silently, or so that its peers' sessions end at once.
func (h *host) die(silent bool) {
	if h.want > 0 {
		h.net.left--
	}
	h.dead = true
	d := latency
	if silent {
		d = stallTime
	}
	for _, p := range h.list {
		h.net.after(d, event{kind: missed, p: p.back})
	}
}

// drop parts with a peer that is dead.
func (p *peer) drop() {
	h := p.host
	p.gone = true
	delete(h.peers, p.other.id)
	h.list = slices.DeleteFunc(h.list, func(o *peer) bool { return o == p })
	if p.src != nil {
		h.pick.Remove(p.src)
		delete(h.sources, p.src)
	}
	if p.asker != nil {
		h.uplink.Leave(p.asker)
		h.followers--
		h.active = slices.DeleteFunc(h.active, func(w *wish) bool { return w.holder == p })
	}
	if p.follower != nil {
		h.giver.Leave(p.follower)
		h.uplink.Wake(func(*wish) bool { return true })
	}
	if h.dead {
		return
	}
	h.pump()
	h.connect()
	h.fill()
}
