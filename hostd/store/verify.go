package store

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/virtswarm/virtswarm/internal/content"
)

// scrubBurst is what Scrub may read at once: the largest chunk there is.
const scrubBurst = content.MaxChunkSize

// Verify reads every held chunk from the disk, not from the page cache, and returns those that were damaged, in
// order. They are unmarked: fetch them again. progress, if set, is told the data bytes done; calls do not overlap.
// err is not nil only if it could not look at all of them.
func (f *File) Verify(ctx context.Context, progress func(done, total int64)) (bad []int, err error) {
	ctx, leave, err := f.store.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	return f.verify(ctx, runtime.GOMAXPROCS(0), nil, progress)
}

// verify is Verify by a number of workers that together keep to a limit, if there is one.
func (f *File) verify(ctx context.Context, workers int, limit *rate.Limiter, progress func(done, total int64)) (bad []int, err error) {
	m, have := f.manifest, f.Have()
	t := newTally(f.HeldBytes(), progress)
	var next atomic.Int64
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	for range min(workers, max(1, m.DataChunks())) {
		g.Go(func() error {
			buf := make([]byte, m.ChunkSize())
			for i := int(next.Add(1) - 1); i < m.Chunks(); i = int(next.Add(1) - 1) {
				if m.IsHole(i) || !have.Has(i) {
					continue
				}
				err := f.verifyChunk(ctx, i, buf, limit)
				if errors.Is(err, ErrCorrupt) {
					mu.Lock()
					bad = append(bad, i)
					mu.Unlock()
				} else if err != nil && !errors.Is(err, ErrMissing) {
					return err
				}
				t.add(int64(m.ChunkLen(i)))
			}
			return nil
		})
	}
	err = g.Wait()
	slices.Sort(bad)
	return bad, err
}

func (f *File) verifyChunk(ctx context.Context, i int, buf []byte, limit *rate.Limiter) error {
	n := f.manifest.ChunkLen(i)
	if limit != nil {
		if err := limit.WaitN(ctx, n); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	hd, err := f.store.handles.acquire(f)
	if err != nil {
		return err
	}
	hd.DropCache(f.manifest.Offset(i), int64(n))
	f.store.handles.release(hd)
	_, err = f.read(i, buf)
	return err
}

// Scrub verifies all files, one after the other, reading no more than perSecond bytes a second (0 = as fast as
// it goes). report, if set, is called after each with what Verify would return. Files that are removed meanwhile
// are passed over. It ends early only with ctx or the store, and then returns why.
func (s *Store) Scrub(ctx context.Context, perSecond int64, report func(f *File, bad []int, err error)) error {
	ctx, leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	var limit *rate.Limiter
	workers := runtime.GOMAXPROCS(0)
	if perSecond > 0 {
		limit, workers = rate.NewLimiter(rate.Limit(perSecond), scrubBurst), 1
	}
	for _, f := range s.List() {
		bad, err := f.verify(ctx, workers, limit, nil)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, ErrClosed):
			return err
		case errors.Is(err, ErrRemoved):
			continue
		}
		if report != nil {
			report(f, bad, err)
		}
	}
	return nil
}
