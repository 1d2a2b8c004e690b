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

// source is a peer that the job fetches from, or is about to. It belongs to the job's loop, except where said.
type source struct {
	peer    *plan.Peer
	host    wire.PeerID
	leave   context.CancelFunc
	link    *link // from linked on
	open    bool  // it said what it has
	gone    bool
	err     error        // why it is of no use
	storing atomic.Int32 // requests whose chunk has come: their goroutines count it
}

func sourceOf(p *plan.Peer) *source { return p.Tag.(*source) }

// connect begins to connect to a peer.
func (j *job) connect(p *plan.Peer, mutual bool) {
	src := &source{peer: p, host: wire.PeerID(p.Host())}
	p.Tag = src
	ctx, cancel := context.WithCancel(j.ctx)
	src.leave = cancel
	j.wg.Go(func() { j.meet(ctx, src, mutual) })
}

// meet opens the file at a peer, and keeps it open until ctx ends.
func (j *job) meet(ctx context.Context, src *source, mutual bool) {
	meeting, cancel := context.WithTimeout(ctx, plan.DialTimeout)
	defer cancel()
	l, err := j.swarm.peers.hold(meeting, src.host, mutual)
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

func (e linked) apply(j *job, _ time.Time) {
	if src := e.source; !src.gone {
		src.link = e.to
		j.links[e.to] = src
	}
}

// refused: a peer could not be reached, or would not open the file.
type refused struct {
	*source
	err error
}

func (e refused) apply(j *job, now time.Time) {
	e.source.err = e.err
	j.plan.Refused(now, e.peer)
}

// opened: a peer said what it has.
type opened struct {
	*source
	have  content.Bits
	peers []wire.PeerID
}

func (e opened) apply(j *job, now time.Time) {
	if e.gone {
		return // it ended meanwhile
	}
	e.source.open = true
	j.swarm.metrics.sources.Inc()
	e.have.Or(j.m.Holes()) // which nobody needs: so that complete is complete
	j.plan.Opened(now, e.peer, e.have, hosts(e.peers))
}

// has: a peer holds more chunks now.
type has struct {
	*link
	chunks []int
}

func (e has) apply(j *job, _ time.Time) {
	if src := j.links[e.link]; src != nil {
		j.plan.Told(src.peer, e.chunks)
	}
}

// gone: a session has ended.
type gone struct{ *link }

func (e gone) apply(j *job, now time.Time) {
	if src := j.links[e.link]; src != nil {
		src.err = fmt.Errorf("host %s: session ended: %w", e.peer, e.sess.Err())
		j.plan.Refused(now, src.peer)
	}
}

// part tells a peer that the job needs it no more.
func (j *job) part(src *source, why plan.Why) {
	if why == plan.Stalled {
		j.swarm.metrics.stalls.Inc()
		src.err = fmt.Errorf("host %s: sent nothing for %v", src.host, StallTime)
	}
	if why != plan.Over {
		j.lastErr = src.err
		j.swarm.log.Debug("source dropped", "file", j.id.Short(), "host", src.host, "error", src.err)
	}
	src.gone = true
	if src.open {
		j.swarm.metrics.sources.Dec()
	}
	delete(j.links, src.link)
	src.leave()
}

// probe asks a peer for a sign of life.
func (j *job) probe(src *source) {
	j.wg.Go(func() {
		ctx, cancel := context.WithTimeout(j.ctx, StallTime)
		defer cancel()
		_, err := src.link.sess.Ping(ctx)
		j.post(ponged{src, err == nil})
	})
}

// ponged: a peer has answered a probe, or not.
type ponged struct {
	*source
	alive bool
}

func (e ponged) apply(j *job, now time.Time) { j.plan.Alive(now, e.peer, e.alive) }
