package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/hostd/swarm"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk"
)

// maxHeals is how often one call fetches what then cannot be read. A disk that damages what was just written to it more
// often than that is beyond healing.
const maxHeals = 3

// Handle is an open content. Its methods are safe for concurrent use. Each that takes a ctx ends with it, and with
// Close, by ErrClosed. What the swarm and the store say is passed on: swarm.ErrNoHolder, store.ErrNoSpace,
// store.ErrRemoved and so on; with an error for which damage could not be healed, a store.CorruptError is joined.
type Handle struct {
	shared  *shared
	file    *store.File
	prio    Priority
	release func() // of pin and use
	ctx     context.Context
	cancel  context.CancelCauseFunc
	ops     sync.WaitGroup // calls and wants
	chunks  sync.Pool      // of *[]byte, each for one chunk

	mu      sync.Mutex
	closed  bool
	wants   *wants             // what the last Want has begun; nil if nothing
	tasks   map[*task]struct{} // what is being got
	getting content.Bits       // chunks of them that are not here, as far as count has looked
	fetched int64              // bytes that came since the handle was opened; see count
}

// Progress is how far something is.
type Progress struct {
	// Done and Total are bytes of data, holes left out: how many are here of those that are wanted. While Exporting is
	// set they are those written.
	Done, Total int64
	Exporting   bool
	Fetched     int64   // bytes that have come from other hosts since the handle was opened
	Rate        float64 // bytes a second that come in now, for whomever
	Sources     int     // hosts that are connected
}

func newHandle(s *shared, file *store.File, purpose Priority, unpin func()) *Handle {
	unuse := file.Use()
	h := &Handle{shared: s, file: file, prio: purpose, tasks: map[*task]struct{}{}, getting: content.NewBits(file.Manifest().Chunks())}
	h.release = func() { unuse(); unpin() }
	h.ctx, h.cancel = context.WithCancelCause(context.Background())
	h.chunks.New = func() any {
		p := make([]byte, file.Manifest().ChunkSize())
		return &p
	}
	return h
}

// Stored returns what the store has of the content.
func (h *Handle) Stored() *store.File { return h.file }

// Manifest returns the content's manifest.
func (h *Handle) Manifest() *content.Manifest { return h.file.Manifest() }

// All is the range of all chunks.
func (h *Handle) All() Range { return Range{0, h.file.Manifest().Chunks()} }

// Close withdraws what is wanted, ends all calls that are under way, and waits for them. It may be called again. It
// must not be called by a progress function.
func (h *Handle) Close() {
	h.mu.Lock()
	closed := h.closed
	h.closed = true
	h.mu.Unlock()
	h.cancel(ErrClosed)
	h.ops.Wait()
	if !closed {
		h.shared.leave(h)
		h.release()
	}
}

// begin counts a call until end; the returned context ends with the handle.
func (h *Handle) begin(ctx context.Context) (_ context.Context, end func(*error), err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, nil, ErrClosed
	}
	h.ops.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(h.ctx, func() { cancel(ErrClosed) })
	return ctx, func(err *error) {
		if *err != nil && context.Cause(ctx) == ErrClosed {
			*err = ErrClosed
		}
		stop()
		cancel(nil)
		h.ops.Done()
	}, nil
}

// ReadAt fills p with the bytes from off on, verified by this call. Chunks that the store lacks, or has damaged, are
// fetched first, at the handle's priority. As io.ReaderAt has it, fewer bytes than p takes come with an error, which is
// io.EOF at the end of the content. Whole chunks, and parts of p that are whole chunks, are read without being copied.
func (h *Handle) ReadAt(ctx context.Context, p []byte, off int64) (n int, err error) {
	m := h.Manifest()
	if off < 0 {
		return 0, fmt.Errorf("read %s: offset %d", h.file.ID().Short(), off)
	}
	ctx, end, err := h.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer end(&err)
	last := min(off+int64(len(p)), m.Size())
	if off < last {
		first := Range{int(off / int64(m.ChunkSize())), int((last-1)/int64(m.ChunkSize())) + 1}
		if chunks := h.lacking(h.bits(first)); first.End-first.First > 1 && chunks.Count() > 0 {
			if err := h.get(ctx, chunks, nil); err != nil { // all at once rather than one after the other
				return 0, err
			}
		}
	}
	for at := off; at < last; at = off + int64(n) {
		i := int(at / int64(m.ChunkSize()))
		k, err := h.readPart(ctx, i, int(at-m.Offset(i)), p[n:])
		n += k
		if err != nil {
			return n, err
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// readPart reads what p takes of chunk i, from skip on.
func (h *Handle) readPart(ctx context.Context, i, skip int, p []byte) (int, error) {
	length := h.Manifest().ChunkLen(i)
	n := min(len(p), length-skip)
	if n == length {
		if err := h.readChunk(ctx, i, p[:n:n]); err != nil {
			return 0, err
		}
		return n, nil
	}
	buf := h.chunks.Get().(*[]byte)
	defer h.chunks.Put(buf)
	if err := h.readChunk(ctx, i, (*buf)[:length]); err != nil {
		return 0, err
	}
	return copy(p, (*buf)[skip:length]), nil
}

// readChunk fills p with chunk i.
func (h *Handle) readChunk(ctx context.Context, i int, p []byte) error {
	return h.healed(ctx, Range{i, i + 1}, nil, func() error {
		_, err := h.file.ReadChunk(i, p)
		return err
	})
}

// Wait returns nil once the store holds all chunks of some ranges: what is missing is fetched, at the handle's priority
// or that of a Want, if it fits. It does not read what is here already. Everything then is in the store, but not yet
// durable: see store.File.Sync. progress, if set, is told now and then, and at the end; its calls do not overlap.
func (h *Handle) Wait(ctx context.Context, progress func(Progress), ranges ...Range) (err error) {
	ctx, end, err := h.begin(ctx)
	if err != nil {
		return err
	}
	defer end(&err)
	chunks := h.bits(ranges...)
	if err := h.makeRoom(ctx, chunks); err != nil {
		return err
	}
	return h.get(ctx, chunks, progress)
}

// Export brings what is missing, if it fits, and writes the content to dest: see store.File.Export. What is found
// damaged on the way is fetched again. progress, if set, is told of both; its calls do not overlap.
//
// Errors: also those of store.File.Export; what is wrong with dest is found out before anything is fetched.
func (h *Handle) Export(ctx context.Context, dest string, o store.ExportOptions, progress func(Progress)) (err error) {
	ctx, end, err := h.begin(ctx)
	if err != nil {
		return err
	}
	defer end(&err)
	if progress == nil {
		progress = func(Progress) {}
	}
	export := func() error {
		return h.file.Export(ctx, dest, o, func(done, total int64) {
			progress(Progress{Done: done, Total: total, Exporting: true, Fetched: h.bytesFetched()})
		})
	}
	if !h.file.Complete() {
		if err := export(); !errors.Is(err, store.ErrMissing) {
			return err // something is at dest
		}
		if err := h.bring(ctx, h.bits(h.All()), progress); err != nil {
			return err
		}
	}
	return h.healed(ctx, h.All(), progress, export)
}

// File brings the chunks of some ranges, if they fit, and returns a descriptor of the data for somebody who reads them
// without this package: each of them was verified since this process began. Of other chunks the descriptor has
// anything. The caller closes it, at the latest with the handle, and does not write to it.
func (h *Handle) File(ctx context.Context, ranges ...Range) (file disk.File, err error) {
	ctx, end, err := h.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end(&err)
	chunks := h.bits(ranges...)
	if err := h.bring(ctx, chunks, nil); err != nil {
		return nil, err
	}
	err = h.healed(ctx, h.All(), nil, func() (err error) {
		file, err = h.file.Open(ctx, chunks)
		return err
	})
	return file, err
}

// Progress tells how far the handle is with what is wanted through it now.
func (h *Handle) Progress() Progress {
	var sum sum
	h.addTo(&sum)
	if sum.file == nil {
		return Progress{Fetched: sum.fetched}
	}
	return sum.progress()
}

// healed has do done, which reads chunks of a range. What it finds missing or damaged is fetched, and then it is done
// again.
func (h *Handle) healed(ctx context.Context, of Range, progress func(Progress), do func() error) error {
	for heals := 0; ; heals++ {
		err := do()
		damage, damaged := errors.AsType[*store.CorruptError](err)
		if !damaged && !errors.Is(err, store.ErrMissing) || heals == maxHeals {
			return err
		}
		again := h.bits(of)
		if damaged {
			h.shared.log.Warn("a stored content is damaged, fetching the damaged chunks again", "id", h.file.ID(), "chunks", len(damage.Chunks))
			again = content.NewBits(again.Len())
			for _, i := range damage.Chunks {
				again.Set(i)
			}
		}
		if err := h.get(ctx, again, progress); err != nil {
			if damaged {
				return errors.Join(damage, err)
			}
			return err
		}
	}
}

// bring gets chunks as far as they are missing, after making room for them.
func (h *Handle) bring(ctx context.Context, chunks content.Bits, progress func(Progress)) error {
	if h.lacking(chunks).Count() == 0 {
		return nil
	}
	if err := h.makeRoom(ctx, chunks); err != nil {
		return err
	}
	return h.get(ctx, chunks, progress)
}

// makeRoom makes room for those of some chunks that are missing.
func (h *Handle) makeRoom(ctx context.Context, chunks content.Bits) error {
	lack := bytesOf(h.Manifest(), h.lacking(chunks))
	if lack == 0 {
		return nil
	}
	return h.shared.store.MakeRoom(ctx, lack)
}

// lacking returns those of some chunks that the store does not hold.
func (h *Handle) lacking(chunks content.Bits) content.Bits {
	lack := chunks.Clone()
	lack.AndNot(h.file.Have())
	return lack
}

// bytesOf sums the lengths of the chunks of a set that are no holes.
func bytesOf(m *content.Manifest, chunks content.Bits) (bytes int64) {
	for i, ok := chunks.NextSet(0); ok; i, ok = chunks.NextSet(i + 1) {
		if !m.IsHole(i) {
			bytes += int64(m.ChunkLen(i))
		}
	}
	return bytes
}

// get has the swarm bring chunks, at the handle's priority.
func (h *Handle) get(ctx context.Context, chunks content.Bits, progress func(Progress)) error {
	t := h.track(chunks)
	defer h.untrack(t)
	return h.call(ctx, t, chunks, h.prio, func(p swarm.Progress) {
		if progress != nil {
			progress(Progress{Done: p.Done, Total: p.Total, Fetched: h.bytesFetched(), Rate: p.Rate, Sources: p.Sources()})
		}
	})
}
