package swarm

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/wire"
)

// request drives one plan.Ask. Its goroutine receives the chunk, verifies and stores it, without another hop, so that
// many are hashed and written in parallel; then it posts itself as an event.
type request struct {
	ask    *plan.Ask // the loop's
	src    *source
	lo, hi int // of a draw
	chunk  int // of a draw -1 until it is granted
	len    int
	prio   wire.Priority
	cancel context.CancelFunc

	asked time.Time
	took  time.Duration // until the chunk came, whatever then became of it; 0 if it did not
	err   error         // nil if it is stored
}

// send asks a peer for a chunk, or for one of its choice. Until it has chosen a draw holds neither a buffer nor a part
// of the budget.
func (j *job) send(a *plan.Ask) {
	r := &request{ask: a, src: sourceOf(a.Peer), lo: a.Lo, hi: a.Hi, chunk: a.Chunk, len: a.Len,
		prio: wire.Priority(a.Priority), asked: time.Now()}
	a.Tag = r
	ctx, cancel := context.WithCancel(j.ctx)
	r.cancel = cancel
	if a.Draw {
		j.wg.Go(func() { j.draw(ctx, r) })
		return
	}
	j.wg.Go(func() {
		buf := j.swarm.buffers.get(r.len)
		r.err = r.src.link.sess.Chunk(ctx, j.id, r.chunk, r.len, r.prio, (*buf)[:r.len])
		j.keep(r, buf)
		j.swarm.budget.give(r.src.host, r.len)
	})
}

// draw lets a peer choose a chunk.
func (j *job) draw(ctx context.Context, r *request) {
	var buf *[]byte
	_, r.err = r.src.link.sess.Draw(ctx, j.id, r.lo, r.hi, r.prio, func(index int) ([]byte, bool) {
		r.chunk, r.len = index, j.m.ChunkLen(index)
		j.swarm.budget.force(r.src.host, r.len)
		buf = j.swarm.buffers.get(r.len)
		return (*buf)[:r.len], j.post(granted{r.ask, index})
	})
	j.keep(r, buf)
	if buf != nil {
		j.swarm.budget.give(r.src.host, r.len)
	}
}

// granted: a source has chosen a chunk, which is on its way.
type granted struct {
	*plan.Ask
	index int
}

func (e granted) apply(j *job, now time.Time) { j.plan.Granted(now, e.Ask, e.index) }

// keep stores the chunk of a request, if it has come, and tells the loop. The buffer is the swarm's from then on; a
// draw that was granted nothing has none.
func (j *job) keep(r *request, buf *[]byte) {
	defer j.post(r)
	defer r.cancel()
	if r.err == nil {
		j.store(r, (*buf)[:r.len])
	}
	switch s := j.swarm; {
	case buf == nil:
	case r.err == nil && s.server.fetched(j.id):
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
func (r *request) apply(j *job, now time.Time) {
	what := r.outcome()
	switch what {
	case plan.Stored:
		j.arrived(r)
	case plan.Mismatched:
		j.swarm.metrics.bad.Inc()
		r.src.err = fmt.Errorf("chunk %d of %s from host %s: %w: %w", r.chunk, j.id.Short(), r.src.host, ErrBadPeer, r.err)
	case plan.Unstorable:
		j.fault = fmt.Errorf("store chunk %d of %s: %w", r.chunk, j.id.Short(), r.err)
	case plan.Broken:
		if !r.src.gone {
			r.src.err = fmt.Errorf("chunk %d of %s from host %s: %w", r.chunk, j.id.Short(), r.src.host, r.err)
		}
	}
	j.plan.Ended(now, r.ask, r.took, what)
}

// outcome says what became of a request.
func (r *request) outcome() plan.Outcome {
	switch {
	case r.err == nil:
		return plan.Stored
	case errors.Is(r.err, context.Canceled):
		return plan.Withdrawn
	case r.took > 0 && errors.Is(r.err, content.ErrMismatch):
		return plan.Mismatched
	case r.took > 0:
		return plan.Unstorable
	case errors.Is(r.err, wire.ErrNotHeld):
		return plan.NotHeld
	case errors.Is(r.err, wire.ErrSpent):
		return plan.Spent
	}
	return plan.Broken
}

// arrived counts a chunk that was stored.
func (j *job) arrived(r *request) {
	if j.plan.Has(r.chunk) {
		j.swarm.metrics.duplicates.Inc()
	}
	for _, c := range j.claims {
		if c.plan.Lacks(r.chunk) {
			c.tally.from(r.src.host)
			c.progress.Done += int64(r.len)
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
