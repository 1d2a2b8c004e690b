package sim

import (
	"slices"
	"time"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/wire"
)

// end is one side of a connection between two hosts.
type end struct {
	host *host
	far  *end
	link *plan.Link // of one that is in the lobby, nil
	gone bool

	// What this host opened at the other.
	users    int  // the job, and the server if the other draws here
	follows  bool // the other was asked to open the file, and not to close it
	fetching bool // and told that this host fetches
	hears    bool // the server listens
	job      *plan.Peer
	received uint64 // bytes that have come

	// What the other opened here.
	session *plan.Session
	lobby   bool
	opened  bool
	pulls   []*wish
	told    int // how much of the host's log the other was told

	current *wish // being sent to the other
	flight  int   // segments on the way to the other
	last    int64 // when the last message to the other arrives
}

// newConn connects two hosts.
func newConn(h, o *host) (near, far *end) {
	near, far = &end{host: h}, &end{host: o}
	near.far, far.far = far, near
	for _, e := range [...]*end{near, far} {
		e.session = e.host.server.Join(e.far.host.self, e.host.rack == e.far.host.rack)
		e.session.Tag = e
		e.host.ends = append(e.host.ends, e)
	}
	return near, far
}

func endOf(l *plan.Link) *end { return l.Tag.(*end) }

// enter joins an end with what the plan knows it by.
func (e *end) enter(l *plan.Link) {
	e.link = l
	l.Tag = e
}

// post sends a message: it waits behind what is on the way to the other, and behind those before it. News go along.
func (e *end) post(ev event) {
	if e.opened && e.told < len(e.host.log) {
		e.arrives(event{kind: told, tells: []tell{e.take()}})
	}
	e.arrives(ev)
}

func (e *end) arrives(ev event) {
	n := e.host.net
	behind := ns(float64(e.flight*n.spec.segment()) / e.host.up)
	e.last = max(e.last, n.now+int64(latency)+behind)
	ev.at = e.last
	n.events.push(ev)
}

// say calls f at the other when a message has come there, if it lives.
func (e *end) say(f func(far *end)) {
	e.post(event{kind: called, do: func() {
		if !e.far.gone && !e.far.host.dead {
			f(e.far)
		}
	}})
}

// listen opens the file at the other, to fetch it or only to hear.
func (e *end) listen(fetching bool) {
	e.users++
	if e.follows {
		if !fetching {
			return
		}
		e.say((*end).closeFile) // and anew
	}
	e.follows, e.fetching = true, e.fetching || fetching
	e.say(func(far *end) { far.openFile(fetching) })
	if p := e.job; fetching && e.far.host.dead {
		e.host.net.call(plan.DialTimeout, func() { e.refused(p) })
	}
}

// unlisten ends what listen began.
func (e *end) unlisten() {
	if e.users--; e.users > 0 || e.gone {
		return
	}
	e.follows, e.fetching = false, false
	e.say((*end).closeFile)
}

// openFile: the other opens the file here.
func (e *end) openFile(fetching bool) {
	h := e.host
	if e.lobby {
		known := h.server.Introduce(file, e.far.host.self)
		e.came()
		e.say(func(far *end) { far.snapshot(content.NewBits(h.have.Len()), known) })
		h.serve()
		h.net.call(plan.LobbyGrace, e.turnAway)
		return
	}
	known, welcome := h.server.Open(e.session, file, fetching, h.sessions.Spare(e.link))
	if !welcome {
		e.say(func(far *end) { far.snapshot(content.NewBits(h.have.Len()), known) })
		h.serve()
		h.net.call(plan.LobbyGrace, func() {
			if h.sessions.Spare(e.link) {
				e.hangUp()
			}
		})
		return
	}
	h.sessions.Retain(e.link)
	e.opened, e.told = true, len(h.log)
	if fetching {
		e.came()
	}
	have := h.have.Clone()
	e.say(func(far *end) { far.snapshot(have, known) })
	h.serve()
}

// turnAway ends a session in the lobby.
func (e *end) turnAway() {
	if e.lobby && !e.host.dead {
		e.lobby = false
		e.host.sessions.TurnedAway()
		e.hangUp()
	}
}

// came tells the job here, if there is one, that the other fetches.
func (e *end) came() {
	if h := e.host; h.job != nil {
		h.record.step(Step{What: Came, Peer: e.far.host.self})
		h.job.Came(h.net.time(), e.far.host.self)
		h.act()
	}
}

// closeFile: the other closes the file here.
func (e *end) closeFile() {
	if !e.opened {
		return
	}
	e.opened = false
	for _, w := range slices.Clone(e.pulls) {
		e.stop(w)
	}
	e.host.server.Close(e.session, file)
	e.host.sessions.Release(e.host.net.time(), e.link)
	e.host.serve()
}

// snapshot: the other has opened the file, says what it has, and names fetchers.
func (e *end) snapshot(have content.Bits, known []plan.Host) {
	h := e.host
	h.server.Heard(e.session, file, indexes(have))
	if e.job != nil {
		h.record.step(Step{What: Opened, Peer: e.far.host.self, Have: have, Hosts: known})
		h.job.Opened(h.net.time(), e.job, have, known)
		h.act()
	}
}

// indexes lists a set.
func indexes(set content.Bits) (all []int) {
	for i, ok := set.NextSet(0); ok; i, ok = set.NextSet(i + 1) {
		all = append(all, i)
	}
	return all
}

// hangUp ends a connection from this side; the other hears of it.
func (e *end) hangUp() {
	if e.gone {
		return
	}
	e.say((*end).close)
	e.close()
}

// close: the connection has ended.
func (e *end) close() {
	h := e.host
	if e.gone || h.dead {
		return
	}
	e.closeFile()
	e.gone = true
	h.forget(e)
	h.server.Leave(e.session)
	if e.link != nil {
		h.sessions.Remove(e.link)
	}
	h.serve()
	e.refused(e.job)
}

// tell is news on the way to the far side of an end: a part of its host's log.
type tell struct {
	from   *end
	lo, hi int
}

// take takes all that the other was not told.
func (e *end) take() tell {
	t := tell{e, e.told, len(e.host.log)}
	e.told = t.hi
	return t
}

func (t tell) arrive() {
	e := t.from.far
	h := e.host
	if e.gone || h.dead {
		return
	}
	chunks := t.from.host.log[t.lo:t.hi]
	if e.hears {
		h.server.Heard(e.session, file, chunks)
	}
	if e.job != nil {
		h.record.step(Step{What: Told, Peer: e.far.host.self, Chunks: chunks})
		h.job.Told(e.job, chunks)
		h.act()
	}
}

// announce: others are to be told of the newest of the log.
func (h *host) announce(a plan.ServerAction) {
	n, soon := h.net, a.Soon
	for _, s := range a.Sessions {
		soon = soon || len(h.log)-s.Tag.(*end).told >= wire.LazyMost
	}
	at := n.now + int64(wire.LazyInterval)
	if soon {
		at = max(n.now, h.flushed+int64(wire.NewsInterval))
	}
	if h.flushAt == 0 || at < h.flushAt {
		h.flushAt = at
		n.after(time.Duration(at-n.now), event{kind: flushed, h: h})
	}
}

// flush tells all who have not been told everything. They hear it at about the same time.
func (h *host) flush() {
	n := h.net
	if h.flushAt == 0 || n.now < h.flushAt || h.dead {
		return
	}
	h.flushAt, h.flushed = 0, n.now
	var tells []tell
	for _, e := range h.ends {
		if e.opened && e.told < len(h.log) {
			tells = append(tells, e.take())
		}
	}
	n.after(latency+time.Duration(ns(float64(n.spec.segment())/h.up)), event{kind: told, tells: tells})
}
