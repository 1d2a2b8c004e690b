package content

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Source is what a content is cut from. Both methods are called from several goroutines at once.
type Source interface {
	io.ReaderAt
	// Extents yields the parts that may hold data, as the function of that name does.
	Extents(size, grain int64) iter.Seq2[Extent, error]
}

// ChunkOptions says how a content is cut.
type ChunkOptions struct {
	ChunkSize int // bytes; 0 means ChunkSizeFor the size
	Workers   int // goroutines that read and hash; 0 means GOMAXPROCS

	// Each, if set, is called once for every chunk that is not a hole, from several goroutines at once and in
	// no certain order. p is its bytes, valid during the call. An error ends the cutting and is returned.
	Each func(i int, p []byte) error

	// Progress, if set, is called now and then with the number of bytes done, holes included; calls do not
	// overlap and the number only grows.
	Progress func(done int64)
}

// ChunkFile cuts the first size bytes of f, hashing in parallel. Holes of the file are found by their extents
// and never read; other chunks of zeros become holes as well. A file that is shorter is an
// io.ErrUnexpectedEOF; a file that changes meanwhile gives the manifest of a mixture that may never have
// existed: who cares compares what stat says before and after.
func ChunkFile(ctx context.Context, f *os.File, size int64, o ChunkOptions) (*Manifest, error) {
	m, err := Cut(ctx, fileSource{f}, size, o)
	if err != nil {
		return nil, err
	}
	// What is missing at the end looks like a hole.
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() < size {
		return nil, fmt.Errorf("%s has %d bytes, not %d: %w", f.Name(), st.Size(), size, io.ErrUnexpectedEOF)
	}
	return m, nil
}

type fileSource struct{ *os.File }

func (f fileSource) Extents(size, grain int64) iter.Seq2[Extent, error] {
	return Extents(f.File, size, grain)
}

// Cut is ChunkFile for any source. One that is shorter may seem to end in a hole.
func Cut(ctx context.Context, src Source, size int64, o ChunkOptions) (*Manifest, error) {
	if o.ChunkSize == 0 {
		o.ChunkSize = ChunkSizeFor(size)
	}
	n, err := countChunks(size, o.ChunkSize)
	if err != nil {
		return nil, err
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	c := &cutter{o: o, src: src, size: size, digests: make([]Digest, n)}
	next, stop := iter.Pull2(src.Extents(size, int64(o.ChunkSize)))
	defer stop()
	c.next = next

	g, ctx := errgroup.WithContext(ctx)
	for range min(o.Workers, max(n, 1)) {
		g.Go(func() error { return c.work(ctx) })
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	c.report(size)
	return NewManifest(size, o.ChunkSize, c.digests)
}

// cutter is one run of Cut. Workers draw chunks from it one by one, so that they stay close together in the
// file and the kernel's read-ahead serves them all.
type cutter struct {
	o       ChunkOptions
	src     Source
	size    int64
	digests []Digest // each worker writes those of the chunks it drew

	mu     sync.Mutex // guards all below
	next   func() (Extent, error, bool)
	extent Extent // what is left of the current one
	done   int64  // told to Progress so far
}

// draw returns the next chunk that may hold data; ok is false after the last one.
func (c *cutter) draw() (i int, ok bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.extent.N == 0 {
		e, err, ok := c.next()
		if !ok || err != nil {
			return 0, false, err
		}
		c.extent = e
	}
	i = int(c.extent.Off / int64(c.o.ChunkSize))
	n := min(c.extent.N, int64(c.o.ChunkSize))
	c.extent.Off, c.extent.N = c.extent.Off+n, c.extent.N-n
	return i, true, nil
}

func (c *cutter) work(ctx context.Context) error {
	var buf []byte
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		i, ok, err := c.draw()
		if !ok || err != nil {
			return err
		}
		if buf == nil {
			buf = make([]byte, min(int64(c.o.ChunkSize), c.size))
		}
		off := int64(i) * int64(c.o.ChunkSize)
		p := buf[:min(int64(c.o.ChunkSize), c.size-off)]
		if err := c.cut(i, off, p); err != nil {
			return err
		}
		c.report(off + int64(len(p)))
	}
}

// cut reads chunk i into p, hashes it and hands it out, unless it is a hole.
func (c *cutter) cut(i int, off int64, p []byte) error {
	if n, err := c.src.ReadAt(p, off); n < len(p) {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read chunk %d at byte %d: %w", i, off, err)
	}
	if IsZero(p) {
		return nil
	}
	c.digests[i] = Sum(p)
	if c.o.Each == nil {
		return nil
	}
	return c.o.Each(i, p)
}

// report tells Progress that the source is done up to about byte upTo.
func (c *cutter) report(upTo int64) {
	if c.o.Progress == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if upTo > c.done {
		c.done = upTo
		c.o.Progress(upTo)
	}
}
