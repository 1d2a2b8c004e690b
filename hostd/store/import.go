package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk"
)

// ImportOptions says how a file is taken in.
type ImportOptions struct {
	ChunkSize int                     // bytes; 0 means content.ChunkSizeFor the size
	Progress  func(done, total int64) // bytes of the source, holes included; calls do not overlap
}

// Import takes in the whole of src, a regular file: it shares the blocks where the file system can and hashes its
// own copy, or else reads, hashes and writes in one go; holes are not read. When it returns, the content is
// durable. After an error, the end of ctx included, nothing of it is left. It moves the file offset of src.
//
// A content that is here already is found again, after it was read, and needs no room.
//
// Errors: ErrNotRegular; ErrChanged if src was written to meanwhile; ErrNoSpace; ErrClosed.
func (s *Store) Import(ctx context.Context, src *os.File, o ImportOptions) (*File, error) {
	f, err := s.importFile(ctx, src, o)
	if err != nil {
		return nil, fmt.Errorf("import %s: %w", src.Name(), err)
	}
	return f, nil
}

func (s *Store) importFile(ctx context.Context, src *os.File, o ImportOptions) (*File, error) {
	ctx, leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	before, err := src.Stat()
	if err != nil {
		return nil, err
	}
	if !before.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %v", ErrNotRegular, before.Mode())
	}
	dir := s.layout.fresh()
	if err := s.fs.MkdirAll(dir, dirPerm); err != nil {
		return nil, s.explain(err, 0)
	}
	c := &claim{store: s}
	defer c.release()
	defer s.sweep(dir) // which is gone if all went well
	in := &intake{store: s, src: src, before: before, claim: c, o: o}
	m, err := in.read(ctx, dir)
	if errors.Is(err, ErrNoSpace) {
		s.sweep(dir)
		c.release()
		return in.recognise(ctx, s.explain(err, 0))
	}
	if err != nil {
		return nil, err
	}
	f, err := s.adopt(ctx, dir, m)
	if err != nil {
		return nil, s.explain(err, 0)
	}
	s.metrics.importedBytes.Add(float64(m.DataBytes()))
	return f, nil
}

// intake is one import on its way into incoming/.
type intake struct {
	store  *Store
	src    *os.File
	before os.FileInfo
	claim  *claim
	o      ImportOptions
}

// read makes dir/data hold the source, durably, and returns its manifest.
func (in *intake) read(ctx context.Context, dir string) (_ *content.Manifest, err error) {
	data, err := in.store.fs.OpenFile(dataIn(dir), os.O_RDWR|os.O_CREATE|os.O_EXCL, filePerm)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, data.Close()) }()
	m, err := in.share(ctx, data)
	if errors.Is(err, disk.ErrNoClone) {
		m, err = in.copy(ctx, data)
	}
	if err != nil {
		return nil, err
	}
	return m, data.Sync()
}

// share clones the source, which takes a moment, and hashes the clone, which nobody changes.
func (in *intake) share(ctx context.Context, data disk.File) (*content.Manifest, error) {
	if err := data.CloneFrom(in.src); err != nil {
		return nil, err
	}
	if err := in.unchanged(); err != nil {
		return nil, err
	}
	m, err := content.Cut(ctx, data, in.before.Size(), in.options())
	if err != nil {
		return nil, err
	}
	return m, in.claim.shared(ctx, m.DataBytes())
}

// copy reads the source once; what is hashed is what is written.
func (in *intake) copy(ctx context.Context, data disk.File) (*content.Manifest, error) {
	if err := data.Truncate(in.before.Size()); err != nil {
		return nil, err
	}
	o := in.options()
	o.Each = func(i int, p []byte) error {
		return in.claim.write(ctx, int64(len(p)), func() error {
			_, err := data.WriteAt(p, int64(i)*int64(o.ChunkSize))
			return err
		})
	}
	m, err := content.ChunkFile(ctx, in.src, in.before.Size(), o)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("%w: %w", ErrChanged, err)
	}
	if errors.Is(err, disk.ErrNoSpace) {
		return nil, fmt.Errorf("%w, in taking in a file of %d bytes", err, in.before.Size())
	}
	if err != nil {
		return nil, err
	}
	return m, in.unchanged()
}

func (in *intake) options() content.ChunkOptions {
	o := content.ChunkOptions{ChunkSize: in.o.ChunkSize}
	if o.ChunkSize == 0 {
		o.ChunkSize = content.ChunkSizeFor(in.before.Size())
	}
	if in.o.Progress != nil {
		o.Progress = func(done int64) { in.o.Progress(done, in.before.Size()) }
	}
	return o
}

// unchanged compares what stat says now with what it said at the beginning. The time of the last change of the
// inode is part of it: unlike the time of modification it cannot be set back.
func (in *intake) unchanged() error {
	after, err := in.src.Stat()
	if err != nil {
		return err
	}
	a, aok := in.before.Sys().(*syscall.Stat_t)
	b, bok := after.Sys().(*syscall.Stat_t)
	if !aok || !bok || a.Size != b.Size || a.Mtim != b.Mtim || a.Ctim != b.Ctim {
		return ErrChanged
	}
	return nil
}

// adopt makes the directory a file of the store, or gives its chunks to the file of the same content.
func (s *Store) adopt(ctx context.Context, dir string, m *content.Manifest) (*File, error) {
	unlatch, err := s.latch(ctx, m.ID())
	if err != nil {
		return nil, err
	}
	defer unlatch()
	if f, ok := s.Get(m.ID()); ok {
		return f, s.completeFrom(ctx, f, dir)
	}
	all := content.NewBits(m.Chunks())
	all.SetRange(0, m.Chunks())
	f, err := s.place(dir, m, all)
	if err != nil {
		return nil, err
	}
	s.add(f)
	return f, nil
}

// recognise reads the source, for which there was no room because of full, once more, to see whether it is here
// already.
func (in *intake) recognise(ctx context.Context, full error) (*File, error) {
	o := in.options()
	o.Progress = nil // it has been told once
	m, err := content.ChunkFile(ctx, in.src, in.before.Size(), o)
	if err != nil {
		return nil, errors.Join(full, err)
	}
	f, ok := in.store.Get(m.ID())
	if !ok {
		return nil, full
	}
	if err := errors.Join(in.unchanged(), f.complete(ctx, in.src)); err != nil {
		return nil, err
	}
	return f, nil
}

// completeFrom writes what f misses from dir/data, and syncs it.
func (s *Store) completeFrom(ctx context.Context, f *File, dir string) (err error) {
	data, err := s.fs.OpenFile(dataIn(dir), os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, data.Close()) }()
	return f.complete(ctx, data)
}

// complete writes what f misses from a source of the same content, and syncs it.
func (f *File) complete(ctx context.Context, data io.ReaderAt) error {
	defer f.Use()()
	buf := make([]byte, f.manifest.ChunkSize())
	have := f.Have()
	for i, ok := have.NextClear(0); ok; i, ok = have.NextClear(i + 1) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		p := buf[:f.manifest.ChunkLen(i)]
		if _, err := data.ReadAt(p, f.manifest.Offset(i)); err != nil {
			return err
		}
		if err := f.WriteChunk(i, p); err != nil {
			return err
		}
	}
	return f.Sync(ctx)
}
