package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/virtswarm/virtswarm/internal/content"
)

// File is one content in the store. All methods are safe for concurrent use; an index that the manifest does not
// have panics.
type File struct {
	store    *Store
	id       content.Digest
	name     string // hex id
	manifest *content.Manifest
	dir      string

	handle *handle // guarded by store.handles.mu

	// flushing is held, by a value in it, by whoever syncs the data or writes the bitmap, so that both happen
	// in one order. What follows it here is only theirs.
	flushing chan struct{}
	bitmap   bitmap

	mu      sync.Mutex // guards all below; never held during I/O
	written *sync.Cond // a chunk has left busy
	have    content.Bits
	durable content.Bits // a subset of have
	busy    content.Bits // chunks that are being written
	missing int          // chunks not in have
	held    int64        // data bytes in have
	pinned  *handle      // kept open since the first write that is not synced
	epoch   uint64       // counts failures to sync: what was written before one may be lost
	lost    error        // the last such failure, until Sync has told it
	gone    error        // why the file is no longer in the store: ErrRemoved or ErrClosed; the disk is left alone then
}

func newFile(s *Store, m *content.Manifest, dir string) *File {
	f := &File{
		store: s, id: m.ID(), name: m.ID().Hex(), manifest: m, dir: dir,
		flushing: make(chan struct{}, 1),
		bitmap:   bitmap{path: bitmapIn(dir), id: m.ID(), chunks: m.Chunks()},
		have:     m.Holes(),
		durable:  m.Holes(),
		busy:     content.NewBits(m.Chunks()),
		missing:  m.DataChunks(),
	}
	f.written = sync.NewCond(&f.mu)
	return f
}

// ID returns the id of the content.
func (f *File) ID() content.Digest { return f.id }

// Manifest returns the manifest.
func (f *File) Manifest() *content.Manifest { return f.manifest }

// Has reports whether chunk i can be read. A hole always can.
func (f *File) Has(i int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.have.Has(i)
}

// Have returns a copy of the set of chunks that can be read, holes included. It survives a kill -9.
func (f *File) Have() content.Bits {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.have.Clone()
}

// Durable returns a copy of the set of chunks that survive a loss of power, holes included.
func (f *File) Durable() content.Bits {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.durable.Clone()
}

// Complete reports whether every chunk can be read.
func (f *File) Complete() bool { return f.Missing() == 0 }

// Missing returns how many chunks cannot be read yet.
func (f *File) Missing() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.missing
}

// HeldBytes returns the data bytes, without holes, that can be read now.
func (f *File) HeldBytes() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.held
}

func (f *File) whyGone() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.gone
}

// ReadChunk reads chunk i into buf, or into a new slice if buf is too small, and returns its bytes, verified.
// With a large enough buf it does not allocate. Errors: ErrMissing if the chunk is not held; a CorruptError if
// it is damaged or cannot be read, and is from now on missing; ErrRemoved, ErrClosed.
func (f *File) ReadChunk(i int, buf []byte) ([]byte, error) {
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
		f.unmark([]int{i}, err)
		return nil, &CorruptError{File: f.id, Chunks: []int{i}}
	}
	if err != nil {
		return nil, f.chunkError("read", i, err)
	}
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
// Errors: content.ErrMismatch; ErrNoSpace, and the place is punched free again; ErrRemoved, ErrClosed.
func (f *File) WriteChunk(i int, p []byte) error {
	if err := f.manifest.Verify(i, p); err != nil {
		return err
	}
	return f.fill(i, p, nil)
}

// fill puts chunk i into its place: the verified bytes p, or if from is not nil what from does. It returns nil
// at once for a chunk that is held.
func (f *File) fill(i int, p []byte, from filler) error {
	epoch, todo, err := f.begin(i)
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
		if f.pinned == nil {
			f.store.handles.pinAgain(hd)
			f.pinned = hd
		}
		f.store.flusher.wrote(f, f.manifest.ChunkLen(i))
	}
	return false, nil
}

// mark puts chunk i into have. The caller holds mu, or is alone.
func (f *File) mark(i int) {
	if f.have.Has(i) {
		return
	}
	f.have.Set(i)
	f.missing--
	f.count(int64(f.manifest.ChunkLen(i)))
}

// take takes chunk i out of have and durable. The caller holds mu.
func (f *File) take(i int) {
	if !f.have.Has(i) {
		return
	}
	f.have.Clear(i)
	f.durable.Clear(i)
	f.missing++
	f.count(-int64(f.manifest.ChunkLen(i)))
}

// count adds n to the bytes held; those of removed files do not count for the store.
func (f *File) count(n int64) {
	f.held += n
	if f.gone == nil {
		f.store.held.Add(n)
	}
}

// unmark takes damaged chunks out of have and makes the disk forget them too, as far as it can: a bitmap that
// still names them after a crash is put right by the next read.
func (f *File) unmark(chunks []int, cause error) {
	f.flushing <- struct{}{}
	f.mu.Lock()
	told := false
	n := 0
	for _, i := range chunks {
		if f.have.Has(i) {
			told = told || f.durable.Has(i)
			f.take(i)
			n++
		}
	}
	durable, gone := f.durable.Clone(), f.gone
	f.mu.Unlock()
	var err error
	if told && gone == nil {
		err = f.bitmap.write(f.store.fs, durable)
	}
	<-f.flushing
	if n == 0 {
		return
	}
	f.store.metrics.corrupt.Add(float64(n))
	f.store.log.Warn("damaged chunks found, they must be fetched again", "file", f.id, "chunks", n, "first", chunks[0], "error", cause)
	if err != nil {
		f.store.log.Warn("cannot write the bitmap", "file", f.id, "error", err)
	}
	if told {
		f.store.changed(f)
	}
}

// discard removes the file from the store and the disk. The caller holds the latch of its id.
func (f *File) discard() error {
	s := f.store
	f.flushing <- struct{}{} // no bitmap is written from now on
	grave := s.layout.fresh()
	if err := s.fs.Rename(f.dir, grave); err != nil {
		<-f.flushing
		return err
	}
	defer s.sweep(grave)
	f.retire(ErrRemoved)
	<-f.flushing

	err := errors.Join(s.handles.drop(f), s.fs.SyncDir(s.layout.files()), s.fs.SyncDir(s.layout.incoming()))
	s.mu.Lock()
	delete(s.files, f.id)
	s.reserved -= f.manifest.DataBytes()
	s.mu.Unlock()
	return err
}

// retire makes all operations fail with why from now on. The caller holds flushing.
func (f *File) retire(why error) {
	f.mu.Lock()
	f.gone = why
	hd := f.pinned
	f.pinned = nil
	f.written.Broadcast()
	f.store.held.Add(-f.held)
	f.mu.Unlock()
	f.unpin(hd)
}

// lockFlush waits for its turn to sync or write the bitmap; the caller ends it by receiving from flushing.
func (f *File) lockFlush(ctx context.Context) error {
	select {
	case f.flushing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (f *File) chunkError(verb string, i int, err error) error {
	return fmt.Errorf("%s chunk %d of %s: %w", verb, i, f.id.Short(), err)
}
