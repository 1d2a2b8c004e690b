package main

import (
	"time"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
)

const (
	// latency is what any message takes: half a round trip, and two hosts' schedulers.
	latency = time.Millisecond
	// gather is how long announcements are gathered before they are told.
	gather = 2 * time.Millisecond
	// dialTime is what a new session takes: TCP, TLS, Hello.
	dialTime = 4 * latency
	// tickTime is how often a fetcher looks at what its sources owe.
	tickTime = 200 * time.Millisecond
	// stallTime is how long a host that vanished without a word may owe before it is given up, as in hostd/swarm.
	stallTime = 4 * time.Second
	// window is how many segments a connection may have on the way.
	window = 4
	// maxSessions, introductions and maxKnown are those of hostd/swarm and internal/wire.
	maxSessions   = 256
	introductions = 64
	maxKnown      = 1024 // hosts that one remembers
	// maxDials is how many hosts are dialed at a time.
	maxDials = 8
)

// link is a queue of a rate, first in, first out. The zero value has no limit.
type link struct {
	rate float64 // bytes a second; 0 = no limit
	free int64   // when all that it was given has passed
	sent int64   // bytes
}

// pass returns when n bytes that arrive at a time have passed.
func (l *link) pass(at int64, n int) int64 {
	l.sent += int64(n)
	if l.rate == 0 {
		return at
	}
	l.free = max(l.free, at) + ns(float64(n)/l.rate)
	return l.free
}

func ns(seconds float64) int64 { return int64(seconds * 1e9) }

// rack is where hosts stand: its trunk, each way.
type rack struct {
	place    plan.Place
	up, down link
}

// net is one simulated swarm.
type net struct {
	spec   *spec
	now    int64
	events queue
	racks  []*rack
	hosts  []*host
	begun  time.Time
	left   int // fetchers that are not done

	duplicates int // chunks that came for nothing
	steps      int
}

func (n *net) time() time.Time { return n.begun.Add(time.Duration(n.now)) }

func (n *net) after(d time.Duration, e event) {
	e.at = n.now + int64(d)
	n.events.push(e)
}

// run lets everything happen.
func (n *net) run() {
	for len(n.events.heap) > 0 && n.left > 0 {
		e := n.events.pop()
		n.now = e.at
		n.steps++
		n.do(&e)
	}
}

const (
	begin     kind = iota // h begins to fetch
	met                   // h hears of p's host... of host arg
	dialed                // h opens the file at host arg
	asked                 // w arrives at its holder
	granted               // w's fetcher hears which chunk it is
	spent                 // w's fetcher hears that all was given
	withdrawn             // w's holder hears that it is of no use
	sent                  // a segment of w has left the holder
	trunked               // a segment of w has left its rack
	crossed               // a segment of w has come into the fetcher's rack
	arrived               // a segment of w is at its fetcher
	told                  // h's followers hear what it has
	lend                  // h looks whether slots are to be lent
	tick                  // h looks at its sources
	die                   // h dies
	missed                // h's peer p is found dead
)

func (n *net) do(e *event) {
	switch e.kind {
	case begin:
		e.h.begin()
	case met:
		e.h.meet(n.hosts[e.arg])
	case dialed:
		e.h.open(n.hosts[e.arg])
	case asked:
		e.w.holder.serve(e.w)
	case granted:
		e.w.fetcher.granted(e.w, e.arg)
	case spent:
		e.w.fetcher.spent(e.w)
	case withdrawn:
		e.w.holder.withdrawn(e.w)
	case sent:
		e.h.sent(e.w)
	case trunked:
		n.pass(e.w, &e.w.fetcher.host.rack.down, crossed)
	case crossed:
		n.land(e.w)
	case arrived:
		e.w.fetcher.arrived(e.w)
	case told:
		e.h.tell()
	case lend:
		e.h.lending = false
		e.h.pump()
	case tick:
		e.h.tick()
	case die:
		e.h.die(e.arg != 0)
	case missed:
		e.p.drop()
	}
}

// carry takes a segment from the holder's uplink on.
func (n *net) carry(w *wish) {
	from, to := w.holder.host, w.fetcher.host
	if from.rack == to.rack {
		n.land(w)
		return
	}
	n.pass(w, &from.rack.up, trunked)
}

func (n *net) pass(w *wish, l *link, next kind) {
	n.events.push(event{at: l.pass(n.now, n.spec.segment()), kind: next, w: w})
}

// land takes a segment through the fetcher's downlink.
func (n *net) land(w *wish) {
	at := w.fetcher.host.down.pass(n.now, n.spec.segment())
	n.events.push(event{at: at + int64(latency), kind: arrived, w: w})
}
