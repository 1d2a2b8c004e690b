package keeper

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/placement"
)

// has says whether a file is in the store at all.
func (r *room) has(f *store.File) bool { _, ok := r.here.Get(f.ID()); return ok }

// isStray says whether the keeper has a file for a stray.
func (r *room) isStray(f *store.File) bool {
	for _, s := range r.keeper.Strays(false) {
		if s.File.ID() == f.ID() {
			return true
		}
	}
	return false
}

// replace puts a new catalogue, with the same host, in the place of the one that is.
func (c *catalogue) replace(t *testing.T, cluster string) {
	c.mu.Lock()
	c.state, c.index = placement.New(), 0
	c.mu.Unlock()
	c.apply(t, placement.Command{InitCluster: &placement.InitCluster{
		ID: cluster, Host: placement.Host{ID: self, Name: "a", Addr: "a:1", Weight: 100}, Now: 1,
	}})
}

// TestKeepsWhatTheCatalogueDoesNotName: what a new catalogue does not know is kept, and shown once it is known that it
// is the newest that does not know it.
func TestKeepsWhatTheCatalogueDoesNotName(t *testing.T) {
	r := newRoom(t)
	orphan, kept := r.file(r.here, 1<<20, 1), r.file(r.here, 1<<20, 2)
	if err := r.here.SetCluster("lost"); err != nil {
		t.Fatal(err)
	}
	r.catalogue.publish(t, "kept", kept)
	r.catalogue.setDeaf(true)
	r.run()
	r.await("the keeper has looked", func() bool { return len(kept.Note().Names) == 1 })
	if r.isStray(orphan) {
		t.Error("a stray although the leader was not asked")
	}
	r.catalogue.setDeaf(false)
	r.keeper.Recheck()
	r.await("the orphan is a stray", func() bool { return r.isStray(orphan) })
	r.await("the store is stamped", func() bool { return r.here.Cluster() == "test" })
	if n := orphan.Note(); n.Cluster != "lost" || n.StraySince == 0 || !r.holds(orphan) || r.isStray(kept) {
		t.Errorf("held %v, noted %+v", r.holds(orphan), n)
	}
	if b := r.keeper.StrayBytes(); b != 1<<20 {
		t.Errorf("%d bytes of strays", b)
	}
	// It is one no more once it has a name, and then goes when that is removed.
	r.catalogue.publish(t, "found", orphan)
	r.await("it is adopted", func() bool { return !r.isStray(orphan) })
	r.await("its name is noted", func() bool {
		n := orphan.Note()
		return n.Cluster == "test" && n.StraySince == 0 && len(n.Names) == 1 && n.Names[0].Name == "found"
	})
	r.catalogue.apply(t, placement.Command{RemoveFile: &placement.RemoveFile{Name: "found"}})
	r.await("it is dropped", func() bool { return !r.has(orphan) })
}

// TestWhatAReplacedCatalogueLacksIsAStray: nobody has removed it.
func TestWhatAReplacedCatalogueLacksIsAStray(t *testing.T) {
	r := newRoom(t)
	f := r.file(r.there, 1<<20, 1)
	r.catalogue.publish(t, "f", f)
	r.run()
	r.await("the file", func() bool { return r.holds(f) })
	mine, _ := r.here.Get(f.ID())
	r.catalogue.replace(t, "other")
	r.await("it is a stray", func() bool { return r.isStray(f) })
	r.await("it is noted", func() bool { return mine.Note().StraySince != 0 })
	if n := mine.Note(); n.Cluster != "test" || len(n.Names) != 1 || n.Names[0].Name != "f" || n.Names[0].Replicas != 1 {
		t.Errorf("noted %+v", n)
	}
}

// TestFailedPublicationOfAStrayLeavesIt: the content was there before.
func TestFailedPublicationOfAStrayLeavesIt(t *testing.T) {
	r := newRoom(t)
	orphan := r.file(r.here, 1<<20, 1)
	r.run()
	r.await("the orphan is a stray", func() bool { return r.isStray(orphan) })
	r.keeper.Pin(orphan.ID())()
	failed := r.file(r.here, 1<<20, 2)
	r.keeper.Pin(failed.ID())()
	r.await("the failed publication is dropped", func() bool { return !r.has(failed) })
	if !r.isStray(orphan) {
		t.Error("the stray is dropped")
	}
}

// TestStraysGoInTime: after KeepStrays, which a restart does not begin anew.
func TestStraysGoInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		r.keepStrays = 10 * time.Hour
		orphan := r.file(r.here, 1<<20, 1)
		began := time.Now()
		r.run()
		r.await("the orphan is a stray", func() bool { return r.isStray(orphan) })
		time.Sleep(5 * time.Hour)
		r.stop()
		r.run()
		r.await("the orphan is a stray again", func() bool { return r.isStray(orphan) })
		if s := r.keeper.Strays(false)[0]; s.Until.Sub(began).Round(time.Minute) != 10*time.Hour {
			t.Errorf("kept until %v, since %v", s.Until, s.Since)
		}
		time.Sleep(5*time.Hour - 2*time.Minute)
		if !r.has(orphan) {
			t.Error("dropped early")
		}
		r.await("it is dropped", func() bool { return !r.has(orphan) })
		if passed := time.Since(began).Round(time.Minute); passed != 10*time.Hour {
			t.Errorf("dropped after %v", passed)
		}
		r.stop()
	})
}

// TestStraysOutliveAWrongClock: a time that was noted long ago, or by a clock that was far behind, does not drop a
// stray before the clock can have been corrected; and none that is about to be adopted is dropped.
func TestStraysOutliveAWrongClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		orphan, held := r.file(r.here, 1<<20, 1), r.file(r.here, 1<<20, 2)
		for _, f := range []*store.File{orphan, held} {
			if err := f.SetNote(store.Note{StraySince: 1}); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		r.run()
		r.await("they are strays", func() bool { return r.isStray(orphan) && r.isStray(held) })
		time.Sleep(trustClock - time.Minute)
		r.keeper.Strays(true)
		time.Sleep(adoptTime - time.Minute)
		r.await("they are dropped", func() bool { return !r.has(orphan) && !r.has(held) })
		if passed := time.Since(began); passed < trustClock-time.Minute+adoptTime-time.Second {
			t.Errorf("dropped after %v", passed)
		}
		r.stop()
	})
}

// TestStraysMakeRoom: they go for what somebody asks for, the longest unused first and before what the catalogue names,
// but not for a watermark.
func TestStraysMakeRoom(t *testing.T) {
	r := newRoom(t)
	r.join()
	cached, _ := r.cached("cached", 8, 1)
	var orphans []*store.File
	for i := range 3 {
		orphans = append(orphans, r.file(r.here, 1<<20, byte(i+2)))
	}
	r.run()
	r.known(cached)
	for _, f := range orphans {
		r.await("the orphans are strays", func() bool { return r.isStray(f) })
	}
	for _, i := range []int{1, 2, 0} { // from the oldest to the newest
		orphans[i].Touch()
	}
	surplus := int64(r.homes(other, cached).Count(8)) << 20
	r.here.SetQuota(store.Quota{Bytes: 11 << 20, High: 50, Low: 10})
	r.await("the watermark takes what is safe elsewhere", func() bool { return cached.HeldBytes() == 8<<20-surplus })
	r.here.SetQuota(store.Quota{Bytes: r.here.Usage().Bytes, High: 100, Low: 100})
	r.await("the store is full", func() bool { return r.here.Usage().Left() == 0 })
	for i, f := range orphans {
		if f.HeldBytes() == 0 {
			t.Errorf("orphan %d went for a watermark", i)
		}
	}
	r.keeper.Strays(true)
	if err := r.keeper.MakeRoom(t.Context(), 1); err == nil {
		t.Error("one that is about to be adopted went")
	}
	r.keeper.mu.Lock()
	for _, s := range r.keeper.strays {
		s.held = time.Time{}
	}
	r.keeper.mu.Unlock()
	r.await("there is room", func() bool { return r.keeper.MakeRoom(t.Context(), 1) == nil })
	var left []string
	for _, f := range orphans {
		left = append(left, fmt.Sprint(f.HeldBytes()>>20))
	}
	if got := fmt.Sprint(left); got != "[1 0 1]" {
		t.Errorf("left of the orphans, in MiB: %s", got)
	}
	if r.isStray(orphans[1]) {
		t.Error("an evicted stray is shown")
	}
}
