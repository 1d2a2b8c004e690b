package fetch

import (
	"context"
	"iter"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/hostd/swarm"
	"github.com/virtswarm/virtswarm/internal/content"
)

// What is read ahead is asked for in its order, a few batches at a time: enough to keep several hosts busy, and no
// more, for within it the order is that of the swarm.
const (
	aheadBatch   = 4 << 20 // bytes; one chunk at least
	aheadBatches = 4
)

// Range is a run of chunks: from First up to, not including, End.
type Range struct{ First, End int }

// Ranges returns the runs of a set of chunks, in order.
func Ranges(chunks content.Bits) (all []Range) {
	for first, ok := chunks.NextSet(0); ok; first, ok = chunks.NextSet(first) {
		end, more := chunks.NextClear(first)
		if !more {
			end = chunks.Len()
		}
		all = append(all, Range{first, end})
		if first = end; first == chunks.Len() {
			break
		}
	}
	return all
}

// Want is something that is wanted of a content. What is read ahead, or demanded, comes in the order of the ranges, as
// closely as aheadBatch times aheadBatches bytes; else a Want has no order, for a swarm is fast when everybody fetches
// something else.
type Want struct {
	Ranges   []Range
	Priority Priority
}

// wants is what one call of Want has begun.
type wants struct {
	cancel context.CancelFunc
	asked  chan struct{} // closed once the swarm knows of all of them
}

// Want makes wants all that this handle wants by itself from now on, in place of what it wanted before, until they are
// here, or Close; calls that wait get what they need besides. Nothing that is wanted before and after is given up in
// between. What does not fit is an error, store.ErrNoSpace, and then nothing changes. Want does not wait for anything
// else. What nobody can bring is not wanted any more after a while, which is logged; whoever reads it tries again, and
// hears why.
func (h *Handle) Want(ctx context.Context, all ...Want) (err error) {
	ctx, end, err := h.begin(ctx)
	if err != nil {
		return err
	}
	defer end(&err)
	union := content.NewBits(h.Manifest().Chunks())
	for _, w := range all {
		union.Or(h.bits(w.Ranges...))
	}
	if err := h.makeRoom(ctx, union); err != nil {
		return err
	}
	running, stop := context.WithCancel(h.ctx)
	now := &wants{cancel: stop, asked: make(chan struct{})}
	h.mu.Lock()
	before := h.wants
	h.wants = now
	h.mu.Unlock()
	h.ops.Go(func() {
		defer stop()
		h.pursue(running, now, all)
	})
	if before != nil {
		h.ops.Go(func() {
			<-now.asked
			before.cancel()
		})
	}
	return nil
}

// pursue gets all that one call of Want has named.
func (h *Handle) pursue(ctx context.Context, now *wants, all []Want) {
	var left atomic.Int64
	left.Store(int64(len(all)) + 1)
	told := func() {
		if left.Add(-1) == 0 {
			close(now.asked)
		}
	}
	var getting sync.WaitGroup
	for _, w := range all {
		getting.Go(func() {
			asked := sync.OnceFunc(told)
			defer asked()
			if err := h.getWant(ctx, w, asked); err != nil && ctx.Err() == nil {
				h.shared.log.Warn("cannot fetch all that is wanted of a content", "id", h.file.ID(), "priority", w.Priority, "error", err)
			}
		})
	}
	told()
	getting.Wait()
}

// getWant gets what one Want names. asked is called once the swarm knows of it, or of its beginning.
func (h *Handle) getWant(ctx context.Context, w Want, asked func()) error {
	t := h.track(h.bits(w.Ranges...))
	defer h.untrack(t)
	if w.Priority < swarm.ReadAhead {
		return h.call(ctx, t, t.chunks, w.Priority, func(swarm.Progress) { asked() })
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(aheadBatches)
	for batch := range h.batches(w.Ranges) {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error { return h.call(ctx, t, batch, w.Priority, func(swarm.Progress) { asked() }) })
	}
	return g.Wait()
}

// batches cuts what is missing of some ranges into sets of about aheadBatch bytes, in order.
func (h *Handle) batches(ranges []Range) iter.Seq[content.Bits] {
	m := h.Manifest()
	return func(yield func(content.Bits) bool) {
		batch, size := content.NewBits(m.Chunks()), 0
		for _, r := range ranges {
			for i := max(r.First, 0); i < min(r.End, m.Chunks()); i++ {
				if batch.Has(i) || h.file.Has(i) {
					continue
				}
				if size > 0 && size+m.ChunkLen(i) > aheadBatch {
					if !yield(batch) {
						return
					}
					batch, size = content.NewBits(m.Chunks()), 0
				}
				batch.Set(i)
				size += m.ChunkLen(i)
			}
		}
		if size > 0 {
			yield(batch)
		}
	}
}

// bits returns the chunks of some ranges, as far as the content has them.
func (h *Handle) bits(ranges ...Range) content.Bits {
	n := h.Manifest().Chunks()
	b := content.NewBits(n)
	for _, r := range ranges {
		if first, end := max(r.First, 0), min(r.End, n); first < end {
			b.SetRange(first, end)
		}
	}
	return b
}

// task is chunks that a handle is getting: what operators see. It is guarded by the handle's mu.
type task struct {
	chunks  content.Bits // only read
	rate    float64      // bytes a second
	sources int
}

func (h *Handle) track(chunks content.Bits) *task {
	t := &task{chunks: chunks}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tasks[t] = struct{}{}
	h.getting.Or(h.lacking(chunks))
	return t
}

func (h *Handle) untrack(t *task) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count()
	delete(h.tasks, t)
	if len(h.tasks) == 0 {
		h.getting.AndNot(h.getting.Clone()) // what still lacks is not wanted any more
	}
}

// count adds to fetched what has come since it was called last: each chunk once, however many calls wait for it. The
// caller holds mu.
func (h *Handle) count() {
	if len(h.tasks) == 0 {
		return
	}
	here := h.getting.Clone()
	here.And(h.file.Have())
	h.fetched += bytesOf(h.Manifest(), here)
	h.getting.AndNot(here)
}

// bytesFetched returns how many bytes have come since the handle was opened.
func (h *Handle) bytesFetched() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count()
	return h.fetched
}

// call has the swarm bring chunks for a task.
func (h *Handle) call(ctx context.Context, t *task, chunks content.Bits, prio Priority, progress func(swarm.Progress)) error {
	return h.shared.swarm.Fetch(ctx, h.file, chunks, prio, func(p swarm.Progress) {
		h.mu.Lock()
		t.rate, t.sources = p.Rate, p.Sources()
		h.mu.Unlock()
		progress(p)
	})
}

// sum adds up tasks of one content.
type sum struct {
	file    *store.File // nil if there are none
	chunks  content.Bits
	rate    float64
	sources int
	fetched int64
}

// addTo adds what a handle is getting.
func (h *Handle) addTo(s *sum) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for t := range h.tasks {
		if s.file == nil {
			s.file, s.chunks = h.file, content.NewBits(t.chunks.Len())
		}
		s.chunks.Or(t.chunks)
		s.rate, s.sources = max(s.rate, t.rate), max(s.sources, t.sources) // both are those of all callers
	}
	h.count()
	s.fetched += h.fetched
}

func (s *sum) progress() Progress {
	here := s.chunks.Clone()
	here.And(s.file.Have())
	m := s.file.Manifest()
	return Progress{Done: bytesOf(m, here), Total: bytesOf(m, s.chunks), Fetched: s.fetched, Rate: s.rate, Sources: s.sources}
}
