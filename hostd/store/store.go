package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk"
)

// Options says where a store is and what it may use.
type Options struct {
	Dir      string                // made if it does not exist
	FS       disk.FS               // nil means disk.OS
	Quota    Quota                 // see SetQuota
	KeepFree int64                 // bytes of the file system that are left free; 0 = a twentieth of it, at most 4 GiB
	Logger   hclog.Logger          // nil means none
	Metrics  prometheus.Registerer // nil means none

	// OnDurable, if set, is called after the set that File.Durable returns has changed, and after a file was
	// added or removed. It must not block, and not call the store.
	OnDurable func(*File)
	// OnDamage, if set, is called after a chunk was found damaged and unmarked. It must not block.
	OnDamage func(f *File, chunk int)
}

// Store is the set of files on this host. All methods are safe for concurrent use.
type Store struct {
	o       Options
	fs      disk.FS
	log     hclog.Logger
	layout  layout
	lock    io.Closer
	metrics *metrics
	handles *handles
	flusher *flusher

	space  space
	ctx    context.Context // ends when the store begins to close
	cancel context.CancelFunc

	noClone atomic.Bool    // the file system has refused to share blocks between files of the store
	ops     sync.WaitGroup // the operations in running
	found   int64          // data bytes that were there at Open

	stamping sync.Mutex // held while the stamp is written

	mu      sync.Mutex // guards all below; never held during I/O
	cluster string     // by the stamp
	files   map[content.Digest]*File
	latches map[content.Digest]chan struct{} // ids that are being added or removed; closed when done
	closed  bool
	parts   map[string]bool         // ids of the parts that are being made; see newPart
	running map[*operation]struct{} // long operations, which Close ends
}

// Open opens the store at o.Dir, or makes one, and takes its lock. It brings a store that was killed back to
// order: it removes what was half-added, sets damaged files aside (and warns), and hashes the data that bitmaps
// do not name, about 0.3 s a GiB of it or as fast as the disk reads.
//
// Errors: ErrLocked if another process has it open; ErrDamaged if the directory cannot be used as it is.
func Open(o Options) (_ *Store, err error) {
	if o.FS == nil {
		o.FS = disk.OS{}
	}
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	s := &Store{
		o: o, log: o.Logger, layout: layout{o.Dir},
		files:   make(map[content.Digest]*File),
		latches: make(map[content.Digest]chan struct{}),
		running: make(map[*operation]struct{}),
		parts:   make(map[string]bool),
	}
	s.space.fs, s.space.dir, s.space.keepFree, s.space.quota = o.FS, o.Dir, o.KeepFree, o.Quota.defaults()
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.handles = newHandles(openFiles())
	s.fs = disk.Frugal{FS: o.FS, Relieve: s.Relieve}
	s.metrics = newMetrics(s)
	if s.lock, err = s.layout.prepare(s.fs); err != nil {
		return nil, err
	}
	s.flusher = newFlusher(s)
	if err := s.load(); err != nil {
		return nil, errors.Join(err, s.lock.Close())
	}
	s.found = s.space.held.Load()
	if err := s.metrics.register(o.Metrics); err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", o.Dir, err), s.lock.Close())
	}
	s.flusher.start()
	return s, nil
}

// Close ends the operations under way, which fail with ErrClosed, waits for them, makes durable what was written
// and gives up the lock.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.cancel()
	for op := range s.running {
		op.cancel(ErrClosed)
	}
	s.mu.Unlock()

	s.ops.Wait()
	s.handles.drain()
	s.flusher.stop()
	var errs []error
	s.flusher.saveUses()
	for _, f := range s.List() {
		errs = append(errs, f.flush(context.Background()), f.close())
	}
	s.metrics.unregister()
	return errors.Join(append(errs, s.lock.Close())...)
}

// Relieve closes the data files that nobody uses, and returns how many they were: for who needs descriptors more.
func (s *Store) Relieve() int { return s.handles.relieve() }

// Get returns the file with this id.
func (s *Store) Get(id content.Digest) (*File, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.files[id]
	return f, ok
}

// List returns all files, sorted by id.
func (s *Store) List() []*File {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.files), func(a, b *File) int {
		return cmp.Compare(a.name, b.name)
	})
}

// Remove removes the file with this id from the store and from the disk. Operations on it that are under way
// may end well or with ErrRemoved, later ones end with ErrRemoved. It fails with ErrUnknown if there is none.
func (s *Store) Remove(id content.Digest) error {
	ctx, leave, err := s.enter(context.Background())
	if err != nil {
		return fmt.Errorf("remove %s: %w", id.Short(), err)
	}
	defer leave()
	unlatch, err := s.latch(ctx, id)
	if err != nil {
		return fmt.Errorf("remove %s: %w", id.Short(), err)
	}
	defer unlatch()
	f, ok := s.Get(id)
	if !ok {
		return fmt.Errorf("remove %s: %w", id.Short(), ErrUnknown)
	}
	if err := f.discard(); err != nil {
		return fmt.Errorf("remove %s: %w", id.Short(), err)
	}
	s.changed(f)
	return nil
}

// operation is a long one: Close ends it and waits for it.
type operation struct{ cancel context.CancelCauseFunc }

// enter begins a long operation under the context that it returns; leave says that it is over.
func (s *Store) enter(ctx context.Context) (_ context.Context, leave func(), err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	op := &operation{cancel}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		cancel(ErrClosed)
		return nil, nil, ErrClosed
	}
	s.running[op] = struct{}{}
	s.ops.Add(1)
	return ctx, func() {
		cancel(nil)
		s.mu.Lock()
		delete(s.running, op)
		s.mu.Unlock()
		s.ops.Done()
	}, nil
}

// latch makes the caller the only one who adds or removes the file with this id until it calls unlatch.
func (s *Store) latch(ctx context.Context, id content.Digest) (unlatch func(), err error) {
	for {
		s.mu.Lock()
		other, busy := s.latches[id]
		if !busy {
			mine := make(chan struct{})
			s.latches[id] = mine
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				delete(s.latches, id)
				s.mu.Unlock()
				close(mine)
			}, nil
		}
		s.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// add shows the file to everybody.
func (s *Store) add(f *File) {
	s.mu.Lock()
	s.files[f.id] = f
	s.mu.Unlock()
	s.changed(f)
}

func (s *Store) changed(f *File) {
	if s.o.OnDurable != nil {
		s.o.OnDurable(f)
	}
}

// sweep removes a directory of incoming/, where nothing is missed if that fails: Open sweeps again.
func (s *Store) sweep(path string) {
	if err := s.fs.RemoveAll(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("cannot remove leftovers now, the next start will", "path", path, "error", err)
	}
}
