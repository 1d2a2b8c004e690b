package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk"
)

// Create returns the file with this manifest, the one that is there or a new one. The chunks that other files here hold
// are in a new one when Create returns, as far as there is room without evicting, shared where the file system can,
// otherwise copied. ctx ends the copying; a file that was not finished is removed again.
//
// Nothing is reserved: which of its chunks the file will hold is not known yet. See MakeRoom.
//
// Errors: ErrNoSpace if the disk is so full that not even an empty file can be made; ErrClosed.
func (s *Store) Create(ctx context.Context, m *content.Manifest) (*File, error) {
	id := m.ID()
	if f, ok := s.Get(id); ok {
		return f, nil
	}
	ctx, leave, err := s.enter(ctx)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", id.Short(), err)
	}
	defer leave()
	unlatch, err := s.latch(ctx, id)
	if err != nil {
		return nil, err
	}
	defer unlatch()
	if f, ok := s.Get(id); ok {
		return f, nil
	}
	f, err := s.build(m)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", id.Short(), err)
	}
	if err := s.borrow(ctx, f); err != nil {
		return nil, fmt.Errorf("create %s: %w", id.Short(), errors.Join(err, f.discard()))
	}
	s.add(f)
	return f, nil
}

// build makes a file without chunks on disk.
func (s *Store) build(m *content.Manifest) (_ *File, err error) {
	dir := s.layout.fresh()
	defer func() {
		if err != nil {
			s.sweep(dir)
			err = s.explain(err, 0)
		}
	}()
	if err := s.fs.MkdirAll(dir, dirPerm); err != nil {
		return nil, err
	}
	if err := createData(s.fs, dir, m.Size()); err != nil {
		return nil, err
	}
	return s.place(dir, m, m.Holes())
}

// createData makes the data file: one hole.
func createData(f disk.FS, dir string, size int64) (err error) {
	data, err := f.OpenFile(dataIn(dir), os.O_RDWR|os.O_CREATE|os.O_EXCL, filePerm)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, data.Close()) }()
	if err := data.Truncate(size); err != nil {
		return err
	}
	return data.Sync()
}

// place makes a directory of incoming/, in which the data file stands and is durable, a file of the store that
// holds the chunks of have. Nothing is seen in files/ before the rename, all of it after.
func (s *Store) place(dir string, m *content.Manifest, have content.Bits) (*File, error) {
	f := newFile(s, m, s.layout.file(m.ID()))
	made := f.bitmap
	made.path = bitmapIn(dir)
	if err := made.create(s.fs, have); err != nil {
		return nil, err
	}
	f.bitmap.gen, f.bitmap.slot = made.gen, made.slot
	if err := disk.WriteFile(s.fs, manifestIn(dir), m.Encode(), filePerm); err != nil { // syncs dir as well
		return nil, err
	}
	if err := s.fs.RenameNew(dir, f.dir); err != nil {
		return nil, err
	}
	if err := s.fs.SyncDir(s.layout.files()); err != nil {
		// It may be durable or not; make it neither.
		return nil, errors.Join(err, ignoreMissing(s.fs.Rename(f.dir, dir)))
	}
	f.resume(have)
	return f, nil
}

// resume marks the chunks of set, which the disk says are durable. The file is not shown to anybody yet.
func (f *File) resume(set content.Bits) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, ok := set.NextSet(0); ok; i, ok = set.NextSet(i + 1) {
		f.mark(i)
	}
	f.durable = f.have.Clone()
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
