package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/disk/disktest"
)

// story is a life of a store in which everything happens once, told to a file system that fails somewhere. It
// notes what the store has acknowledged.
type story struct {
	fs     *disktest.Fault
	dir    string
	source *os.File

	a, b, c  []byte // contents: imported; fetched, one chunk as in a; removed in the end
	manifest *content.Manifest

	store    *Store
	file     *File
	imported bool
	removed  bool // Remove(c) was acknowledged, or began
	begun    bool
	durable  content.Bits // of b, as the store said
	have     content.Bits // of b, as the store said last
}

func newStory(t *testing.T, seed uint64) *story {
	t.Helper()
	root := t.TempDir()
	f, err := disktest.NewFault(disk.OS{}, filepath.Join(root, "attic"), seed)
	if err != nil {
		t.Fatal(err)
	}
	s := &story{fs: f, dir: filepath.Join(root, "store"), a: random(1, 2*testChunk+9), b: random(2, 6*testChunk+5), c: random(3, 7)}
	copy(s.b[4*testChunk:], s.a[:testChunk])
	s.source = source(t, s.a)
	s.manifest = manifestOf(t, s.b)
	s.durable, s.have = content.NewBits(s.manifest.Chunks()), content.NewBits(s.manifest.Chunks())
	return s
}

// tell runs the story to its end or to the first error, which is what the store's callers do.
func (s *story) tell(t *testing.T) (err error) {
	ctx := context.Background()
	if s.store, err = Open(Options{Dir: s.dir, FS: s.fs}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.store.Close()) }()
	third := source(t, s.c)
	gone, err := s.store.Import(ctx, third, ImportOptions{})
	if err != nil {
		return err
	}
	if _, err = s.store.Import(ctx, s.source, ImportOptions{ChunkSize: testChunk}); err != nil {
		return err
	}
	s.imported = true
	if s.file, err = s.store.Create(ctx, s.manifest); err != nil {
		return err
	}
	defer func() { s.have = s.file.Have() }()
	for i := range s.manifest.Chunks() {
		err := s.file.WriteChunk(i, part(s.file, s.b, i))
		if err != nil {
			return err
		}
		if i%2 == 1 {
			if err := s.file.Sync(ctx); err != nil {
				return err
			}
			s.durable = s.file.Durable()
			if !s.durable.Equal(s.file.Have()) {
				t.Error("Sync has not made all durable")
			}
		}
	}
	if err := s.drop(ctx); err != nil {
		return err
	}
	s.begun = true
	if err := s.store.Remove(gone.ID()); err != nil {
		return err
	}
	s.removed = true
	return nil
}

// drop gives up three chunks and gets one of them again.
func (s *story) drop(ctx context.Context) error {
	gone := content.NewBits(s.manifest.Chunks())
	for _, i := range []int{1, 2, 5} {
		gone.Set(i)
	}
	s.durable.AndNot(gone) // from now on they may be there or not
	if err := s.file.Drop(ctx, gone); err != nil {
		return err
	}
	if s.file.Has(1) || s.file.Has(2) || s.file.Has(5) || s.file.Missing() != 3 {
		return errors.New("dropped chunks are there")
	}
	if err := s.file.WriteChunk(2, part(s.file, s.b, 2)); err != nil {
		return err
	}
	if err := s.file.Sync(ctx); err != nil {
		return err
	}
	s.durable.Set(2)
	return nil
}

// check opens the store as it was left and compares it with what was acknowledged: must is the set of chunks of b
// that it may not have lost.
func (s *story) check(t *testing.T, must content.Bits) {
	t.Helper()
	quick, err := disktest.NewFault(disk.OS{}, filepath.Join(filepath.Dir(s.dir), "attic"), 0)
	if err != nil {
		t.Fatal(err)
	}
	store, err := Open(Options{Dir: s.dir, FS: quick})
	if err != nil {
		t.Fatalf("open after the crash: %v", err)
	}
	defer store.Close()
	wantEmptyDir(t, filepath.Join(s.dir, "incoming"))
	wantEmptyDir(t, filepath.Join(s.dir, "damaged"))

	var held int64
	contents := map[content.Digest][]byte{manifestOf(t, s.a).ID(): s.a, s.manifest.ID(): s.b}
	for _, f := range store.List() {
		held += f.HeldBytes()
		p, ok := contents[f.ID()]
		if !ok {
			p = s.c
			if s.removed {
				t.Error("a removed file is back")
			}
		}
		have := f.Have()
		for i, ok := have.NextSet(0); ok; i, ok = have.NextSet(i + 1) {
			got, err := f.ReadChunk(i, nil)
			if err != nil {
				t.Fatalf("a chunk is marked that was lost: %v", err)
			}
			if !bytes.Equal(got, part(f, p, i)) {
				t.Fatalf("chunk %d reads as something else", i)
			}
		}
	}
	if u := store.Usage(); u.Arriving != 0 || u.Bytes != held {
		t.Errorf("usage %+v, want %d held", u, held)
	}
	if f, ok := store.Get(manifestOf(t, s.a).ID()); s.imported && (!ok || !f.Complete()) {
		t.Error("an imported file was lost")
	}
	if _, ok := store.Get(content.Sum(nil)); ok {
		t.Error("a file from nowhere")
	}
	f, ok := store.Get(s.manifest.ID())
	if lost := must.Clone(); ok {
		lost.AndNot(f.Have())
		if n := lost.Count(); n > 0 {
			t.Errorf("%d chunks were lost", n)
		}
	} else if lost.Count() > 0 {
		t.Error("a file was lost")
	}
	// And life goes on.
	wantContent(t, put(t, store, s.a), s.a)
	wantContent(t, put(t, store, s.b), s.b)
}

// TestKillAnywhere kills the process before every single change to the disk. What was written is in the page
// cache, so all that was acknowledged is there again, synced or not.
func TestKillAnywhere(t *testing.T) {
	t.Parallel()
	for step := 1; ; step++ {
		s := newStory(t, 0)
		s.fs.KillAt(step)
		err := s.tell(t)
		s.check(t, s.have)
		if t.Failed() {
			t.Fatalf("killed at step %d: %v", step, err)
		}
		if !s.fs.Killed() {
			t.Logf("%d steps", step)
			return
		}
	}
}

// TestPowerLossAnywhere cuts the power before every single change, with different luck.
func TestPowerLossAnywhere(t *testing.T) {
	t.Parallel()
	for step := 1; ; step++ {
		killed := true
		for seed := range uint64(2) {
			s := newStory(t, uint64(step)<<8|seed)
			s.fs.KillAt(step)
			err := s.tell(t)
			killed = s.fs.Killed()
			if err := s.fs.PowerOff(); err != nil {
				t.Fatal(err)
			}
			s.check(t, s.durable)
			if t.Failed() {
				t.Fatalf("power lost at step %d, seed %d: %v", step, seed, err)
			}
		}
		if !killed {
			return
		}
	}
}

// TestErrorAnywhere fails every single change once, in several ways. The caller gives up at the first error and
// closes the store; later the power goes as well.
func TestErrorAnywhere(t *testing.T) {
	t.Parallel()
	failures := map[string]error{
		"medium error": syscall.EIO,
		"full disk":    disktest.NoSpace(),
		"torn":         errors.Join(disktest.ErrTorn, disktest.NoSpace()),
	}
	for name, failure := range failures {
		t.Run(name, func(t *testing.T) {
			for step := 1; ; step++ {
				s := newStory(t, uint64(step))
				before := s.fs.Ops()
				s.fs.FailAt(step, failure)
				err := s.tell(t)
				if errors.Is(failure, syscall.ENOSPC) && err != nil && !errors.Is(err, ErrNoSpace) {
					t.Errorf("a full disk shows as %v", err)
				}
				reached := s.fs.Ops()-before >= step
				if err := s.fs.PowerOff(); err != nil {
					t.Fatal(err)
				}
				s.check(t, s.durable)
				if t.Failed() {
					t.Fatalf("failed at step %d: %v", step, err)
				}
				if !reached {
					return
				}
			}
		})
	}
}

// TestFailedSyncForgets: after fsync has failed, the kernel may have dropped the pages. What was not durable must
// be written again, and a later successful fsync must not be taken for proof.
func TestFailedSyncForgets(t *testing.T) {
	s := newStory(t, 1)
	store, err := Open(Options{Dir: s.dir, FS: s.fs})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	f, err := store.Create(t.Context(), s.manifest)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if err := f.WriteChunk(i, part(f, s.b, i)); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if err := f.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.fs.FailAt(1, syscall.EIO)
	if err := f.Sync(t.Context()); !errors.Is(err, syscall.EIO) {
		t.Fatalf("sync: %v", err)
	}
	if !f.Has(0) || f.Has(1) || f.Has(2) || f.HeldBytes() != testChunk {
		t.Fatalf("%d bytes held after a failed sync", f.HeldBytes())
	}
	if err := f.Sync(t.Context()); err != nil {
		t.Fatalf("the error was told twice: %v", err)
	}
	if err := f.WriteChunk(2, part(f, s.b, 2)); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.durable = f.Durable()
	if err := s.fs.PowerOff(); err != nil {
		t.Fatal(err)
	}
	store.Close()
	s.check(t, s.durable)
}

// TestSyncFailsDuringWrite: a chunk that was on its way while a sync failed is written once more.
func TestSyncFailsDuringWrite(t *testing.T) {
	s := newStory(t, 1)
	store, err := Open(Options{Dir: s.dir, FS: s.fs})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	f, err := store.Create(t.Context(), s.manifest)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.WriteChunk(0, part(f, s.b, 0)); err != nil {
		t.Fatal(err)
	}
	writes := 0
	epoch, todo, err := f.begin(1) // the claim is taken before the sync fails, as in WriteChunk
	if err != nil || !todo {
		t.Fatal(todo, err)
	}
	s.fs.OnOp(func(op disktest.Op) error {
		switch op.Name {
		case "sync":
			return syscall.EIO
		case "write":
			writes++
		}
		return nil
	})
	if err := f.Sync(t.Context()); !errors.Is(err, syscall.EIO) {
		t.Fatalf("sync: %v", err)
	}
	for todo {
		if todo, err = f.put(1, part(f, s.b, 1), nil, &epoch); err != nil {
			t.Fatal(err)
		}
	}
	if writes != 2 || !f.Has(1) {
		t.Errorf("%d writes, held %v, want 2 writes", writes, f.Has(1))
	}
	s.fs.OnOp(nil)
}

// TestBitmapIsWrittenAfterData watches the order itself.
func TestBitmapIsWrittenAfterData(t *testing.T) {
	s := newStory(t, 1)
	store, err := Open(Options{Dir: s.dir, FS: s.fs})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	f, err := store.Create(t.Context(), s.manifest)
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	s.fs.OnOp(func(op disktest.Op) error {
		if op.N > 0 {
			order = append(order, op.Name+" "+filepath.Base(op.Path))
		}
		return nil
	})
	if err := f.WriteChunk(0, part(f, s.b, 0)); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.fs.OnOp(nil)
	if got, want := fmt.Sprint(order), "[write data sync data write bitmap sync bitmap]"; got != want {
		t.Errorf("order %v, want %v", got, want)
	}
}

// TestBitmapFailureLosesNothing: the data is safe, so the mark is only late.
func TestBitmapFailureLosesNothing(t *testing.T) {
	s := newStory(t, 1)
	store, err := Open(Options{Dir: s.dir, FS: s.fs})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	f, err := store.Create(t.Context(), s.manifest)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.WriteChunk(0, part(f, s.b, 0)); err != nil {
		t.Fatal(err)
	}
	s.fs.OnOp(func(op disktest.Op) error {
		if op.Name == "write" && filepath.Base(op.Path) == "bitmap" {
			return &fs.PathError{Op: "write", Path: op.Path, Err: syscall.EIO}
		}
		return nil
	})
	if err := f.Sync(t.Context()); !errors.Is(err, syscall.EIO) {
		t.Fatalf("sync: %v", err)
	}
	if !f.Has(0) || f.Durable().Has(0) {
		t.Errorf("held %v, durable %v", f.Has(0), f.Durable().Has(0))
	}
	s.fs.OnOp(nil)
	if err := f.Sync(t.Context()); err != nil || !f.Durable().Has(0) {
		t.Errorf("second sync: %v, durable %v", err, f.Durable().Has(0))
	}
}
