package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
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

// exportPerm is before umask: what is handed out is an ordinary file.
const exportPerm = 0o644

// Export writes the content to dest, which must not exist, and makes it durable. Every byte is verified on the
// way, or in place; dest appears at once and whole, or not at all, and no other name is left behind. progress, if
// set, is told the data bytes done; calls do not overlap.
//
// Errors: ErrExists; ErrMissing if the file is not complete; a CorruptError naming all chunks that were found
// damaged, to be fetched again before the export is repeated; ErrNoSpace; ErrRemoved, ErrClosed.
func (f *File) Export(ctx context.Context, dest string, mode ExportMode, progress func(done, total int64)) error {
	ctx, leave, err := f.store.enter(ctx)
	if err == nil {
		defer leave()
		defer f.Use()()
		err = f.export(ctx, dest, mode, progress)
	}
	if errors.Is(err, fs.ErrExist) {
		err = ErrExists
	}
	if err != nil {
		return fmt.Errorf("export %s to %s: %w", f.id.Short(), dest, err)
	}
	return nil
}

func (f *File) export(ctx context.Context, dest string, mode ExportMode, progress func(done, total int64)) error {
	files := f.store.fs
	if _, err := files.Lstat(dest); err == nil {
		return ErrExists
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if n := f.Missing(); n > 0 {
		return fmt.Errorf("%w: %d of %d chunks are missing", ErrMissing, n, f.manifest.Chunks())
	}
	src, err := f.store.handles.acquire(f)
	if err != nil {
		return err
	}
	defer f.store.handles.release(src)
	tally := newTally(f.manifest.DataBytes(), progress)
	if mode == HardLink {
		return f.exportLink(ctx, src, dest, tally)
	}
	out, err := files.CreateUnnamed(filepath.Dir(dest), exportPerm)
	if err != nil {
		return err
	}
	x := &exporter{file: f, out: out, tally: tally}
	err = x.fill(ctx, src, mode)
	if err == nil {
		err = out.Sync()
	}
	if err == nil {
		err = out.Link(dest)
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	return files.SyncDir(filepath.Dir(dest))
}

// exportLink verifies the data file and gives it a second name.
func (f *File) exportLink(ctx context.Context, src *handle, dest string, t *tally) error {
	x := &exporter{file: f, out: src.File, shared: true, tally: t}
	if err := x.run(ctx); err != nil {
		return err
	}
	path := dataIn(f.dir)
	err := f.store.fs.Chmod(path, 0o444)
	if err == nil {
		err = f.store.fs.Link(path, dest)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = cmp.Or(f.whyGone(), err)
	}
	if err != nil {
		return err
	}
	return f.store.fs.SyncDir(filepath.Dir(dest))
}

// exporter makes out hold the content, verified.
type exporter struct {
	file   *File
	out    disk.File
	shared bool // out holds the data already, unverified
	tally  *tally

	mu  sync.Mutex
	bad []int
}

func (x *exporter) fill(ctx context.Context, src *handle, mode ExportMode) error {
	if mode == Auto {
		err := src.CloneTo(x.out)
		if err != nil && !errors.Is(err, disk.ErrNoClone) {
			return err
		}
		x.shared = err == nil
	}
	m := x.file.manifest
	if !x.shared {
		dir := filepath.Dir(x.out.Name())
		if free, _, err := x.file.store.fs.Space(dir); err == nil && free < m.DataBytes() {
			return fmt.Errorf("%w on the disk of %s: %d bytes needed, %d free", ErrNoSpace, dir, m.DataBytes(), free)
		}
	}
	if err := x.out.Truncate(m.Size()); err != nil {
		return err
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
	return err
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
