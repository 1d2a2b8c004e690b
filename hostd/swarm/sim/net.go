package sim

import (
	"encoding/binary"
	"time"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
)

// What the modelled network is like. None of it is the protocol's: that is package plan, and internal/wire for what a
// session gathers before it sends.
const (
	// latency is what any message takes: half a round trip, and two hosts' schedulers.
	latency = time.Millisecond
	// handshake is what a new connection takes: TCP, TLS, Hello.
	handshake = 4 * latency
	// window is how many segments a connection may have on the way.
	window = 4
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
	spec   *Spec
	now    int64
	events queue
	racks  []*rack
	hosts  []*host
	seeds  []plan.Host // what the directory says
	begun  time.Time
	left   int // fetchers that are not done

	duplicates int // chunks that came for nothing
	steps      int
}

// hostOf names the host of a number: its key is uniform, as that of a real one, and its tail is the number.
func hostOf(id int) (h plan.Host) {
	binary.LittleEndian.PutUint64(h[:], plan.Mix(uint64(id)))
	binary.LittleEndian.PutUint64(h[8:], uint64(id))
	return h
}

func (n *net) host(h plan.Host) *host { return n.hosts[binary.LittleEndian.Uint64(h[8:])] }

func (n *net) time() time.Time { return n.begun.Add(time.Duration(n.now)) }

// at returns when a time of plan is.
func (n *net) at(t time.Time) int64 { return int64(t.Sub(n.begun)) }

func (n *net) after(d time.Duration, e event) {
	e.at = n.now + int64(d)
	n.events.push(e)
}

// call calls f after d.
func (n *net) call(d time.Duration, f func()) { n.after(d, event{kind: called, do: f}) }

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
	called    kind = iota // do what stands there
	ticked                // h's job is due
	rang                  // h's server is due
	flushed               // h tells what news may not wait longer
	told                  // news arrive at peers of h
	asked                 // w arrives at its holder
	granted               // w's fetcher hears which chunk it is
	spent                 // w's fetcher hears that all was given
	withdrawn             // w's holder hears that it is of no use
	sent                  // a segment of w has left the holder
	trunked               // a segment of w has left its rack
	crossed               // a segment of w has come into the fetcher's rack
	arrived               // a segment of w is at its fetcher
)

func (n *net) do(e *event) {
	switch e.kind {
	case called:
		e.do()
	case ticked:
		e.h.tick()
	case rang:
		e.h.ring(e.at)
	case flushed:
		e.h.flush()
	case told:
		for _, t := range e.tells {
			t.arrive()
		}
	case asked:
		e.w.holder.asked(e.w)
	case granted:
		e.w.fetcher.granted(e.w, int(e.arg))
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
