package swarm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
	"github.com/virtswarm/virtswarm/internal/wire"
)

// draw lets a source choose a chunk. Until it has chosen the draw holds neither a buffer nor a part of the budget.
func (j *job) draw(src *source, r plan.Request) {
	ctx, req := j.newRequest(src, r)
	req.lo, req.hi, req.chunk = r.Lo, r.Hi, -1
	if len(src.requests)+len(src.draws) == 0 {
		src.alive(req.asked, src.link.sess.Stats().BytesIn)
	}
	src.draws[req] = struct{}{}
	j.wg.Go(func() {
		var buf *[]byte
		_, req.err = src.link.sess.Draw(ctx, j.id, req.lo, req.hi, wire.Priority(req.prio), func(index int) ([]byte, bool) {
			req.chunk, req.len = index, j.m.ChunkLen(index)
			j.swarm.budget.force(src.cand.id, req.len)
			buf = j.swarm.buffers.get(req.len)
			return (*buf)[:req.len], j.post(granted{req})
		})
		j.keep(req, buf)
		if buf != nil {
			j.swarm.budget.give(src.cand.id, req.len)
		}
	})
}

// granted: a source has chosen a chunk, which is on its way.
type granted struct{ *request }

func (e granted) apply(j *job) {
	r, src := e.request, e.src
	if _, ok := src.draws[r]; !ok {
		return // it was given up
	}
	delete(src.draws, r)
	if !j.pick.Granted(src.pick, r.chunk) {
		src.rest()
		r.cancel()
		return
	}
	src.owes(r, time.Now())
}

// drewNothing draws the consequences of a draw that ended without a grant.
func (j *job) drewNothing(r *request) {
	src := r.src
	if _, ok := src.draws[r]; !ok {
		return // it was given up
	}
	delete(src.draws, r)
	src.rest()
	switch {
	case errors.Is(r.err, wire.ErrSpent):
		j.pick.Spent(src.pick, r.lo, r.hi)
	case errors.Is(r.err, context.Canceled), errors.Is(r.err, wire.ErrNotHeld): // it will choose another the next time
		j.pick.Refused(src.pick)
	default:
		j.pick.Refused(src.pick)
		j.drop(src, fmt.Errorf("draw of %s from host %s: %w", j.id.Short(), src.cand.id, r.err))
	}
}

// undraw gives up the draws that wait at a source for something below a priority.
func (j *job) undraw(src *source, below Priority) {
	for r := range src.draws {
		if r.prio >= below {
			continue
		}
		delete(src.draws, r)
		j.pick.Refused(src.pick)
		r.cancel()
	}
	src.rest()
}
