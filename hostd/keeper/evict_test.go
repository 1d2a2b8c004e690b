package keeper

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/hostd/swarm"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/placement"
)

// join adds the other host to the catalogue.
func (r *room) join() {
	r.catalogue.apply(r.T, placement.Command{CreateToken: &placement.CreateToken{
		ID: "0123456789abcdef", Hash: fmt.Sprintf("%064x", 1), Expires: 1 << 40, Now: 1,
	}})
	r.catalogue.apply(r.T, placement.Command{AddHost: &placement.AddHost{
		Host: placement.Host{ID: other, Name: "b", Addr: "b:1", Weight: 100}, TokenID: "0123456789abcdef", Now: 1,
	}})
}

// have makes a host say in the catalogue that it holds shards.
func (r *room) have(host placement.HostID, f *store.File, shards placement.ShardSet) {
	r.catalogue.apply(r.T, placement.Command{Report: &placement.Report{
		Host: host, Holdings: []placement.Holding{{ID: f.ID(), Shards: shards}},
	}})
}

// homes returns the shards of which a host is a home.
func (r *room) homes(host placement.HostID, f *store.File) (must placement.ShardSet) {
	r.catalogue.View(func(s *placement.State) { must = s.HomeShards(host, f.ID()) })
	return must
}

// cached puts a file of whole shards into both stores and the catalogue, of which the other host holds its part.
func (r *room) cached(name string, shards int, seed byte) (here, there *store.File) {
	r.Helper()
	there = r.sparse(r.there, 1<<20, shards, seed)
	here = r.sparse(r.here, 1<<20, shards, seed)
	r.catalogue.publish(r.T, name, there)
	r.have(other, there, r.homes(other, there))
	return here, there
}

// known waits until the keeper has looked at a file, so that the catalogue knows what is here.
func (r *room) known(files ...*store.File) {
	r.Helper()
	for _, f := range files {
		r.reporter.Touch(f.ID())
	}
}

func TestEvictsSurplusAlone(t *testing.T) {
	r := newRoom(t)
	r.join()
	f, _ := r.cached("f", 8, 1)
	mine, theirs := r.homes(self, f), r.homes(other, f)
	if n := mine.Count(8); n == 0 || n == 8 {
		t.Fatalf("the test wants both hosts to be homes, this one is of %d of 8 shards", n)
	}
	r.run()
	r.known(f)
	if err := r.keeper.MakeRoom(t.Context(), 1); err != nil {
		t.Errorf("there is room, but %v", err)
	}
	if !r.holds(f) {
		t.Error("evicted although there was room")
	}
	r.here.SetQuota(store.Quota{Bytes: 1 << 20})
	r.await("the surplus is gone", func() bool { return Held(f).Equal(mine) })
	r.await("the catalogue knows", func() (ok bool) {
		r.catalogue.View(func(s *placement.State) { ok = s.Held(self, f.ID()).Equal(mine) })
		return ok
	})
	if err := r.keeper.MakeRoom(t.Context(), 1); !errors.Is(err, ErrNothingToEvict) { // after the round that evicted
		t.Errorf("more room: %v", err)
	}
	if got := r.keeper.Progress().Evicted; got != int64(theirs.Count(8))<<20 {
		t.Errorf("%d bytes evicted", got)
	}
}

// TestNeverEvicts goes through what keeps a surplus copy on this disk.
func TestNeverEvicts(t *testing.T) {
	cases := map[string]func(r *room, f *store.File) (end func()){
		"pinned": func(r *room, f *store.File) func() { return r.keeper.Pin(f.ID()) },
		"in use": func(r *room, f *store.File) func() { return f.Use() },
		"by order": func(r *room, f *store.File) func() {
			order := func(hosts ...placement.HostID) {
				r.catalogue.apply(r.T, placement.Command{Distribute: &placement.Distribute{Name: "f", ID: f.ID(), Hosts: hosts}})
			}
			order(self)
			return func() {
				r.catalogue.apply(r.T, placement.Command{Unpin: &placement.Unpin{Name: "f", ID: f.ID(), All: true}})
			}
		},
		"not safe elsewhere": func(r *room, f *store.File) func() {
			r.catalogue.apply(r.T, placement.Command{Report: &placement.Report{Host: other, Dropped: []content.Digest{f.ID()}}})
			return func() { r.have(other, f, placement.AllShards()) }
		},
		"without a leader": func(r *room, f *store.File) func() {
			r.catalogue.setDeaf(true)
			return func() { r.catalogue.setDeaf(false) }
		},
		"what cannot be reported": func(r *room, f *store.File) func() {
			r.reporter.fails.Store(true)
			return func() { r.reporter.fails.Store(false) }
		},
		"while its holder is down": func(r *room, f *store.File) func() {
			state := func(to placement.HostState) {
				r.catalogue.apply(r.T, placement.Command{SetHostState: &placement.SetHostState{ID: other, To: to, Now: 2}})
			}
			state(placement.Down)
			return func() { state(placement.Alive) }
		},
	}
	for name, keep := range cases {
		t.Run(name, func(t *testing.T) {
			r := newRoom(t)
			r.join()
			f, _ := r.cached("f", 8, 1)
			mine := r.homes(self, f)
			r.run()
			r.known(f)
			end := keep(r, f)
			r.here.SetQuota(store.Quota{Bytes: 1 << 20})
			if err := r.keeper.MakeRoom(t.Context(), 1<<20); err == nil {
				t.Error("room was made")
			}
			if !r.holds(f) {
				t.Errorf("holds %v", Held(f))
			}
			end()
			r.await("it goes when nothing keeps it", func() bool {
				r.keeper.Crowded()
				return Held(f).Equal(mine)
			})
		})
	}
}

// TestEvictsLeastRecentlyUsedFirst frees what is asked for and no more.
func TestEvictsLeastRecentlyUsedFirst(t *testing.T) {
	r := newRoom(t)
	r.join()
	var files []*store.File
	for i := range 3 {
		f, _ := r.cached(fmt.Sprint(i), 8, byte(i+1))
		files = append(files, f)
	}
	r.run()
	r.known(files...)
	for _, i := range []int{1, 2, 0} { // from the oldest to the newest
		files[i].Touch()
	}
	one := int64(r.homes(other, files[1]).Count(8))<<20 + 1<<20 // all of the first that can go, and a shard of the second
	r.here.SetQuota(store.Quota{Bytes: 24 << 20, High: 100, Low: 100})
	r.await("the store is full", func() bool { return r.here.Usage().Budget == 24<<20 })
	if err := r.keeper.MakeRoom(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	if !Held(files[1]).Equal(r.homes(self, files[1])) || files[2].HeldBytes() != 7<<20 || files[0].HeldBytes() != 8<<20 {
		t.Errorf("left of the files: %d, %d, %d", files[1].HeldBytes(), files[2].HeldBytes(), files[0].HeldBytes())
	}
}

// TestBecomesHomeWhileItEvicts: what has become a duty between the choice and the deed stays, and is told again.
func TestBecomesHomeWhileItEvicts(t *testing.T) {
	r := newRoom(t)
	r.join()
	f, _ := r.cached("f", 8, 1)
	r.run()
	r.known(f)
	r.reporter.after = func() {
		r.reporter.after = nil
		r.catalogue.View(func(s *placement.State) {
			if held := s.Held(self, f.ID()); !held.Equal(s.HomeShards(self, f.ID())) || !r.holds(f) {
				t.Errorf("the catalogue has %v, the disk %v", held, Held(f))
			}
		})
		r.catalogue.apply(t, placement.Command{SetHostState: &placement.SetHostState{ID: other, To: placement.Down, Now: 2}})
		r.catalogue.apply(t, placement.Command{SetHostState: &placement.SetHostState{ID: other, To: placement.Lost, Now: 3}})
	}
	r.here.SetQuota(store.Quota{Bytes: 1 << 20})
	r.await("it is told again", func() (ok bool) {
		r.catalogue.View(func(s *placement.State) { ok = s.Held(self, f.ID()).Full(8) && s.HomeShards(self, f.ID()).All() })
		return ok
	})
	if !r.holds(f) {
		t.Errorf("holds %v", Held(f))
	}
}

// TestHomeWithoutRoom: a home whose disk is full says so, keeps as many whole shards as it can, and goes on when there
// is room.
func TestHomeWithoutRoom(t *testing.T) {
	r := newRoom(t)
	r.here.SetQuota(store.Quota{Bytes: 3 << 20})
	f := r.sparse(r.there, 1<<20, 8, 1)
	r.run()
	r.catalogue.publish(t, "f", f)
	r.await("it says that it has no room", func() bool { return r.keeper.Progress().NoRoom == 1 })
	mine, _ := r.here.Get(f.ID())
	p := r.keeper.Progress()
	if mine.HeldBytes() != 3<<20 || Held(mine).Count(8) != 3 || p.Distribute != (Work{Files: 1, Shards: 5, Bytes: 5 << 20}) {
		t.Errorf("%d bytes held, %+v", mine.HeldBytes(), p)
	}
	r.here.SetQuota(store.Quota{})
	r.await("the rest", func() bool { return r.holds(f) })
	r.await("nothing left to do", func() bool { return r.keeper.Progress().Distribute == (Work{}) })
}

// TestForgetsEmptyFiles: what is left of an evicted file goes too, once nobody can have just found it.
func TestForgetsEmptyFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		r.join()
		r.run()
		var f *store.File
		for seed := byte(1); f == nil || !r.homes(self, f).Empty(); seed++ { // until the other host is the only home
			f, _ = r.cached(fmt.Sprint(seed), 1, seed)
		}
		r.known(f)
		r.here.SetQuota(store.Quota{Bytes: 1})
		r.await("evicted", func() bool { return f.HeldBytes() == 0 })
		if _, ok := r.here.Get(f.ID()); !ok {
			t.Error("forgotten at once")
		}
		began := time.Now()
		r.await("forgotten", func() bool { _, ok := r.here.Get(f.ID()); return !ok })
		if passed := time.Since(began); passed < forgetAfter-time.Second || passed > forgetAfter+2*lookAnyway {
			t.Errorf("forgotten after %v", passed)
		}
		r.stop()
	})
}

// TestOrderOvertakesRepair: a job that repairs at leisure goes on at once when somebody waits for the file.
func TestOrderOvertakesRepair(t *testing.T) {
	r := newRoom(t)
	r.join()
	f := r.sparse(r.there, 1<<20, 8, 1)
	r.catalogue.publishAt(t, "f", f, time.Now().Add(-time.Hour))
	r.fetch.hold = make(chan struct{})
	r.run()
	r.await("a repair", func() bool { return r.fetch.priority() == swarm.Repair })
	if p := r.keeper.Progress(); p.Repair.Files != 1 || p.Repair.Shards != r.homes(self, f).Count(8) || p.Distribute.Files != 0 {
		t.Errorf("progress %+v", p)
	}
	r.catalogue.apply(t, placement.Command{Distribute: &placement.Distribute{Name: "f", ID: f.ID(), Hosts: []placement.HostID{self}}})
	r.await("a distribution", func() bool { return r.fetch.priority() == swarm.Distribute })
	close(r.fetch.hold)
	r.await("the file", func() bool { return r.holds(f) })
}

// TestRepairsLeaveRoomForOrders: however many files are to be repaired, one that somebody waits for begins at once.
func TestRepairsLeaveRoomForOrders(t *testing.T) {
	r := newRoom(t)
	for i := range 8 {
		f := r.file(r.there, 1<<16, byte(i+1))
		r.catalogue.publishAt(t, fmt.Sprint(i), f, time.Now().Add(-time.Hour))
	}
	r.fetch.hold = make(chan struct{})
	defer close(r.fetch.hold)
	r.run()
	r.await("a repair", func() bool { return r.fetch.priority() == swarm.Repair })
	r.catalogue.publish(t, "new", r.file(r.there, 1<<16, 100))
	r.await("the new file's turn", func() bool { return r.fetch.priority() == swarm.Distribute })
}
