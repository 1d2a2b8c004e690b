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

	"github.com/virtswarm/virtswarm/internal/disk"
)

// ExportMode says how Export may hand out the bytes.
type ExportMode int

// Modes of Export.
const (
	// Auto shares the blocks copy-on-write where the file system can, else it copies.
	Auto ExportMode = iota
	// HardLink makes a second name for the store's own data file, and makes that read-only. Whoever writes to
	// it nevertheless damages the store's copy; the store will notice and fetch it again, into that file.
	HardLink
	// Copy makes a sparse copy of its own.
	Copy
)

const (
	// ExportPerm is what a file may be handed out with to whoever asks for nothing else: the source's mode is not
	// known, so nobody but the owner gets to read it. LinkPerm is that of a hard link.
	ExportPerm = 0o600
	LinkPerm   = 0o400
	// zeroStep is what is made zeros at a time of a device.
	zeroStep = 1 << 30
)

// ExportOptions says how a file is handed out.
type ExportOptions struct {
	Mode ExportMode
	// Perm are the permissions that it gets, whatever the umask of this process; nil means ExportPerm, or LinkPerm.
	// Those of a HardLink are of the store's file, and so of each hard link to it; nobody may write to it.
	Perm *fs.FileMode
	// Owner and Group are who it is to belong to; nil leaves them as they come. A HardLink's cannot be changed.
	Owner, Group *int
	// Overwrite says that the destination is a block device, and may be written over.
	Overwrite bool
}

// Export writes the content to dest, which must not exist, and makes it durable. Every byte is verified on the
// way, or in place; dest appears at once and whole, with its owner and permissions, or not at all, and no other name is
// left behind. progress, if set, is told the data bytes done; calls do not overlap.
//
// With Overwrite all of a block device is written over, with zeros where the content has holes and behind its end. If
// that ends early the device holds anything.
//
// Errors: ErrExists; ErrDest, with what the file system has against dest; ErrMissing if the file is not complete; a
// CorruptError naming all chunks that were found damaged, to be fetched again before the export is repeated;
// ErrNoSpace, also for a device that is too small; disk.ErrBusy; ErrRemoved, ErrClosed.
func (f *File) Export(ctx context.Context, dest string, o ExportOptions, progress func(done, total int64)) error {
	ctx, leave, err := f.store.enter(ctx)
	if err == nil {
		defer leave()
		defer f.Use()()
		err = f.export(ctx, dest, o, newTally(f.manifest.DataBytes(), progress))
	}
	if errors.Is(err, fs.ErrExist) {
		err = ErrExists
	}
	if err != nil {
		return fmt.Errorf("export %s to %s: %w", f.id.Short(), dest, err)
	}
	return nil
}

func (f *File) export(ctx context.Context, dest string, o ExportOptions, tally *tally) error {
	if o.Overwrite {
		return f.exportDevice(ctx, dest, tally)
	}
	files := f.store.fs
	if _, err := files.Lstat(dest); err == nil {
		return ErrExists
	} else if !errors.Is(err, fs.ErrNotExist) {
		return destError(err)
	}
	if o.Mode == HardLink {
		return f.exportLink(ctx, dest, o, tally)
	}
	out, err := f.store.newPart(dest)
	if err != nil {
		return destError(err)
	}
	err = f.exportPart(ctx, out, dest, o, tally)
	if err = errors.Join(err, destError(out.close())); err != nil {
		return err
	}
	return destError(files.SyncDir(disk.Dir(dest)))
}

// exportPart fills a file and gives it its name.
func (f *File) exportPart(ctx context.Context, out *partFile, dest string, o ExportOptions, t *tally) error {
	if err := f.allHere(); err != nil { // after it is known that a file can be made there
		return err
	}
	src, err := f.store.handles.acquire(f)
	if err != nil {
		return err
	}
	defer f.store.handles.release(src)
	x := &exporter{file: f, out: out.File, dir: disk.Dir(dest), tally: t}
	if err := x.fill(ctx, src, o.Mode); err != nil {
		return err
	}
	if err := o.hand(out); err != nil {
		return destError(err)
	}
	if err := out.Sync(); err != nil {
		return destError(err)
	}
	return destError(out.link(dest))
}

// allHere is ErrMissing unless every chunk is.
func (f *File) allHere() error {
	if n := f.Missing(); n > 0 {
		return fmt.Errorf("%w: %d of %d chunks are missing", ErrMissing, n, f.manifest.Chunks())
	}
	return nil
}

// hand gives a file that nobody sees yet its owner and permissions.
func (o ExportOptions) hand(out disk.File) error {
	if o.Owner != nil || o.Group != nil {
		uid, gid := -1, -1
		if o.Owner != nil {
			uid = *o.Owner
		}
		if o.Group != nil {
			gid = *o.Group
		}
		if err := out.Chown(uid, gid); err != nil {
			return err
		}
	}
	perm := fs.FileMode(ExportPerm)
	if o.Perm != nil {
		perm = *o.Perm
	}
	st, err := out.Stat()
	if err != nil || st.Mode().Perm() == perm {
		return err
	}
	err = out.Chmod(perm)
	if o.Perm == nil && errors.Is(err, fs.ErrPermission) {
		return nil // the file system knows no permissions, and its mount says who may read
	}
	return err
}

// destError makes an ErrDest of what the file system says of a destination, unless that has a reason of its own.
func destError(err error) error {
	if err == nil || errors.Is(err, fs.ErrExist) || hasReason(err) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrDest, err)
}

// exportLink verifies the data file and gives it a second name.
func (f *File) exportLink(ctx context.Context, dest string, o ExportOptions, t *tally) error {
	if err := f.allHere(); err != nil {
		return err
	}
	src, err := f.store.handles.acquire(f)
	if err != nil {
		return err
	}
	defer f.store.handles.release(src)
	x := &exporter{file: f, out: src.File, shared: true, tally: t}
	if err := x.run(ctx); err != nil {
		return err
	}
	perm := fs.FileMode(LinkPerm)
	if o.Perm != nil {
		perm = *o.Perm
	}
	path := dataIn(f.dir)
	if err = f.store.fs.Chmod(path, perm); err == nil {
		err = f.store.fs.Link(path, dest)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = cmp.Or(f.whyGone(), err)
	}
	if err == nil {
		err = f.store.fs.SyncDir(disk.Dir(dest))
	}
	return destError(err)
}

// exportDevice writes over a block device.
func (f *File) exportDevice(ctx context.Context, dest string, t *tally) (err error) {
	m := f.manifest
	out, size, err := f.store.fs.OpenDevice(dest, os.O_RDWR)
	if err != nil {
		return destError(err)
	}
	defer func() { err = errors.Join(err, destError(out.Close())) }()
	if size < m.Size() {
		return fmt.Errorf("%w on the device: it has %d bytes, and %d are needed", ErrNoSpace, size, m.Size())
	}
	if err := f.allHere(); err != nil {
		return err
	}
	x := &exporter{file: f, out: out, tally: t}
	if err := x.run(ctx); err != nil {
		return err
	}
	return destError(errors.Join(x.zeroRest(ctx, size), out.Sync()))
}

// zeroRest makes zeros of what of a device of size bytes is not data.
func (x *exporter) zeroRest(ctx context.Context, size int64) error {
	m := x.file.manifest
	end := int64(0) // of the data before
	for i := range m.Data {
		if err := x.zero(ctx, end, m.Offset(i)); err != nil {
			return err
		}
		end = m.Offset(i) + int64(m.ChunkLen(i))
	}
	return x.zero(ctx, end, size)
}

// zero makes zeros of a device from one offset to another.
func (x *exporter) zero(ctx context.Context, from, to int64) error {
	const block = 4096 // no device has larger ones
	if head := min(to, (from+block-1)/block*block); head > from {
		if _, err := x.out.WriteAt(make([]byte, head-from), from); err != nil {
			return err
		}
		from = head
	}
	for ; from < to; from += zeroStep {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n := min(zeroStep, to-from)
		if x.out.Zero(from, n) == nil {
			continue
		}
		if err := x.writeZeros(ctx, from, n); err != nil {
			return err
		}
	}
	return nil
}

// writeZeros is for devices that know no better way.
func (x *exporter) writeZeros(ctx context.Context, off, n int64) error {
	zeros := make([]byte, min(n, 1<<20))
	for done := int64(0); done < n; done += int64(len(zeros)) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if _, err := x.out.WriteAt(zeros[:min(int64(len(zeros)), n-done)], off+done); err != nil {
			return err
		}
	}
	return nil
}

// exporter makes out hold the content, verified.
type exporter struct {
	file   *File
	out    disk.File
	dir    string // that it is to appear in
	shared bool   // out holds the data already, unverified
	tally  *tally

	mu  sync.Mutex
	bad []int
}

func (x *exporter) fill(ctx context.Context, src *handle, mode ExportMode) error {
	if mode == Auto {
		err := src.CloneTo(x.out)
		if err != nil && !errors.Is(err, disk.ErrNoClone) {
			return destError(err)
		}
		x.shared = err == nil
	}
	m := x.file.manifest
	if !x.shared {
		if free, _, err := x.file.store.fs.Space(x.dir); err == nil && free < m.DataBytes() {
			return fmt.Errorf("%w on the disk of %s: %d bytes needed, %d free", ErrNoSpace, x.dir, m.DataBytes(), free)
		}
	}
	if err := x.out.Truncate(m.Size()); err != nil {
		return destError(err)
	}
	return x.run(ctx)
}

// run passes over all chunks in parallel. Damaged ones are collected, so that they can be fetched in one go.
func (x *exporter) run(ctx context.Context) error {
	m := x.file.manifest
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range min(runtime.GOMAXPROCS(0), max(1, m.DataChunks())) {
		g.Go(func() error {
			buf := make([]byte, m.ChunkSize())
			for i := int(next.Add(1) - 1); i < m.Chunks(); i = int(next.Add(1) - 1) {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if m.IsHole(i) {
					continue
				}
				if err := x.chunk(i, buf[:m.ChunkLen(i)]); err != nil {
					return err
				}
				x.tally.add(int64(m.ChunkLen(i)))
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if len(x.bad) > 0 {
		slices.Sort(x.bad)
		return &CorruptError{File: x.file.id, Chunks: x.bad}
	}
	if x.shared {
		return x.clearHoles()
	}
	return nil
}

// chunk makes out hold chunk i.
func (x *exporter) chunk(i int, buf []byte) error {
	m := x.file.manifest
	if x.shared {
		if _, err := x.out.ReadAt(buf, m.Offset(i)); err == nil && m.Verify(i, buf) == nil {
			return nil
		}
	}
	p, err := x.file.ReadChunk(i, buf)
	if errors.Is(err, ErrCorrupt) || errors.Is(err, ErrMissing) {
		x.mu.Lock()
		x.bad = append(x.bad, i)
		x.mu.Unlock()
		return nil
	}
	if err != nil {
		return err
	}
	_, err = x.out.WriteAt(p, m.Offset(i))
	return destError(err)
}

// clearHoles makes holes of what should be: bytes that have got into the data file where the manifest has zeros.
func (x *exporter) clearHoles() error {
	m := x.file.manifest
	zeros := make([]byte, m.ChunkSize())
	for e, err := range x.out.Extents(m.Size(), int64(m.ChunkSize())) {
		if err != nil {
			return err
		}
		for i := int(e.Off / int64(m.ChunkSize())); i < m.Chunks() && m.Offset(i) < e.Off+e.N; i++ {
			if !m.IsHole(i) {
				continue
			}
			if err := x.out.PunchHole(m.Offset(i), int64(m.ChunkLen(i))); err == nil {
				continue
			}
			if _, err := x.out.WriteAt(zeros[:m.ChunkLen(i)], m.Offset(i)); err != nil {
				return err
			}
		}
	}
	return nil
}

// tally adds up progress for a callback that must not be called twice at once.
type tally struct {
	report func(done, total int64)
	total  int64
	mu     sync.Mutex
	done   int64
}

func newTally(total int64, report func(done, total int64)) *tally {
	return &tally{report: report, total: total}
}

func (t *tally) add(n int64) {
	if t.report == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done += n
	t.report(t.done, t.total)
}
