package store

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/virtswarm/virtswarm/internal/content"
)

// ReadChunk reads chunk i into buf, or into a new slice if buf is too small, and returns its bytes, verified.
// With a large enough buf it does not allocate. Errors: ErrMissing if the chunk is not held; a CorruptError if
// it is damaged or cannot be read, and is from now on missing; ErrRemoved, ErrClosed.
func (f *File) ReadChunk(i int, buf []byte) ([]byte, error) {
	f.Touch()
	return f.read(i, buf)
}

// read is ReadChunk for the store's own purposes: it is no use of the file.
func (f *File) read(i int, buf []byte) ([]byte, error) {
	n := f.manifest.ChunkLen(i)
	if cap(buf) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if f.manifest.IsHole(i) {
		clear(buf)
		return buf, nil
	}
	if !f.Has(i) {
		return nil, f.chunkError("read", i, ErrMissing)
	}
	err := f.readVerified(i, buf)
	if isDamage(err) {
		// Once more: somebody may have been writing it anew just now.
		err = f.readVerified(i, buf)
	}
	if isDamage(err) {
		if !f.unmark(i, err) { // dropped meanwhile, or another reader has found out
			return nil, f.chunkError("read", i, ErrMissing)
		}
		return nil, &CorruptError{File: f.id, Chunks: []int{i}}
	}
	if err != nil {
		return nil, f.chunkError("read", i, err)
	}
	f.prove(i)
	f.store.metrics.readBytes.Add(float64(n))
	return buf, nil
}

// readVerified fills p with chunk i and compares the digest.
func (f *File) readVerified(i int, p []byte) error {
	hd, err := f.store.handles.acquire(f)
	if err != nil {
		return err
	}
	_, err = hd.ReadAt(p, f.manifest.Offset(i))
	f.store.handles.release(hd)
	if err != nil {
		return err
	}
	return f.checkDigest(i, p)
}

// checkDigest compares bytes with the digest of chunk i.
func (f *File) checkDigest(i int, p []byte) error {
	return f.manifest.Verify(i, p)
}

// isDamage reports whether err, from readVerified, says that the bytes on disk are not the chunk: they differ,
// are cut off, or the medium does not give them back.
func isDamage(err error) bool {
	return errors.Is(err, content.ErrMismatch) || errors.Is(err, io.EOF) || errors.Is(err, unix.EIO)
}

// WriteChunk verifies p against the digest of chunk i and writes it. When it returns nil the chunk can be read
// by everybody; it survives a kill -9 now and a loss of power after the next Sync, or within about a second. A
// chunk that is held already is left alone, and of several writers of one chunk one writes and the others wait.
// It does not allocate.
//
// If there is no room the evictor is asked to make some. Errors: content.ErrMismatch; ErrNoSpace, and the place is
// punched free again; ErrRemoved, ErrClosed.
func (f *File) WriteChunk(i int, p []byte) error {
	if err := f.checkDigest(i, p); err != nil {
		return err
	}
	f.Touch()
	err := f.tryFill(i, p, nil)
	for ask := 0; errors.Is(err, ErrNoSpace) && ask < maxAsks; ask++ {
		if failed := f.store.askForRoom(f.store.ctx, int64(len(p)), err); failed != nil {
			return failed
		}
		err = f.tryFill(i, p, nil)
	}
	f.store.flusher.relieve(f)
	return err
}

// tryFill puts chunk i into its place if there is room: the verified bytes p, or if from is not nil what from does. It
// returns nil at once for a chunk that is held.
func (f *File) tryFill(i int, p []byte, from filler) error {
	epoch, todo, err := f.begin(i)
	if todo {
		n := int64(f.manifest.ChunkLen(i))
		if err = f.store.space.take(n); err != nil {
			f.end(i, nil, nil)
			return f.chunkError("write", i, err)
		}
		defer f.store.space.giveBack(n)
	}
	for todo {
		todo, err = f.put(i, p, from, &epoch)
	}
	if err != nil {
		return f.chunkError("write", i, err)
	}
	return nil
}

// filler brings chunk i into the data file by other means than a write, and verifies it there.
type filler interface {
	fill(dst *handle, i int) error
}

// put writes chunk i once. again says that the data was lost on its way to the disk and must be written again.
func (f *File) put(i int, p []byte, from filler, epoch *uint64) (again bool, err error) {
	hd, err := f.store.handles.acquire(f)
	if err != nil {
		f.end(i, nil, nil)
		return false, err
	}
	defer f.store.handles.release(hd)
	if from != nil {
		err = from.fill(hd, i)
	} else {
		_, err = hd.WriteAt(p, f.manifest.Offset(i))
	}
	if err != nil {
		// Nobody else writes here now, so nothing but our own half chunk goes.
		_ = hd.PunchHole(f.manifest.Offset(i), int64(f.manifest.ChunkLen(i)))
		f.end(i, nil, nil)
		return false, f.store.explain(err, int64(f.manifest.ChunkLen(i)))
	}
	if from == nil {
		f.store.metrics.writtenBytes.Add(float64(len(p)))
	}
	return f.end(i, hd, epoch)
}

// begin claims chunk i for writing; todo is false if it is held, after waiting for whoever is writing it.
func (f *File) begin(i int) (epoch uint64, todo bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		switch {
		case f.gone != nil:
			return 0, false, f.gone
		case f.have.Has(i):
			return 0, false, nil
		case !f.busy.Has(i):
			f.busy.Set(i)
			return f.epoch, true, nil
		}
		f.written.Wait()
	}
}

// end gives up the claim on chunk i and, if it was written to hd in this epoch, marks it as held. If a sync has
// failed meanwhile, the claim stays and the chunk must be written again in the epoch that is returned.
func (f *File) end(i int, hd *handle, epoch *uint64) (again bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if hd != nil && *epoch != f.epoch {
		*epoch = f.epoch
		return true, nil
	}
	f.busy.Clear(i)
	f.written.Broadcast()
	switch {
	case hd == nil:
	case f.gone != nil:
		return false, f.gone
	default:
		f.mark(i)
		f.proven.Set(i)
		if f.pinned == nil {
			f.store.handles.pinAgain(hd)
			f.store.handles.pins.Add(1)
			f.pinned = hd
		}
		f.store.flusher.wrote(f, f.manifest.ChunkLen(i))
	}
	return false, nil
}

// unmark takes a damaged chunk out of have and makes the disk forget it too, as far as it can: a bitmap that still
// names it after a crash is put right by the next read. It returns false if the chunk was not held any more.
func (f *File) unmark(i int, cause error) bool {
	f.flushing <- struct{}{}
	f.mu.Lock()
	held, named := f.have.Has(i), f.durable.Has(i)
	f.take(i)
	durable, gone := f.durable.Clone(), f.gone
	f.mu.Unlock()
	var err error
	if named && gone == nil {
		err = f.bitmap.write(f.store.fs, durable)
	}
	<-f.flushing
	if !held {
		return false
	}
	f.store.metrics.corrupt.Inc()
	f.store.log.Warn("damaged chunk found, it must be fetched again", "file", f.id, "chunk", i, "error", cause)
	if f.store.o.OnDamage != nil {
		f.store.o.OnDamage(f, i)
	}
	if err != nil {
		f.store.log.Warn("cannot write the bitmap", "file", f.id, "error", err)
	}
	if named {
		f.store.changed(f)
	}
	return true
}

func (f *File) chunkError(verb string, i int, err error) error {
	return fmt.Errorf("%s chunk %d of %s: %w", verb, i, f.id.Short(), err)
}
