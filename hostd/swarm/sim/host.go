package sim

import (
	"slices"
	"time"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/wire"
)

// file is the one file of a simulated swarm.
var file content.Digest

// host is one simulated host. It drives the same state machines of package plan as a daemon does, over modelled
// connections.
type host struct {
	net  *net
	id   int
	self plan.Host
	rack *rack
	up   float64 // bytes a second
	down link
	dead bool

	sessions *plan.Sessions
	server   *plan.Server
	budget   *plan.Budget
	job      *plan.Job // of one that fetches
	have     content.Bits
	wants    content.Bits
	missing  int   // chunks that it lacks of those it wants
	ended    int64 // when it had them

	ends    []*end                     // of its connections, in the order in which they were made
	waiting map[plan.Host][]func(*end) // who waits for a dial
	tickAt  int64                      // when the job is due
	ringAt  int64                      // when the server is due; 0 is never

	active  []*wish // being sent, in turn
	sending bool
	out     int64 // bytes sent

	began  int64     // to fetch
	record *recorder // nil but of one

	log     []int // chunks that have come here, to be told of
	flushAt int64 // when some of them are; 0 is never
	flushed int64 // when some were last
}

// begin begins to fetch.
func (h *host) begin() {
	if h.dead {
		return
	}
	n := h.net
	h.began = n.now
	h.server.Fetch(file, true)
	h.job = plan.NewJob(n.time(), plan.JobConfig{Self: h.self, Size: n.spec.Size, Chunk: n.spec.Chunk,
		Have: h.have.Clone(), Place: func(o plan.Host) plan.Place { return n.host(o).rack.place }, Budget: h})
	h.job.Claim(n.time(), plan.NewClaim(plan.Distribute, h.wants.Clone()), h.have)
	h.act()
	h.schedule()
}

// die ends a host: silently, or so that its peers' sessions end at once.
func (h *host) die(silent bool) {
	if h.missing > 0 {
		h.net.left--
	}
	h.dead = true
	d := latency
	if silent {
		d = wire.DefaultStallTimeout
	}
	for _, e := range h.ends {
		h.net.call(d, e.far.close)
	}
}

// Ask implements plan.Budgeter.
func (h *host) Ask(now time.Time, peer plan.Host, n int, prio plan.Priority, draw bool) bool {
	if !h.budget.Room(now, peer, n, prio) {
		return false
	}
	if !draw {
		h.budget.Take(now, peer, n)
	}
	return true
}

// hold gives a session with o to then, as soon as there is one; nil if there will be none.
func (h *host) hold(o plan.Host, mutual bool, then func(*end)) {
	switch e := h.sessions.Want(h.net.time(), o, mutual); e.Answer {
	case plan.Use:
		then(endOf(e.Link))
	case plan.Wait:
		h.waiting[o] = append(h.waiting[o], then)
	case plan.Dial:
		h.giveWay(e.Closed)
		h.waiting[o] = append(h.waiting[o], then)
		h.net.call(e.After, func() { h.dial(o, e.After > 0) })
	default:
		then(nil)
	}
}

// giveWay ends a session for another one.
func (h *host) giveWay(l *plan.Link) {
	if l != nil {
		endOf(l).hangUp()
	}
}

// dial makes a connection, unless o made one while this host was courteous.
func (h *host) dial(o plan.Host, courteous bool) {
	n, far := h.net, h.net.host(o)
	switch {
	case h.dead:
	case courteous && h.sessions.Connected(o):
		h.sessions.GaveUp(o)
	case far.dead:
		n.call(plan.DialTimeout, func() { h.dialed(o, nil) })
	default:
		n.call(handshake, func() { far.accept(h) })
	}
}

// accept answers the dial of another host.
func (h *host) accept(o *host) {
	n := h.net
	if h.dead || o.dead {
		n.call(plan.DialTimeout, func() { o.dialed(h.self, nil) })
		return
	}
	e := h.sessions.Accept(n.time(), o.self)
	h.giveWay(e.Closed)
	switch e.Answer {
	case plan.Welcome:
		near, far := newConn(o, h)
		l, _ := h.sessions.Accepted(n.time(), o.self) // a dial of our own that is under way leads to a second session
		far.enter(l)
		o.dialed(h.self, near)
		h.resume(o.self)
	case plan.TurnAway:
		near, far := newConn(o, h)
		far.lobby = true
		o.dialed(h.self, near)
		n.call(plan.LobbyTime, far.turnAway)
	default:
		o.dialed(h.self, nil)
	}
}

// dialed ends a dial, with a connection or nil.
func (h *host) dialed(o plan.Host, e *end) {
	if h.dead {
		return
	}
	if e == nil {
		h.sessions.GaveUp(o)
		waiting := h.waiting[o]
		delete(h.waiting, o)
		for _, then := range waiting {
			then(nil)
		}
		return
	}
	e.enter(h.sessions.Dialed(h.net.time(), o))
	h.resume(o)
}

// resume lets those go on who wait for a session with o, now that there is one.
func (h *host) resume(o plan.Host) {
	waiting := h.waiting[o]
	delete(h.waiting, o)
	for _, then := range waiting {
		h.hold(o, false, then)
	}
}

// sweep ends sessions that are idle, now and then.
func (h *host) sweep() {
	for _, l := range h.sessions.Sweep(h.net.time()) {
		endOf(l).hangUp()
	}
	h.net.call(time.Second, h.sweep)
}

// forget takes an end off the list.
func (h *host) forget(e *end) {
	h.ends = slices.DeleteFunc(h.ends, func(o *end) bool { return o == e })
}
