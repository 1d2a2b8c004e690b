package main

import (
	"slices"

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
	tried   int
	looked  int64    // until when it looks around
	known   []uint64 // hosts that it has heard of
	nknown  int
	heard   []int   // those of them that it has not tried
	later   []int   // those that had no room
	openers []*host // who came here

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
	h.connect()
	// Before it goes to others it hears of more than those who came first: who only know each other become a swarm of
	// their own.
	h.looked = n.now + int64(plan.LookAround)
	n.after(plan.LookAround, event{kind: tick, h: h})
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
