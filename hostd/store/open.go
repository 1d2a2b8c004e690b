package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk"
)

// Open opens the data file for somebody who reads its bytes without this package: by sendfile, say. The chunks of a set
// are right in it: each was verified since the store was opened, at the latest by this call, and what the manifest has
// as holes are holes. Of other chunks it says nothing. The caller closes the file, does not write to it, and keeps the
// content in use (see Use) as long as it reads.
//
// Errors: ErrMissing if a chunk of the set is not held; a CorruptError naming all of the set that were found damaged;
// ErrRemoved, ErrClosed; that of ctx.
func (f *File) Open(ctx context.Context, chunks content.Bits) (disk.File, error) {
	ctx, leave, err := f.store.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	f.Touch()
	if err := f.proveAll(ctx, chunks); err != nil {
		return nil, fmt.Errorf("open %s: %w", f.id.Short(), err)
	}
	file, err := f.store.fs.OpenFile(dataIn(f.dir), os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		err = cmp.Or(f.whyGone(), ErrRemoved)
	}
	if err != nil {
		return nil, fmt.Errorf("open data of %s: %w", f.id.Short(), err)
	}
	return file, nil
}

// proveAll verifies the chunks of a set that were not verified since the store was opened.
func (f *File) proveAll(ctx context.Context, chunks content.Bits) error {
	if err := f.clearHoles(); err != nil {
		return err
	}
	todo := chunks.Clone()
	todo.AndNot(f.manifest.Holes())
	f.mu.Lock()
	todo.AndNot(f.proven)
	f.mu.Unlock()
	var list []int
	for i, ok := todo.NextSet(0); ok; i, ok = todo.NextSet(i + 1) {
		list = append(list, i)
	}
	var next atomic.Int64
	var mu sync.Mutex
	var bad []int
	lacking := 0
	g, ctx := errgroup.WithContext(ctx)
	for range min(runtime.GOMAXPROCS(0), len(list)) {
		g.Go(func() error {
			buf := make([]byte, f.manifest.ChunkSize())
			for k := next.Add(1) - 1; k < int64(len(list)); k = next.Add(1) - 1 {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				_, err := f.read(list[k], buf)
				mu.Lock()
				switch {
				case errors.Is(err, ErrCorrupt):
					bad, err = append(bad, list[k]), nil
				case errors.Is(err, ErrMissing):
					lacking, err = lacking+1, nil
				}
				mu.Unlock()
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if len(bad) > 0 {
		slices.Sort(bad)
		return &CorruptError{File: f.id, Chunks: bad}
	}
	if lacking > 0 {
		return fmt.Errorf("%w: %d chunks", ErrMissing, lacking)
	}
	return nil
}

// prove notes that chunk i was verified in its place.
func (f *File) prove(i int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.have.Has(i) {
		f.proven.Set(i)
	}
}

// clearHoles makes holes of what should be, once.
func (f *File) clearHoles() error {
	f.mu.Lock()
	cleared := f.cleared
	f.mu.Unlock()
	if cleared {
		return nil
	}
	hd, err := f.store.handles.acquire(f)
	if err != nil {
		return err
	}
	defer f.store.handles.release(hd)
	if err := (&exporter{file: f, out: hd}).clearHoles(); err != nil {
		return fmt.Errorf("clear the holes: %w", err)
	}
	f.mu.Lock()
	f.cleared = true
	f.mu.Unlock()
	return nil
}
