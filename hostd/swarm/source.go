package swarm

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/wire"
)

// stallBytes is what a peer must send in StallTime to count as alive: more than its announcements amount to.
const stallBytes = 32 << 10

// source is a peer that the job fetches from, or is about to. It belongs to the job's loop, except where said.
type source struct {
	cand     *candidate
	leave    context.CancelFunc
	link     *link        // from linked on
	pick     *plan.Source // a seed has none until it is open
	open     bool         // it said what it has
	early    content.Bits // what it announced before
	requests map[int]*request
	draws    map[*request]struct{} // that it has not granted yet
	pinging  bool                  // whether it is alive, because it owes nothing but draws
	pace     plan.Pace
	storing  atomic.Int32 // requests whose chunk has come: their goroutines count it
	heard    time.Time    // when it was last seen to send something, while it owes
	bytes    uint64       // what its session had received then
}

// begin makes a candidate a source that is being connected.
func (j *job) begin(c *candidate) {
	src := &source{cand: c, requests: map[int]*request{}, draws: map[*request]struct{}{}, early: content.NewBits(j.m.Chunks())}
	ctx, cancel := context.WithCancel(j.ctx)
	src.leave = cancel
	j.sources[c.id] = src
	if c.named {
		j.show(src) // it may have asked the seeds for its part already
	}
	mutual := c.named && !c.listed
	j.wg.Go(func() { j.meet(ctx, src, mutual) })
}

// meet opens the file at a peer, and keeps it open until ctx ends.
func (j *job) meet(ctx context.Context, src *source, mutual bool) {
	meeting, cancel := context.WithTimeout(ctx, DialTimeout)
	defer cancel()
	l, err := j.swarm.peers.hold(meeting, src.cand.id, mutual)
	if err != nil {
		j.post(refused{src, err})
		return
	}
	defer j.swarm.peers.release(l)
	j.post(linked{src, l}) // its announcements may come before its answer
	have, peers, err := l.listen(meeting, j.id, j.m.Chunks(), true)
	if err != nil {
		j.post(refused{src, err})
		return
	}
	defer l.unlisten(j.id)
	j.post(opened{src, have, peers})
	<-ctx.Done()
}

// linked: there is a session with a peer.
type linked struct {
	*source
	to *link
}

func (e linked) apply(j *job) {
	if src := e.source; j.sources[src.cand.id] == src {
		src.link = e.to
		j.links[e.to] = src
	}
}

// refused: a peer could not be reached, or would not open the file.
type refused struct {
	*source
	err error
}

func (e refused) apply(j *job) { j.drop(e.source, e.err) }

// opened: a peer said what it has.
type opened struct {
	*source
	have  content.Bits
	peers []wire.PeerID
}

func (e opened) apply(j *job) {
	src := e.source
	if j.sources[src.cand.id] != src {
		return // it ended meanwhile
	}
	src.cand.tried, src.open = true, true
	e.have.Or(src.early)
	e.have.Or(j.m.Holes()) // which nobody needs: so that complete is complete
	src.early = content.Bits{}
	j.show(src)
	for i, ok := e.have.NextSet(0); ok; i, ok = e.have.NextSet(i + 1) {
		j.pick.Have(src.pick, i)
	}
	j.pick.Gives(src.pick)
	j.swarm.metrics.sources.Inc()
	j.setPace(src, time.Now())
	met{e.peers}.apply(j)
}

// show makes a source known to the picker, holding nothing yet.
func (j *job) show(src *source) {
	if src.pick == nil {
		src.pick = j.pick.Add(keyOf(src.cand.id), j.swarm.placeOf(src.cand.id), func(int) bool { return false })
		j.shown[src.pick] = src
		if src.cand.named {
			j.pick.Fellow(src.pick)
		}
	}
}

// has: a peer holds more chunks now.
type has struct {
	*link
	chunks []int
}

func (e has) apply(j *job) {
	src := j.links[e.link]
	if src == nil {
		return
	}
	for _, i := range e.chunks {
		if !src.open {
			src.early.Set(i)
		} else {
			j.pick.Have(src.pick, i)
		}
	}
}

// gone: a session has ended.
type gone struct{ *link }

func (e gone) apply(j *job) {
	if src := j.links[e.link]; src != nil {
		j.drop(src, fmt.Errorf("host %s: session ended: %w", e.peer, e.sess.Err()))
	}
}

// drop parts with a source; what it owed is asked of others. It is tried again later, and later each time.
func (j *job) drop(src *source, err error) {
	if j.sources[src.cand.id] != src {
		return
	}
	j.lastErr = err
	j.swarm.log.Debug("source dropped", "file", j.id.Short(), "host", src.cand.id, "error", err)
	for i := range src.requests {
		src.cancel(i)
	}
	j.undraw(src, plan.AnyPriority)
	j.leave(src)
	c := src.cand
	c.tried = true
	c.retry = time.Now().Add(min(AsideTime<<min(c.fails, 8), MaxAside))
	c.fails++
}

// leave tells a peer that the job needs it no more. Whoever calls it cares for its requests.
func (j *job) leave(src *source) {
	delete(j.sources, src.cand.id)
	if src.pick != nil {
		delete(j.shown, src.pick)
		j.pick.Remove(src.pick)
	}
	if src.open {
		j.swarm.metrics.sources.Dec()
	}
	delete(j.links, src.link)
	src.leave()
}

// setPace tells the picker what may be asked of a source.
func (j *job) setPace(src *source, now time.Time) {
	rate := src.pace.Rate(now, j.m.ChunkSize())
	j.pick.SetPace(src.pick, rate, src.pace.Allowed(j.m.ChunkSize()))
}

// measure looks at how a source does.
func (src *source) measure(j *job, now time.Time) {
	if !src.open {
		return
	}
	j.setPace(src, now)
	bytes := src.link.sess.Stats().BytesIn
	switch {
	case len(src.requests) > 0:
		if len(src.requests) <= int(src.storing.Load()) || bytes-src.bytes >= stallBytes {
			src.alive(now, bytes)
		}
	case len(src.draws) == 0 || bytes != src.bytes:
		src.alive(now, bytes)
	case now.Sub(src.heard) >= StallTime/2 && !src.pinging:
		// It is not to blame for letting draws wait, but it must be alive.
		src.pinging = true
		j.wg.Go(func() {
			ctx, cancel := context.WithTimeout(j.ctx, StallTime)
			defer cancel()
			_, err := src.link.sess.Ping(ctx)
			j.post(ponged{src, err == nil})
		})
	}
}

// ponged: a source that lets draws wait has answered, or not.
type ponged struct {
	*source
	alive bool
}

func (e ponged) apply(*job) {
	e.pinging = false
	if e.alive {
		e.source.alive(time.Now(), e.link.sess.Stats().BytesIn)
	}
}

// alive notes that a source is not to blame for anything until now.
func (src *source) alive(now time.Time, bytes uint64) { src.heard, src.bytes = now, bytes }

// stalls says whether a source that owes something has sent nothing for too long.
func (src *source) stalls(now time.Time) bool {
	return len(src.requests)+len(src.draws) > 0 && now.Sub(src.heard) >= StallTime
}

// take takes the request for chunk i off the source's list; nil if there is none.
func (src *source) take(i int) *request {
	r := src.requests[i]
	if r != nil {
		delete(src.requests, i)
		src.rest()
	}
	return r
}

// cancel gives up the request for chunk i, if there is one.
func (src *source) cancel(i int) {
	if r := src.take(i); r != nil {
		r.cancel()
	}
}

// rest notes that the source owes nothing more, if that is so.
func (src *source) rest() {
	if len(src.requests)+len(src.draws) == 0 {
		src.pace.Idle()
	}
}
