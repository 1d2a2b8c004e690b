package plan

import (
	"slices"
	"time"

	"github.com/virtswarm/virtswarm/internal/content"
)

// Peer is a host that a Job fetches from, or is about to, from Connect to Part.
type Peer struct {
	Tag any // the driver's own

	cand     *candidate
	near     bool // it stands in this host's rack
	src      *Source
	open     bool         // it said what it has
	early    content.Bits // what it told before
	asks     []*Ask       // requests, and draws that were granted
	draws    []*Ask       // draws that were not
	probing  bool         // whether it is alive, because it owes nothing but draws
	pace     Pace
	heard    time.Time // when it was last seen to send something, while it owes
	mark     uint64    // the bytes that it had sent then
	received uint64    // the bytes that it had sent at the last Vital
	storing  int       // requests whose chunk had come then
}

// Host names the peer.
func (p *Peer) Host() Host { return p.cand.host }

// begin makes a candidate a source that is being connected.
func (j *Job) begin(c *candidate) {
	p := &Peer{cand: c, near: j.cfg.Place(j.cfg.Self).Distance(j.cfg.Place(c.host)) == SameRack}
	c.peer = p
	if c.came {
		j.calling--
	}
	j.peers = append(j.peers, p)
	if c.named {
		j.show(p) // it may have asked the seeds for its part already
	}
	j.act(Action{Do: Connect, Peer: p, Mutual: c.named && !c.listed})
}

// show makes a peer known to the picker, holding nothing yet.
func (j *Job) show(p *Peer) {
	if p.src != nil {
		return
	}
	j.idle = false
	p.src = j.pick.Add(p.cand.host.Key(), j.cfg.Place(p.cand.host), func(int) bool { return false })
	p.src.peer = p
	if p.cand.named {
		j.pick.Fellow(p.src)
	}
}

// Opened notes that a peer has opened the file, what it has, and which fetchers it named.
func (j *Job) Opened(now time.Time, p *Peer, have content.Bits, named []Host) {
	if p.cand.peer != p {
		return // it ended meanwhile
	}
	p.cand.tried, p.open = true, true
	j.show(p)
	for i, ok := have.NextSet(0); ok; i, ok = have.NextSet(i + 1) {
		j.pick.Have(p.src, i)
	}
	for i, ok := p.early.NextSet(0); ok; i, ok = p.early.NextSet(i + 1) {
		j.pick.Have(p.src, i)
	}
	p.early = content.Bits{}
	j.pick.Gives(p.src)
	j.setPace(p, now)
	j.idle = false
	j.Met(now, named...)
}

// Told notes that a peer has more chunks now.
func (j *Job) Told(p *Peer, chunks []int) {
	if p.cand.peer != p {
		return
	}
	if !p.open {
		if p.early.Len() == 0 {
			p.early = content.NewBits(j.have.Len())
		}
		for _, c := range chunks {
			p.early.Set(c)
		}
		return
	}
	for _, c := range chunks {
		if j.pick.Have(p.src, c) {
			j.idle = false
		}
	}
}

// Refused notes that a peer could not be reached, would not open the file, or that the session with it has ended.
func (j *Job) Refused(now time.Time, p *Peer) { j.drop(p, Failed, now) }

// drop parts with a peer; what it owed is asked of others. It is tried again later, and later each time.
func (j *Job) drop(p *Peer, why Why, now time.Time) {
	c := p.cand
	if c.peer != p {
		return
	}
	for _, a := range p.asks {
		j.act(Action{Do: Cancel, Ask: a})
	}
	p.asks = nil
	j.undraw(p, AnyPriority)
	j.leave(p)
	c.tried = true
	aside := AsideTime
	if !p.open && c.listed {
		aside = BusyTime + time.Duration(Mix(c.lot+uint64(c.fails))%uint64(BusyTime))
	}
	c.retry = now.Add(min(aside<<min(c.fails, 8), MaxAside))
	c.fails++
	j.act(Action{Do: Part, Peer: p, Why: why})
}

// leave forgets a peer. The caller cares for its requests.
func (j *Job) leave(p *Peer) {
	j.idle = false
	p.cand.peer = nil
	if p.cand.came {
		j.calling++
	}
	j.peers = slices.DeleteFunc(j.peers, func(o *Peer) bool { return o == p })
	if p.src != nil {
		j.pick.Remove(p.src)
	}
}

// setPace tells the picker what may be asked of a peer.
func (j *Job) setPace(p *Peer, now time.Time) {
	j.pick.SetPace(p.src, p.pace.Rate(now, j.cfg.Chunk), p.pace.Allowed(j.cfg.Chunk))
}

// Vital says, before a Tick, how many bytes the session with a peer has brought by now, and how many requested chunks
// have come from it that are still being stored: for these it is not to blame.
func (p *Peer) Vital(received uint64, storing int) { p.received, p.storing = received, storing }

// Peers returns the peers from Connect to Part. The slice is valid until the next event.
func (j *Job) Peers() []*Peer { return j.peers }

// measure looks at how a peer does.
func (j *Job) measure(p *Peer, now time.Time) {
	if !p.open {
		return
	}
	if len(p.asks)+len(p.draws) > 0 {
		j.setPace(p, now)
	}
	switch {
	case len(p.asks) > 0:
		if len(p.asks) <= p.storing || p.received-p.mark >= stallBytes {
			p.alive(now)
		}
	case len(p.draws) == 0 || p.received != p.mark:
		p.alive(now)
	case now.Sub(p.heard) >= StallTime/2 && !p.probing:
		// It is not to blame for letting draws wait, but it must be alive.
		p.probing = true
		j.act(Action{Do: Probe, Peer: p})
	}
}

// Alive notes that a peer has answered a Probe, or has not.
func (j *Job) Alive(now time.Time, p *Peer, alive bool) {
	p.probing = false
	if alive {
		p.alive(now)
	}
}

// alive notes that a peer is not to blame for anything until now.
func (p *Peer) alive(now time.Time) { p.heard, p.mark = now, p.received }

// stalls says whether a peer that owes something has sent nothing for too long.
func (p *Peer) stalls(now time.Time) bool {
	return len(p.asks)+len(p.draws) > 0 && now.Sub(p.heard) >= StallTime
}
