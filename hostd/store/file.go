package store

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

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

	handle *handle      // guarded by store.handles.mu
	used   atomic.Int64 // time of last use, in Unix nanoseconds
	saved  int64        // of these, what is on the disk; the flusher's

	noting sync.Mutex // held while the note is written

	// flushing is held, by a value in it, by whoever syncs the data or writes the bitmap, so that both happen
	// in one order. What follows it here is only theirs.
	flushing chan struct{}
	bitmap   bitmap

	mu      sync.Mutex // guards all below; never held during I/O
	written *sync.Cond // a chunk has left busy
	have    content.Bits
	durable content.Bits // a subset of have
	proven  content.Bits // a subset of have: verified since the store was opened
	cleared bool         // what the manifest has as holes was made holes since then
	busy    content.Bits // chunks that are being written
	missing int          // chunks not in have
	held    int64        // data bytes in have
	note    Note         // what is remembered of the content
	users   int          // uses that have not ended
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
		proven:   content.NewBits(m.Chunks()),
		busy:     content.NewBits(m.Chunks()),
		missing:  m.DataChunks(),
	}
	f.written = sync.NewCond(&f.mu)
	f.Touch()
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
	f.proven.Clear(i)
	f.missing++
	f.count(-int64(f.manifest.ChunkLen(i)))
}

// count adds n to the bytes held; those of removed files do not count for the store.
func (f *File) count(n int64) {
	f.held += n
	if f.gone == nil {
		f.store.space.held.Add(n)
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
	f.store.space.held.Add(-f.held)
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
