package store

import (
	"context"
	"fmt"
	"sync"
	"time"
)

const (
	// flushInterval is how long a written chunk may wait for its place in the bitmap. It bounds what a loss
	// of power costs, and how often an idle disk is woken by a slow transfer.
	flushInterval = time.Second
	// flushBytes is how many bytes may wait before the flusher does not: fsync then has a bounded amount of
	// work, and Sync and Close are quick.
	flushBytes = 64 << 20
)

// flusher is the goroutine that makes written chunks durable.
type flusher struct {
	store *Store
	ctx   context.Context
	end   context.CancelFunc
	done  sync.WaitGroup
	wake  chan struct{} // a file has become dirty
	full  chan struct{} // flushBytes wait

	mu    sync.Mutex
	dirty map[*File]struct{} // files with chunks that may not be durable
	bytes int64              // written since the last round
}

func newFlusher(s *Store) *flusher {
	ctx, cancel := context.WithCancel(context.Background())
	return &flusher{
		store: s, ctx: ctx, end: cancel,
		wake:  make(chan struct{}, 1),
		full:  make(chan struct{}, 1),
		dirty: make(map[*File]struct{}),
	}
}

func (fl *flusher) start() { fl.done.Go(fl.run) }

// stop ends the goroutine and waits for it. What is dirty stays so.
func (fl *flusher) stop() {
	fl.end()
	fl.done.Wait()
}

// wrote notes that n bytes were written to f. It does not block, nor allocate while f stays dirty.
func (fl *flusher) wrote(f *File, n int) {
	fl.mu.Lock()
	if _, known := fl.dirty[f]; !known {
		fl.dirty[f] = struct{}{}
		notify(fl.wake)
	}
	fl.bytes += int64(n)
	full := fl.bytes >= flushBytes || len(fl.dirty) > fl.store.handles.limit/2
	fl.mu.Unlock()
	if full {
		notify(fl.full)
	}
}

// relieve makes f durable at once if the flusher does not keep up: files with unsynced writes stay open, and their
// number has to end somewhere.
func (fl *flusher) relieve(f *File) {
	if fl.store.handles.pins.Load() >= int64(fl.store.handles.limit*3/4) {
		fl.flush(f)
	}
}

// flush makes a file durable for the flusher's own reasons. An error is told by the next Sync.
func (fl *flusher) flush(f *File) {
	if err := f.flush(fl.ctx); err != nil && fl.ctx.Err() == nil {
		fl.store.log.Error("cannot make written chunks durable", "file", f.id, "error", err)
	}
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (fl *flusher) run() {
	uses := time.NewTicker(useEvery)
	defer uses.Stop()
	for {
		select {
		case <-fl.wake:
		case <-uses.C:
			fl.saveUses()
			continue
		case <-fl.ctx.Done():
			return
		}
		timer := time.NewTimer(flushInterval)
		select {
		case <-timer.C:
		case <-fl.full:
		case <-fl.ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
		fl.round()
	}
}

// saveUses writes down when files were used.
func (fl *flusher) saveUses() {
	for _, f := range fl.store.List() {
		f.saveUse()
	}
}

// round flushes all files that are dirty now. A file that could not be marked comes again in the next round.
func (fl *flusher) round() {
	fl.mu.Lock()
	files := fl.dirty
	fl.dirty = make(map[*File]struct{})
	fl.bytes = 0
	fl.mu.Unlock()
	for f := range files {
		if fl.ctx.Err() != nil {
			return // Close flushes the rest
		}
		fl.flush(f)
	}
}

// Sync makes everything that was written before the call durable, and marked as such on disk. If that fails, or
// has failed in the background since the last Sync, it says so once; chunks whose fate is unknown are then
// missing again and must be written anew: see Complete. ctx bounds the waiting, not the disk.
func (f *File) Sync(ctx context.Context) error {
	err := f.flush(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		err = f.lost
	}
	if err == nil {
		err = f.gone
	}
	f.lost = nil
	if err != nil {
		return fmt.Errorf("sync %s: %w", f.id.Short(), err)
	}
	return nil
}

// flush syncs the data, then writes the bitmap: never the other way round.
func (f *File) flush(ctx context.Context) error {
	if err := f.lockFlush(ctx); err != nil {
		return err
	}
	defer func() { <-f.flushing }()

	f.mu.Lock()
	hd := f.pinned
	f.pinned = nil
	if f.gone != nil || f.have.Equal(f.durable) {
		f.mu.Unlock()
		f.unpin(hd)
		return nil
	}
	marked := f.have.Clone()
	f.mu.Unlock()

	if hd == nil { // found at Open, or synced before but not marked
		var err error
		if hd, err = f.store.handles.pin(f); err != nil {
			return f.store.again(f, err)
		}
		f.store.handles.pins.Add(1)
	}
	defer f.unpin(hd)
	start := time.Now()
	if err := hd.Sync(); err != nil {
		f.forget(err)
		return f.store.explain(err, 0)
	}
	if err := f.bitmap.write(f.store.fs, marked); err != nil {
		return f.store.again(f, f.store.explain(err, 0))
	}
	f.store.metrics.syncSeconds.Observe(time.Since(start).Seconds())

	f.mu.Lock()
	f.durable = marked // nothing was unmarked meanwhile: that too needs flushing
	f.mu.Unlock()
	f.store.changed(f)
	return nil
}

// again has the flusher try f again, and returns err.
func (s *Store) again(f *File, err error) error {
	s.flusher.wrote(f, 0)
	return err
}

// forget unmarks all chunks that are not durable, because a sync has failed: the kernel may have dropped their
// pages, and a later sync would be silent about it.
func (f *File) forget(cause error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.epoch++
	f.lost = cause
	for i, ok := f.have.NextSet(0); ok; i, ok = f.have.NextSet(i + 1) {
		if !f.durable.Has(i) {
			f.take(i)
		}
	}
}

// close ends the file with the store.
func (f *File) close() error {
	f.flushing <- struct{}{}
	f.retire(ErrClosed)
	<-f.flushing
	return f.store.handles.drop(f)
}

// unpin releases the handle that writes have kept open, if there was one.
func (f *File) unpin(hd *handle) {
	if hd != nil {
		f.store.handles.pins.Add(-1)
		f.store.handles.unpin(hd)
	}
}
