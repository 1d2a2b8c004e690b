package swarm

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
	"github.com/virtswarm/virtswarm/internal/wire"
)

// request is one chunk asked of one source, by its index or as a draw. Its goroutine receives the chunk, verifies and stores
// it, without another hop, so that many are hashed and written in parallel; then it posts itself as an event.
type request struct {
	src    *source
	lo, hi int // of a draw
	chunk  int // of a draw -1 until it is granted
	len    int
	prio   Priority
	cancel context.CancelFunc

	asked time.Time
	took  time.Duration // until the chunk came, whatever then became of it; 0 if it did not
	err   error         // nil if it is stored
}

func (r *request) received() bool { return r.took > 0 }

// fill asks for whatever may be asked for.
func (j *job) fill() {
	if len(j.claims) == 0 {
		return
	}
	for {
		r, ok := j.pick.Next()
		if !ok {
			return
		}
		src := j.shown[r.Source]
		switch {
		case r.Draw && j.swarm.budget.may(j, src.cand.id, r.Len, r.Priority):
			j.draw(src, r)
			continue
		case r.Draw:
			j.pick.Refused(r.Source)
		case j.swarm.budget.take(j, src.cand.id, r.Len, r.Priority):
			j.ask(src, r)
			continue
		default:
			j.pick.Release(r.Source, r.Chunk)
		}
		j.pick.Limit(r.Source, max(r.Priority+1, Demand)) // until there is room
		j.starved = true
	}
}

// unlimit lets sources be asked again that were limited for want of budget.
func (j *job) unlimit() {
	if !j.starved {
		return
	}
	j.starved = false
	for s := range j.shown {
		j.pick.Limit(s, plan.Unwanted)
	}
}

// ask sends one request.
func (j *job) ask(src *source, r plan.Request) {
	ctx, req := j.newRequest(src, r)
	req.chunk = r.Chunk
	src.owes(req, req.asked)
	j.wg.Go(func() {
		buf := j.swarm.buffers.get(req.len)
		req.err = src.link.sess.Chunk(ctx, j.id, req.chunk, req.len, wire.Priority(req.prio), (*buf)[:req.len])
		j.keep(req, buf)
		j.swarm.budget.give(src.cand.id, req.len)
	})
}

func (j *job) newRequest(src *source, r plan.Request) (context.Context, *request) {
	ctx, cancel := context.WithCancel(j.ctx)
	req := &request{src: src, len: r.Len, prio: r.Priority, cancel: cancel, asked: time.Now()}
	src.pace.Owe(req.asked)
	j.pace.Owe(req.asked)
	return ctx, req
}

// owes notes that a source owes the chunk of a request.
func (src *source) owes(r *request, now time.Time) {
	if len(src.requests) == 0 {
		src.alive(now, src.link.sess.Stats().BytesIn)
	}
	src.requests[r.chunk] = r
}

// keep stores the chunk of a request, if it has come, and tells the loop. The buffer is the swarm's from then on; a draw that
// was granted nothing has none.
func (j *job) keep(r *request, buf *[]byte) {
	defer j.post(r)
	defer r.cancel()
	if r.err == nil {
		j.store(r, (*buf)[:r.len])
	}
	switch s := j.swarm; {
	case buf == nil:
	case r.err == nil && s.followers.anyFetching(j.id):
		s.buffers.put(s.hot.keep(chunkKey{j.id, r.chunk}, buf)...)
	default:
		s.buffers.put(buf)
	}
}

// store verifies and stores the chunk of a request, which has come.
func (j *job) store(r *request, p []byte) {
	m := j.swarm.metrics
	r.took = max(time.Since(r.asked), 1)
	r.src.storing.Add(1)
	defer r.src.storing.Add(-1)
	m.bytesIn.Add(float64(r.len))
	if r.err = j.file.WriteChunk(r.chunk, p); r.err == nil {
		m.chunksIn.Inc()
	}
}

// apply implements event: a request has ended.
func (r *request) apply(j *job) {
	now, src := time.Now(), r.src
	if r.chunk < 0 {
		j.drewNothing(r)
		return
	}
	current := src.requests[r.chunk] == r // it was not given up
	if r.received() {
		j.pace.Got(now, r.len)
		j.received += int64(r.len)
	}
	if current && r.received() {
		src.pace.Got(now, r.len)
		src.pace.Took(r.took, r.len, src.pick.Owes(), src.pace.Rate(now, r.len))
	}
	if current {
		src.take(r.chunk)
	}
	if r.received() && r.err == nil {
		if j.have.Has(r.chunk) {
			j.swarm.metrics.duplicates.Inc()
		}
		src.cand.fails = 0
		j.arrived(r.chunk, src.cand.id, j.pick.Complete(src.pick) || !src.link.near)
	}
	if current {
		j.pick.Release(src.pick, r.chunk) // if it failed, that is
		src.alive(now, src.link.sess.Stats().BytesIn)
		j.setPace(src, now)
	}
	j.blame(r, current)
}

// blame draws the consequences of a failure. What happened to a request that was given up says nothing, unless the peer lied.
func (j *job) blame(r *request, current bool) {
	src := r.src
	switch {
	case r.err == nil || errors.Is(r.err, context.Canceled):
	case r.received() && unfit(r.err):
		j.swarm.metrics.bad.Inc()
		err := fmt.Errorf("chunk %d of %s from host %s: %w: %w", r.chunk, j.id.Short(), src.cand.id, ErrBadPeer, r.err)
		j.drop(src, err)
		j.swarm.peers.shun(src.cand.id, err)
	case !current:
	case r.received():
		j.fault(r.chunk, r.err)
	case errors.Is(r.err, wire.ErrNotHeld):
		j.pick.Lost(src.pick, r.chunk)
	default:
		j.drop(src, fmt.Errorf("chunk %d of %s from host %s: %w", r.chunk, j.id.Short(), src.cand.id, r.err))
	}
}

// abandon gives up all requests for a chunk that nobody wants any more.
func (j *job) abandon(i int) {
	for _, src := range j.sources {
		if src.requests[i] != nil {
			j.pick.Release(src.pick, i)
			src.cancel(i)
		}
	}
}

// buffers are chunk buffers for reuse, by the power of two that they hold. The zero value is ready.
type buffers struct {
	pools [bits.UintSize]sync.Pool
}

// get returns a buffer of at least n bytes.
func (b *buffers) get(n int) *[]byte {
	class := bits.Len(uint(n - 1))
	if p, ok := b.pools[class].Get().(*[]byte); ok {
		return p
	}
	p := make([]byte, 1<<class)
	return &p
}

// put takes back what get gave.
func (b *buffers) put(all ...*[]byte) {
	for _, p := range all {
		b.pools[bits.Len(uint(len(*p)-1))].Put(p)
	}
}
