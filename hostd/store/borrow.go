package store

import (
	"context"
	"encoding/binary"
	"errors"
	"math/bits"
	"math/rand/v2"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk"
)

// loan is a chunk that another file holds and the new file wants.
type loan struct {
	from *File
	to   int32 // chunk of the new file
	at   int32 // chunk of from
}

// borrow fills f with the chunks that other files hold. What cannot be had, for whatever reason but the end of ctx, is
// left to be fetched; on a full disk that is all the rest.
func (s *Store) borrow(ctx context.Context, f *File) error {
	loans := s.loans(f)
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range min(runtime.GOMAXPROCS(0), len(loans)) {
		g.Go(func() error {
			buf := make([]byte, f.manifest.ChunkSize())
			for k := next.Add(1) - 1; k < int64(len(loans)); k = next.Add(1) - 1 {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				err := f.settleLoan(loans[k], buf)
				if errors.Is(err, disk.ErrNoSpace) {
					next.Store(int64(len(loans)))
				}
				if errors.Is(err, ErrClosed) {
					return err
				}
				if err != nil {
					s.log.Debug("cannot copy a local chunk, it will be fetched", "file", f.id, "chunk", loans[k].to, "error", err)
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// loans finds for every chunk of f a chunk of another file that has the same digest and is held. The index is
// built of what is wanted, not of what is there: it is small, and gone when the work is done.
func (s *Store) loans(f *File) []loan {
	wanted := indexWanted(f.manifest)
	served := f.Have()
	var found []loan
	for _, other := range s.List() {
		for at, d := range other.manifest.Data {
			if wanted.left == 0 {
				return found
			}
			to := wanted.find(d)
			if to < 0 || served.Has(to) || f.manifest.Digest(to) != d || !other.Has(at) {
				continue
			}
			wanted.left--
			for ; to >= 0; to = int(wanted.next[to]) - 1 {
				if f.manifest.Digest(to) == d {
					served.Set(to)
					found = append(found, loan{from: other, to: int32(to), at: int32(at)})
				}
			}
		}
	}
	return found
}

// wantedIndex finds the chunks of a manifest by the first eight bytes of their digests; who takes a chunk for
// wanted compares the whole digest. Chunks with the same eight bytes are chained: they are the same chunk, or
// somebody took great pains, and then they are fetched. It takes 12 to 20 bytes a chunk of the manifest.
type wantedIndex struct {
	manifest *content.Manifest
	left     int     // chains in slots
	slots    []int32 // open addressing, linear probing; the first chunk of a chain plus one, 0 if free
	next     []int32 // by chunk: the next one of its chain plus one, 0 for none
	factor   uint64  // odd and random, so that nobody can choose digests that crowd
	shift    int
}

func indexWanted(m *content.Manifest) *wantedIndex {
	log := bits.Len(uint(m.DataChunks())) + 1 // at most half full
	w := &wantedIndex{
		manifest: m,
		slots:    make([]int32, 1<<log),
		next:     make([]int32, m.Chunks()),
		factor:   rand.Uint64() | 1,
		shift:    64 - log,
	}
	for i, d := range m.Data {
		slot := w.probe(prefix(d))
		if w.slots[slot] == 0 {
			w.left++
		}
		w.next[i] = w.slots[slot]
		w.slots[slot] = int32(i) + 1
	}
	return w
}

// probe returns the slot of the chain with this prefix, or the free one where it would be.
func (w *wantedIndex) probe(prefix64 uint64) int {
	for slot := int(prefix64 * w.factor >> w.shift); ; slot = (slot + 1) & (len(w.slots) - 1) {
		head := w.slots[slot]
		if head == 0 || prefix(w.manifest.Digest(int(head)-1)) == prefix64 {
			return slot
		}
	}
}

// find returns the first chunk of the chain of d, -1 if d is not wanted.
func (w *wantedIndex) find(d content.Digest) int {
	return int(w.slots[w.probe(prefix(d))]) - 1
}

func prefix(d content.Digest) uint64 { return binary.LittleEndian.Uint64(d[:8]) }

// settleLoan brings one chunk into f, by sharing its blocks or copying its bytes. It is verified in its new
// place or on its way.
func (f *File) settleLoan(l loan, buf []byte) error {
	n := f.manifest.ChunkLen(int(l.to))
	if !f.store.noClone.Load() {
		err := f.tryFill(int(l.to), nil, &lender{l, buf[:n]})
		if err == nil {
			f.store.metrics.dedupBytes.Add(float64(n))
			return nil
		}
		// The last chunk alone may end off a block boundary, which says nothing of the others.
		if errors.Is(err, disk.ErrNoClone) && n == f.manifest.ChunkSize() {
			f.store.noClone.Store(true)
		}
	}
	p, err := l.from.read(int(l.at), buf)
	if err != nil {
		return err
	}
	if err := f.tryFill(int(l.to), p, nil); err != nil {
		return err
	}
	f.store.metrics.dedupBytes.Add(float64(n))
	return nil
}

// lender is the filler that shares blocks.
type lender struct {
	loan
	buf []byte
}

// fill implements filler.
func (l *lender) fill(dst *handle, i int) error {
	src, err := l.from.store.handles.acquire(l.from)
	if err != nil {
		return err
	}
	defer l.from.store.handles.release(src)
	to, from := dst.owner.manifest, l.from.manifest
	if err := dst.CloneRange(src.File, from.Offset(int(l.at)), int64(len(l.buf)), to.Offset(i)); err != nil {
		return err
	}
	if _, err := dst.ReadAt(l.buf, to.Offset(i)); err != nil {
		return err
	}
	return to.Verify(i, l.buf)
}
