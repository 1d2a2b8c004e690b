package keeper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/virtswarm/virtswarm/hostd/fetch"
	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/hostd/swarm"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk/disktest"
	"github.com/virtswarm/virtswarm/placement"
)

// cluster is some hosts that have nothing but a store, a keeper, and their own late copy of the catalogue's log.
type cluster struct {
	*testing.T
	rng   *rand.Rand
	seats []*seat

	mu  sync.Mutex
	log []placement.Command
	// truth is the catalogue as of the whole log.
	truth *placement.State
}

// seat is one host. Its catalogue lags behind the log; when it is cut off it stands still, and nobody can ask anything.
type seat struct {
	*cluster
	id     placement.HostID
	store  *store.Store
	keeper *Keeper

	stateMu sync.Mutex
	state   *placement.State
	applied int
	changed chan struct{}
	cut     bool
	luck    *rand.Rand
	telling chan struct{} // one report after the other; no mutex, for which the bubble's clock would not wait
	dirty   map[content.Digest]bool
}

func newCluster(t *testing.T, hosts int, seed uint64) *cluster {
	c := &cluster{T: t, rng: rand.New(rand.NewPCG(seed, 1)), truth: placement.New()}
	for i := range hosts {
		id := placement.HostID(fmt.Sprintf("%032x", i+1))
		h := placement.Host{ID: id, Name: fmt.Sprint(i), Addr: "x:1", Weight: 100}
		if i == 0 {
			c.append(placement.Command{InitCluster: &placement.InitCluster{ID: "test", Host: h, Now: 1}})
		} else {
			token := fmt.Sprintf("%016x", i)
			c.append(placement.Command{CreateToken: &placement.CreateToken{ID: token, Hash: fmt.Sprintf("%064x", i), Expires: 1 << 40, Now: 1}})
			c.append(placement.Command{AddHost: &placement.AddHost{Host: h, TokenID: token, Now: 1}})
		}
		s := &seat{cluster: c, id: id, state: placement.New(), changed: make(chan struct{}), dirty: map[content.Digest]bool{}, luck: rand.New(rand.NewPCG(seed, uint64(i))), telling: make(chan struct{}, 1)}
		var err error
		s.store, err = store.Open(store.Options{Dir: "/store", FS: disktest.NewMemory(0), OnDurable: func(f *store.File) { s.Touch(f.ID()) }})
		if err != nil {
			t.Fatal(err)
		}
		s.keeper = New(Config{Self: id, Catalogue: s, Store: s.store, Fetch: fetch.New(fetch.Config{Store: s.store, Swarm: s}), Reporter: s, Withdrawn: new(Withdrawn), Fetches: 2})
		c.seats = append(c.seats, s)
	}
	return c
}

// run runs the hosts until the returned function is called.
func (c *cluster) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i, s := range c.seats {
		wg.Go(func() { s.keeper.Run(ctx) })
		luck := rand.New(rand.NewPCG(uint64(i), c.rng.Uint64()))
		wg.Go(func() { s.follow(ctx, luck) })
	}
	return func() {
		cancel()
		wg.Wait()
		for _, s := range c.seats {
			s.store.Close()
		}
	}
}

// append enters a command into the log.
func (c *cluster) append(cmd placement.Command) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log = append(c.log, cmd)
	_, _ = c.truth.Apply(uint64(len(c.log)), cmd) // what is refused is refused everywhere
}

// follow applies the log a little late, and reports what is dirty.
func (s *seat) follow(ctx context.Context, rng *rand.Rand) {
	for ctx.Err() == nil {
		time.Sleep(time.Duration(rng.IntN(60)) * time.Millisecond)
		s.stateMu.Lock()
		cut := s.cut
		ids := make([]content.Digest, 0, len(s.dirty))
		for id := range s.dirty {
			ids = append(ids, id)
		}
		s.stateMu.Unlock()
		if cut {
			continue
		}
		s.catchUp()
		if len(ids) > 0 && rng.IntN(3) == 0 {
			s.stateMu.Lock()
			clear(s.dirty)
			s.stateMu.Unlock()
			if s.Report(ctx, ids) != nil {
				for _, id := range ids {
					s.Touch(id)
				}
			}
		}
	}
}

func (s *seat) catchUp() {
	s.mu.Lock()
	log := s.log
	s.mu.Unlock()
	s.stateMu.Lock()
	defer s.stateMu.Unlock()
	if s.applied == len(log) {
		return
	}
	for ; s.applied < len(log); s.applied++ {
		_, _ = s.state.Apply(uint64(s.applied+1), log[s.applied])
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *seat) isCut() bool {
	s.stateMu.Lock()
	defer s.stateMu.Unlock()
	return s.cut
}

// latency is that of the leader.
func (s *seat) latency() {
	s.stateMu.Lock()
	d := time.Duration(s.luck.IntN(40)) * time.Millisecond
	s.stateMu.Unlock()
	time.Sleep(d)
}

// ReadIndex implements Catalogue.
func (s *seat) ReadIndex(context.Context) error {
	s.latency()
	if s.isCut() {
		return errors.New("no leader")
	}
	s.catchUp()
	return nil
}

// View implements Catalogue.
func (s *seat) View(f func(*placement.State)) {
	s.stateMu.Lock()
	defer s.stateMu.Unlock()
	f(s.state)
}

// Changed implements Catalogue.
func (s *seat) Changed() <-chan struct{} {
	s.stateMu.Lock()
	defer s.stateMu.Unlock()
	return s.changed
}

// Touch implements Reporter.
func (s *seat) Touch(id content.Digest) {
	s.stateMu.Lock()
	defer s.stateMu.Unlock()
	s.dirty[id] = true
}

// Report implements Reporter.
func (s *seat) Report(_ context.Context, ids []content.Digest) error {
	s.telling <- struct{}{}
	defer func() { <-s.telling }()
	s.latency()
	if s.isCut() {
		return errors.New("no leader")
	}
	r := placement.Report{Host: s.id}
	for _, id := range ids {
		var told placement.ShardSet
		if f, ok := s.store.Get(id); ok {
			told = s.keeper.cfg.Withdrawn.Told(f)
		}
		if told.Empty() {
			r.Dropped = append(r.Dropped, id)
		} else {
			r.Holdings = append(r.Holdings, placement.Holding{ID: id, Shards: told})
		}
	}
	s.append(placement.Command{Report: &r})
	return nil
}

// others returns the files of this content on the hosts that can be asked.
func (s *seat) others(id content.Digest) (files []*store.File) {
	for _, o := range s.seats {
		if f, ok := o.store.Get(id); ok && o != s && !o.isCut() && !s.isCut() {
			files = append(files, f)
		}
	}
	return files
}

// Manifest implements fetch.Swarm.
func (s *seat) Manifest(_ context.Context, id content.Digest) (*content.Manifest, error) {
	for _, f := range s.others(id) {
		return f.Manifest(), nil
	}
	return nil, swarm.ErrNoHolder
}

// Fetch implements fetch.Swarm.
func (s *seat) Fetch(_ context.Context, f swarm.File, want content.Bits, _ swarm.Priority, _ func(swarm.Progress)) error {
	have := f.Have()
	for c, ok := want.NextSet(0); ok; c, ok = want.NextSet(c + 1) {
		if have.Has(c) {
			continue
		}
		time.Sleep(time.Millisecond)
		err := error(swarm.ErrNoHolder)
		for _, from := range s.others(f.ID()) {
			var p []byte
			if p, err = from.ReadChunk(c, nil); err == nil {
				err = f.WriteChunk(c, p)
				break
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// publish puts a file of some shards on a host and into the catalogue, as hostd does.
func (c *cluster) publish(n, replicas int) content.Digest {
	s := c.seats[c.rng.IntN(len(c.seats))]
	src, err := os.Create(filepath.Join(c.TempDir(), fmt.Sprint(n)))
	if err != nil {
		c.Fatal(err)
	}
	defer src.Close()
	random := rand.NewChaCha8([32]byte{byte(n), byte(c.rng.Uint32())})
	for part := range int64(4) {
		if _, err := io.CopyN(io.NewOffsetWriter(src, part*content.ShardSize), random, 1<<16); err != nil {
			c.Fatal(err)
		}
	}
	f, err := s.store.Import(context.Background(), src, store.ImportOptions{ChunkSize: content.MinChunkSize})
	if err != nil {
		return content.Digest{} // no room here now
	}
	defer s.keeper.Pin(f.ID())()
	m := f.Manifest()
	c.append(placement.Command{Publish: &placement.Publish{
		Name: fmt.Sprint(n), ID: f.ID(), Size: m.Size(), DataBytes: m.DataBytes(), ChunkSize: m.ChunkSize(), Shards: m.Shards(),
		Replicas: replicas, Guests: "none", Publisher: s.id, At: time.Now().Unix(),
	}})
	c.settle(func() bool { return c.replication(f.ID()).MinCopies >= replicas })
	return f.ID()
}

func (c *cluster) replication(id content.Digest) placement.Replication {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, _ := c.truth.Replication(id)
	return r
}

// settle waits for a condition, an hour of the bubble's at most.
func (c *cluster) settle(cond func() bool) {
	c.Helper()
	for range 36000 {
		if cond() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	for _, s := range c.seats {
		c.Logf("host %s: %+v, %+v", s.id[31:], s.store.Usage(), s.keeper.Progress())
	}
	c.Fatal("waited in vain")
}

// trouble does one thing that may go wrong for an eviction under way.
func (c *cluster) trouble(ids []content.Digest) {
	s := c.seats[c.rng.IntN(len(c.seats))]
	state := func(to placement.HostState) {
		c.append(placement.Command{SetHostState: &placement.SetHostState{ID: s.id, To: to, Now: 2}})
	}
	cut := func(cut bool) {
		s.stateMu.Lock()
		s.cut = cut
		s.stateMu.Unlock()
	}
	someoneCut := slices.ContainsFunc(c.seats, (*seat).isCut)
	switch k := c.rng.IntN(20); {
	case k >= 10: // homes move
		c.append(placement.Command{UpdateHost: &placement.UpdateHost{ID: s.id, Weight: 1 + c.rng.Uint32N(200)}})
	case s.isCut() && k < 6: // it comes back
		cut(false)
		state(placement.Alive)
	case k < 3 && !someoneCut: // it is cut off, and later known to be
		cut(true)
		time.Sleep(time.Duration(c.rng.IntN(200)) * time.Millisecond)
		state(placement.Down)
		if c.rng.IntN(2) == 0 {
			state(placement.Lost)
		}
	case k < 6:
		s.store.SetQuota(store.Quota{Bytes: 1 + c.rng.Int64N(3<<20), High: 40, Low: 1})
	case k < 7:
		s.store.SetQuota(store.Quota{})
	case k < 8:
		c.append(placement.Command{Distribute: &placement.Distribute{Name: "0", ID: ids[0], Hosts: []placement.HostID{s.id}}})
	case k < 9:
		c.append(placement.Command{Unpin: &placement.Unpin{Name: "0", ID: ids[0], All: true}})
	default:
		for _, s := range c.seats {
			s.keeper.Crowded()
		}
	}
}

// TestEvictionsLoseNothing lets hosts with too little room evict, while others are cut off, declared lost and found
// again. With one copy of everything each wrong eviction is a loss; with two, none may fall below.
func TestEvictionsLoseNothing(t *testing.T) {
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 4, seed)
			stop := c.run()
			defer stop()
			replicas := 1 + int(seed%2)
			var ids []content.Digest
			for n := range 6 {
				ids = append(ids, c.publish(n, replicas))
			}
			for range 100 {
				c.trouble(ids)
				time.Sleep(time.Duration(c.rng.IntN(100)) * time.Millisecond)
				for _, id := range ids {
					c.count(id, replicas)
				}
			}
			var evicted int64
			for _, s := range c.seats {
				s.stateMu.Lock()
				s.cut = false
				s.stateMu.Unlock()
				c.append(placement.Command{SetHostState: &placement.SetHostState{ID: s.id, To: placement.Alive, Now: 3}})
				s.store.SetQuota(store.Quota{})
				evicted += s.keeper.Progress().Evicted
			}
			for _, id := range ids {
				c.settle(func() bool { return c.replication(id).MinCopies >= replicas })
			}
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
			t.Logf("seed %d: %d chunks evicted", seed, evicted>>16)
		})
	}
}

// count checks that there are the copies asked for, on whatever hosts.
func (c *cluster) count(id content.Digest, want int) {
	var short []int
	for range 2 { // a copy may be made and another dropped between two looks: those of both rounds count
		for shard := range 4 {
			copies := 0
			for _, s := range c.seats {
				if f, ok := s.store.Get(id); ok && Held(f).Has(shard) {
					copies++
				}
			}
			if copies < want {
				short = append(short, shard)
			}
		}
		if len(short) == 0 {
			return
		}
	}
	if len(short) > 1 {
		c.Errorf("too few copies of shards %v of %s", short, id.Short())
	}
}
