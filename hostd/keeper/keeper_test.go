package keeper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/hostd/fetch"
	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/hostd/swarm"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/placement"
)

const (
	self  = placement.HostID("0000000000000000000000000000000a")
	other = placement.HostID("0000000000000000000000000000000b")
)

// catalogue is a real catalogue without the replication.
type catalogue struct {
	mu      sync.Mutex
	state   *placement.State
	index   uint64
	changed chan struct{}
	deaf    bool // no leader: ReadIndex fails
}

func newCatalogue(t *testing.T) *catalogue {
	c := &catalogue{state: placement.New(), changed: make(chan struct{})}
	c.apply(t, placement.Command{InitCluster: &placement.InitCluster{
		ID: "test", Host: placement.Host{ID: self, Name: "a", Addr: "a:1", Weight: 100}, Now: 1,
	}})
	return c
}

func (c *catalogue) apply(t *testing.T, cmd placement.Command) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.index++
	if _, err := c.state.Apply(c.index, cmd); err != nil {
		t.Fatal(err)
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *catalogue) View(f func(*placement.State)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(c.state)
}

func (c *catalogue) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

func (c *catalogue) ReadIndex(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.deaf {
		return errors.New("no leader")
	}
	return nil
}

func (c *catalogue) setDeaf(deaf bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deaf = deaf
}

// publish enters a file of another host's store into the catalogue.
func (c *catalogue) publish(t *testing.T, name string, f *store.File) {
	t.Helper()
	c.publishAt(t, name, f, time.Now())
}

func (c *catalogue) publishAt(t *testing.T, name string, f *store.File, at time.Time) {
	t.Helper()
	m := f.Manifest()
	c.apply(t, placement.Command{Publish: &placement.Publish{
		Name: name, ID: f.ID(), Size: m.Size(), DataBytes: m.DataBytes(), ChunkSize: m.ChunkSize(), Shards: max(1, m.Shards()),
		Replicas: 1, Guests: "none", Publisher: self, At: at.Unix(),
	}})
}

// remote is a fetch.Swarm that takes everything from another store, as long as that is up.
type remote struct {
	from *store.Store

	hold chan struct{} // if not nil, a fetch waits for it to be closed

	mu    sync.Mutex
	down  bool
	tries int
	prio  swarm.Priority // of the last fetch
}

func (r *remote) priority() swarm.Priority {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.prio
}

func (r *remote) setDown(down bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = down
}

func (r *remote) source(id content.Digest) (*store.File, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tries++
	f, ok := r.from.Get(id)
	if r.down || !ok {
		return nil, swarm.ErrNoHolder
	}
	return f, nil
}

func (r *remote) Manifest(_ context.Context, id content.Digest) (*content.Manifest, error) {
	f, err := r.source(id)
	if err != nil {
		return nil, err
	}
	return f.Manifest(), nil
}

func (r *remote) Fetch(ctx context.Context, to swarm.File, want content.Bits, prio swarm.Priority, _ func(swarm.Progress)) error {
	f, err := r.source(to.ID())
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.prio = prio
	r.mu.Unlock()
	if r.hold != nil {
		select {
		case <-r.hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for c, ok := want.NextSet(0); ok; c, ok = want.NextSet(c + 1) {
		p, err := f.ReadChunk(c, nil)
		if err != nil {
			return err
		}
		if err := to.WriteChunk(c, p); err != nil {
			return err
		}
	}
	return nil
}

// reporter tells the room's catalogue at once.
type reporter struct {
	*room
	keeper *Keeper
	fails  atomic.Bool
	after  func() // called once a report of the evictor is in the catalogue
}

func (r *reporter) Touch(id content.Digest) { r.tell(id) }

func (r *reporter) Report(_ context.Context, ids []content.Digest) error {
	if r.fails.Load() {
		return errors.New("no leader")
	}
	r.tell(ids...)
	if r.after != nil {
		r.after()
	}
	return nil
}

func (r *reporter) tell(ids ...content.Digest) {
	report := placement.Report{Host: self}
	for _, id := range ids {
		var told placement.ShardSet
		if f, ok := r.here.Get(id); ok {
			told = r.keeper.cfg.Withdrawn.Told(f)
		}
		if told.Empty() {
			report.Dropped = append(report.Dropped, id)
		} else {
			report.Holdings = append(report.Holdings, placement.Holding{ID: id, Shards: told})
		}
	}
	r.catalogue.apply(r.T, placement.Command{Report: &report})
}

// room is a keeper with all that it works with.
type room struct {
	*testing.T
	catalogue   *catalogue
	here, there *store.Store
	fetch       *remote
	reporter    reporter
	keeper      *Keeper
	keepStrays  time.Duration
	stop        func()
}

func newRoom(t *testing.T) *room {
	r := &room{T: t, catalogue: newCatalogue(t)}
	r.here, r.there = r.open("here"), r.open("there")
	r.fetch = &remote{from: r.there}
	r.reporter.room = r
	return r
}

func (r *room) open(name string) *store.Store {
	s, err := store.Open(store.Options{Dir: filepath.Join(r.TempDir(), name)})
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { s.Close() })
	return s
}

// run starts the keeper.
func (r *room) run() {
	r.keeper = New(Config{
		Self: self, Catalogue: r.catalogue, Store: r.here, Fetch: fetch.New(fetch.Config{Store: r.here, Swarm: r.fetch}), Reporter: &r.reporter, Withdrawn: new(Withdrawn), KeepStrays: r.keepStrays, Fetches: 2,
	})
	r.reporter.keeper = r.keeper
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.keeper.Run(ctx) }()
	r.stop = sync.OnceFunc(func() { cancel(); <-done })
	r.Cleanup(r.stop)
}

// file puts n random bytes into a store.
func (r *room) file(s *store.Store, n int64, seed byte) *store.File {
	r.Helper()
	return r.sparse(s, n, 1, seed)
}

// sparse puts a file of so many parts into a store, each a shard apart from the next and of n random bytes.
func (r *room) sparse(s *store.Store, n int64, parts int, seed byte) *store.File {
	r.Helper()
	f, err := os.Create(filepath.Join(r.TempDir(), fmt.Sprint(seed)))
	if err != nil {
		r.Fatal(err)
	}
	defer f.Close()
	random := rand.NewChaCha8([32]byte{seed})
	for part := range int64(parts) {
		if _, err := io.CopyN(io.NewOffsetWriter(f, part*content.ShardSize), random, n); err != nil {
			r.Fatal(err)
		}
	}
	file, err := s.Import(context.Background(), f, store.ImportOptions{})
	if err != nil {
		r.Fatal(err)
	}
	return file
}

// await waits for a condition, which ends with the test if it never comes.
func (r *room) await(what string, cond func() bool) {
	r.Helper()
	for deadline := time.Now().Add(5 * time.Minute); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.Fatalf("waited in vain: %s", what)
		}
	}
}

func (r *room) holds(f *store.File) bool {
	mine, ok := r.here.Get(f.ID())
	return ok && Held(mine).All()
}

func TestFetchesWhatItMustHold(t *testing.T) {
	r := newRoom(t)
	early, empty := r.file(r.there, 70<<20, 1), r.file(r.there, 0, 2)
	r.catalogue.publish(t, "early", early)
	r.run()
	r.await("a file from before the start", func() bool { return r.holds(early) })
	r.catalogue.publish(t, "empty", empty)
	r.await("a new file, although it is empty", func() bool { return r.holds(empty) })
}

func TestTriesAgain(t *testing.T) {
	r := newRoom(t)
	f := r.file(r.there, 1<<20, 1)
	r.fetch.setDown(true)
	r.catalogue.publish(t, "f", f)
	r.run()
	r.await("a first try", func() bool { r.fetch.mu.Lock(); defer r.fetch.mu.Unlock(); return r.fetch.tries > 0 })
	r.fetch.setDown(false)
	r.await("the file once its holder is back", func() bool { return r.holds(f) })
}

func TestRepairsDamage(t *testing.T) {
	r := newRoom(t)
	f := r.file(r.there, 3<<20, 1)
	r.catalogue.publish(t, "f", f)
	r.run()
	r.await("the file", func() bool { return r.holds(f) })
	data, err := filepath.Glob(filepath.Join(filepath.Dir(r.TempDir()), "*", "here", "files", "*", "data"))
	if err != nil || len(data) != 1 {
		t.Fatalf("data files: %q, %v", data, err)
	}
	w, err := os.OpenFile(data[0], os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.WriteAt([]byte("damage"), 1<<20); err != nil {
		t.Fatal(err)
	}
	mine, _ := r.here.Get(f.ID())
	if bad, err := mine.Verify(context.Background(), nil); len(bad) != 1 || err != nil {
		t.Fatalf("verify: %v, %v, want one bad chunk", bad, err)
	}
	r.keeper.Recheck()
	r.await("the damaged chunk", func() bool { return r.holds(f) })
}

func TestDropsWhatIsRemoved(t *testing.T) {
	r := newRoom(t)
	f, kept := r.file(r.there, 1<<20, 1), r.file(r.here, 1<<20, 3)
	r.catalogue.publish(t, "f", f)
	r.catalogue.publish(t, "kept", kept)
	r.run()
	r.await("the file", func() bool { return r.holds(f) })
	r.catalogue.apply(t, placement.Command{RemoveFile: &placement.RemoveFile{Name: "f"}})
	r.await("the removed file is dropped", func() bool { _, ok := r.here.Get(f.ID()); return !ok })
	if !r.holds(kept) {
		t.Error("dropped what the catalogue refers to")
	}
}

func TestPinnedContentStays(t *testing.T) {
	r := newRoom(t)
	r.run()
	// A publication that fails: imported, pinned, never committed.
	failed := r.file(r.here, 1<<20, 1)
	unpin := r.keeper.Pin(failed.ID())
	r.keeper.Recheck()
	f := r.file(r.there, 1<<20, 2)
	r.catalogue.publish(t, "f", f)
	r.await("the keeper has looked", func() bool { return r.holds(f) })
	if _, ok := r.here.Get(failed.ID()); !ok {
		t.Fatal("dropped a pinned content")
	}
	unpin()
	r.await("the failed publication is dropped", func() bool { _, ok := r.here.Get(failed.ID()); return !ok })
	// One that succeeds.
	good := r.file(r.here, 1<<20, 3)
	unpin = r.keeper.Pin(good.ID())
	r.catalogue.publish(t, "good", good)
	unpin()
	g := r.file(r.there, 1<<20, 4)
	r.catalogue.publish(t, "g", g)
	r.await("the keeper has looked", func() bool { return r.holds(g) })
	if !r.holds(good) {
		t.Error("dropped a published content")
	}
}

// The duty is a part of the file while another host is a home of the rest, and grows when that host dies.
func TestHoldsItsShardsAndThoseOfTheDead(t *testing.T) {
	r := newRoom(t)
	r.catalogue.apply(t, placement.Command{CreateToken: &placement.CreateToken{
		ID: "0123456789abcdef", Hash: fmt.Sprintf("%064x", 1), Expires: 1 << 40, Now: 1,
	}})
	r.catalogue.apply(t, placement.Command{AddHost: &placement.AddHost{
		Host: placement.Host{ID: other, Name: "b", Addr: "b:1", Weight: 100}, TokenID: "0123456789abcdef", Now: 1,
	}})
	f := r.sparse(r.there, 1<<20, 8, 1)
	r.catalogue.publish(t, "f", f)
	var must placement.ShardSet
	r.catalogue.View(func(s *placement.State) { must = s.HomeShards(self, f.ID()) })
	if n := must.Count(8); n == 0 || n == 8 {
		t.Fatalf("the test wants both hosts to be homes, this one is of %d of 8 shards", n)
	}
	r.run()
	r.await("its own shards", func() bool {
		mine, ok := r.here.Get(f.ID())
		return ok && Held(mine).Equal(must)
	})
	r.catalogue.apply(t, placement.Command{SetHostState: &placement.SetHostState{ID: other, To: placement.Down, Now: 2}})
	r.await("the other's shards too", func() bool { return r.holds(f) })
}
