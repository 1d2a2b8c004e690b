package store

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/virtswarm/virtswarm/internal/content"
)

// Drop gives up chunks and the space that they take: first the bitmap on disk stops naming them, durably, then their
// places are punched free. Those that are not held, or are being written, are left out. When it returns nil none of the
// chunks is held, unless it was written anew. After a crash at any step each of them is held and right, or not held.
//
// Errors, after which all is as before: ErrInUse; ErrLinked if an export has given the data file a second name, which
// shows the same bytes; ErrRemoved, ErrClosed; that of ctx; that of the disk, if the bitmap could not be written. If
// the file system does not punch holes, its error comes back although the chunks are not held any more.
func (f *File) Drop(ctx context.Context, chunks content.Bits) error {
	ctx, leave, err := f.store.enter(ctx)
	if err == nil {
		defer leave()
		err = f.drop(ctx, chunks)
	}
	if err != nil {
		return fmt.Errorf("drop chunks of %s: %w", f.id.Short(), err)
	}
	return nil
}

func (f *File) drop(ctx context.Context, chunks content.Bits) error {
	if err := f.lockFlush(ctx); err != nil {
		return err
	}
	defer func() { <-f.flushing }()
	hd, err := f.store.handles.acquire(f)
	if err != nil {
		return err
	}
	defer f.store.handles.release(hd)
	d, err := f.withdraw(chunks)
	if err != nil || d.bytes == 0 {
		return err
	}
	defer d.end()
	if linked, err := hasTwoNames(hd); err != nil || linked {
		d.undo(d.named)
		if err == nil {
			err = ErrLinked
		}
		return err
	}
	if d.named.Count() > 0 {
		defer f.store.changed(f)
		if err := f.bitmap.write(f.store.fs, d.durable); err != nil {
			d.undo(content.NewBits(f.manifest.Chunks())) // the disk may say one or the other
			return f.store.again(f, f.store.explain(err, 0))
		}
	}
	f.store.metrics.droppedBytes.Add(float64(d.bytes))
	return d.punch(hd)
}

// dropping is a set of chunks on its way out. They are neither held nor free to be written.
type dropping struct {
	file    *File
	chunks  content.Bits
	named   content.Bits // those that the bitmap on disk names
	durable content.Bits // what it is to name
	bytes   int64
}

// withdraw takes the chunks that can go out of the held ones. The caller holds flushing.
func (f *File) withdraw(chunks content.Bits) (*dropping, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.gone != nil:
		return nil, f.gone
	case f.users > 0:
		return nil, ErrInUse
	}
	d := &dropping{file: f, chunks: chunks.Clone(), named: chunks.Clone()}
	d.chunks.And(f.have)
	d.chunks.AndNot(f.busy)
	d.chunks.AndNot(f.manifest.Holes())
	d.named.And(d.chunks)
	d.named.And(f.durable)
	for i, ok := d.chunks.NextSet(0); ok; i, ok = d.chunks.NextSet(i + 1) {
		d.bytes += int64(f.manifest.ChunkLen(i))
	}
	f.store.space.land(d.bytes) // their places are not free before they are punched
	for i, ok := d.chunks.NextSet(0); ok; i, ok = d.chunks.NextSet(i + 1) {
		f.take(i)
	}
	f.busy.Or(d.chunks)
	d.durable = f.durable.Clone()
	return d, nil
}

// undo marks the chunks as held again, and those of durable as durable.
func (d *dropping) undo(durable content.Bits) {
	f := d.file
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, ok := d.chunks.NextSet(0); ok; i, ok = d.chunks.NextSet(i + 1) {
		f.mark(i)
	}
	f.durable.Or(durable)
}

// end lets the chunks be written again.
func (d *dropping) end() {
	d.file.store.space.land(-d.bytes)
	d.file.mu.Lock()
	defer d.file.mu.Unlock()
	d.file.busy.AndNot(d.chunks)
	d.file.written.Broadcast()
}

// punch makes a hole of each run of the chunks.
func (d *dropping) punch(hd *handle) error {
	m := d.file.manifest
	var errs []error
	for lo, ok := d.chunks.NextSet(0); ok; lo, ok = d.chunks.NextSet(lo) {
		hi, more := d.chunks.NextClear(lo)
		if !more {
			hi = m.Chunks()
		}
		// Whole chunks, also at the end of the file, where the last block would stay otherwise.
		errs = append(errs, hd.PunchHole(m.Offset(lo), int64(hi-lo)*int64(m.ChunkSize())))
		lo = hi
	}
	return errors.Join(errs...)
}

// hasTwoNames says whether somebody else sees the data file too.
func hasTwoNames(hd *handle) (bool, error) {
	st, err := hd.Stat()
	if err != nil {
		return false, err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	return ok && sys.Nlink > 1, nil
}
