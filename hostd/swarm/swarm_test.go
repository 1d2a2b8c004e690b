package swarm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/placement"
)

// inLab runs a test in a bubble: its time stands still while anybody works, and it does not end while anything runs.
func inLab(t *testing.T, f func(t *testing.T, l *lab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		defer l.close()
		f(t, l)
	})
}

const slowRate = 10e6 // bytes a second

func TestOneFetcherOneHolder(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, b := l.host(1), l.host(2)
		id := a.publish(40)
		var last Progress
		f := b.file(id)
		err := b.Fetch(context.Background(), f, content.Bits{}, Distribute, func(p Progress) { last = p })
		if err != nil {
			t.Fatal(err)
		}
		if err := whole(f); err != nil {
			t.Error(err)
		}
		if a.sent() != 40 || b.got() != 40 {
			t.Errorf("%d chunks sent, %d received, want 40", a.sent(), b.got())
		}
		if last.Done != last.Total || last.Total != f.Manifest().Size() {
			t.Errorf("last progress: %+v", last)
		}
	})
}

func TestSeveralSourcesAtOnce(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, b, c, d := l.host(1), l.host(2), l.host(3), l.host(4)
		id := a.publish(200)
		l.seedAll(id, b, c)
		before := []int{a.sent(), b.sent(), c.sent()}
		a.rate, b.rate, c.rate = slowRate, slowRate, slowRate
		start := time.Now()
		if err := d.fetch(id); err != nil {
			t.Fatal(err)
		}
		for i, h := range []*labHost{a, b, c} {
			if n := h.sent() - before[i]; n < 40 {
				t.Errorf("source %d gave %d of 200 chunks", i, n)
			}
		}
		one := time.Duration(200 * testChunk / slowRate * 1e9)
		if took := time.Since(start); took > one/2 {
			t.Errorf("took %v, a single source takes %v", took, one)
		}
		if d.got() != 200 {
			t.Errorf("received %d chunks, want 200", d.got())
		}
	})
}

// TestServesWhileItFetches is a chain: C knows B alone, which has not finished.
func TestServesWhileItFetches(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, b, c := l.host(1), l.host(2), l.host(3)
		id := a.publish(200)
		a.rate, b.rate, c.rate = slowRate, slowRate, slowRate
		only := func(h *labHost) func(content.Digest) []placement.HostID {
			return func(content.Digest) []placement.HostID { return []placement.HostID{h.id} }
		}
		b.catalogue, c.catalogue = only(a), only(b)
		waitB := b.mustFetch(id)
		until(t, "B has begun", func() bool { return b.got() > 10 })
		waitC := c.mustFetch(id)
		until(t, "C has something", func() bool { return c.got() > 10 })
		if b.got() == 200 {
			t.Error("B had finished before C got anything")
		}
		waitB()
		waitC()
		if b.sent() == 0 {
			t.Error("B gave nothing to C")
		}
	})
}

// TestFetchersMeet: both know the seed alone, which introduces them.
func TestFetchersMeet(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, b, c := l.host(1), l.host(2), l.host(3)
		id := a.publish(200)
		a.rate, b.rate, c.rate = slowRate, slowRate, slowRate
		waitB, waitC := b.mustFetch(id), c.mustFetch(id)
		waitB()
		waitC()
		if a.sent() > 240 {
			t.Errorf("the seed sent %d chunks of a file of 200", a.sent())
		}
		if b.sent() == 0 || c.sent() == 0 {
			t.Errorf("the fetchers gave each other %d and %d chunks", b.sent(), c.sent())
		}
	})
}

func TestEightFetchersSpareTheSeed(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		seed := l.host(0)
		seed.rate = slowRate
		const n = 256
		id := seed.publish(n)
		var waits []func()
		for i := range 8 {
			h := l.host(i + 1)
			h.rate = slowRate
			waits = append(waits, h.mustFetch(id))
		}
		for _, wait := range waits {
			wait()
		}
		t.Logf("the seed sent %.2f files", float64(seed.sent())/n)
		if seed.sent() > n*3/2 {
			t.Errorf("the seed sent %d chunks of a file of %d", seed.sent(), n)
		}
	})
}

func TestLiarIsShunned(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, liar, c := l.host(1), l.host(2), l.host(3)
		id := a.publish(100)
		l.seedAll(id, liar)
		liar.spoil.Store(true)
		a.rate, liar.rate = slowRate, slowRate
		if err := c.fetch(id); err != nil {
			t.Fatal(err)
		}
		if n := testutil.ToFloat64(c.metrics.bad); n == 0 {
			t.Error("no bad chunk was noticed")
		}
		before := liar.sent()
		other := a.publish(50)
		l.holds(other, liar)
		if err := c.fetch(other); err != nil {
			t.Fatal(err)
		}
		if liar.sent() != before {
			t.Error("the liar was asked again")
		}
		if _, err := c.peers.hold(context.Background(), mustPeer(liar.id)); !errors.Is(err, ErrBadPeer) {
			t.Errorf("a session with the liar: %v", err)
		}
		// Nor may it come in.
		if _, err := liar.peers.hold(context.Background(), mustPeer(c.id)); err == nil {
			time.Sleep(time.Second)
			if liar.sessions() > 1 { // that with a
				t.Error("the liar has a session with the host that shuns it")
			}
		}
		time.Sleep(ShunTime)
		if l, err := c.peers.hold(context.Background(), mustPeer(liar.id)); err != nil {
			t.Errorf("after %v it is still shunned: %v", ShunTime, err)
		} else {
			c.peers.release(l)
		}
	})
}

// TestOnlyALiar: what it says is never stored, and the error tells.
func TestOnlyALiar(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		liar, b := l.host(1), l.host(2)
		id := liar.publish(10)
		b.file(id)
		liar.spoil.Store(true)
		err := b.fetch(id)
		if !errors.Is(err, ErrNoHolder) || !errors.Is(err, ErrBadPeer) {
			t.Errorf("error %v", err)
		}
		if b.got() != 0 {
			t.Errorf("%d chunks of a liar are stored", b.got())
		}
	})
}

func TestStalledPeerIsPutAside(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, b, c := l.host(1), l.host(2), l.host(3)
		id := a.publish(200)
		l.seedAll(id, b)
		a.rate, b.rate = slowRate, slowRate
		wait := c.mustFetch(id)
		until(t, "a third is here", func() bool { return c.got() > 66 })
		start := time.Now()
		b.freeze()
		wait()
		if took := time.Since(start); took > StallTime+3*time.Second {
			t.Errorf("took %v after one of two sources froze", took)
		}
		if c.got() != 200 {
			t.Errorf("received %d chunks, want 200", c.got())
		}
	})
}

// TestStalledPeerIsUsedAgain: there is nobody else, and it comes back in time.
func TestStalledPeerIsUsedAgain(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, b := l.host(1), l.host(2)
		id := a.publish(100)
		a.rate = slowRate
		wait := b.mustFetch(id)
		until(t, "a third is here", func() bool { return b.got() > 33 })
		a.freeze()
		time.Sleep(StallTime + 2*time.Second)
		if n := testutil.ToFloat64(b.metrics.stalls); n != 1 {
			t.Errorf("%v stalls noticed", n)
		}
		a.resume()
		wait()
	})
}

func TestDeadPeerIsReplacedAtOnce(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, b, c := l.host(1), l.host(2), l.host(3)
		id := a.publish(200)
		l.seedAll(id, b)
		a.rate, b.rate = slowRate, slowRate
		wait := c.mustFetch(id)
		until(t, "a third is here", func() bool { return c.got() > 66 })
		start := time.Now()
		b.kill()
		wait()
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("took %v after one of two sources died", took)
		}
		if c.got() != 200 {
			t.Errorf("received %d chunks, want 200", c.got())
		}
	})
}

func TestNobodyHoldsIt(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, b := l.host(1), l.host(2)
		id := a.publish(20)
		f := b.file(id)
		a.kill()
		start := time.Now()
		err := b.Fetch(context.Background(), f, chunks(f, 3, 4, 5), Distribute, nil)
		var none *NoHolderError
		if !errors.As(err, &none) || !errors.Is(err, ErrNoHolder) {
			t.Fatalf("error %v", err)
		}
		if none.File != id || none.Missing != 3 || none.Hosts != 1 || none.Last == nil {
			t.Errorf("error %+v", none)
		}
		if !strings.Contains(err.Error(), id.Short()) || !strings.Contains(err.Error(), "3 chunks") {
			t.Errorf("error does not name the file and what is missing: %v", err)
		}
		if took := time.Since(start); took > PatienceTime+time.Second {
			t.Errorf("took %v", took)
		}
		if _, err := b.Manifest(context.Background(), content.Sum([]byte("nobody's"))); !errors.Is(err, ErrNoHolder) {
			t.Errorf("manifest: %v", err)
		}
	})
}

// TestPartIsHeld: what somebody has comes, and only then the rest is given up.
func TestPartIsHeld(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, b, c := l.host(1), l.host(2), l.host(3)
		id := a.publish(20)
		f := b.file(id)
		if err := b.Fetch(context.Background(), f, chunks(f, 1, 2, 3), Distribute, nil); err != nil {
			t.Fatal(err)
		}
		l.holds(id, b)
		g := c.file(id)
		a.kill()
		err := c.Fetch(context.Background(), g, content.Bits{}, Distribute, nil)
		var none *NoHolderError
		if !errors.As(err, &none) || none.Missing != 17 {
			t.Errorf("error %v", err)
		}
		if c.got() != 3 {
			t.Errorf("received %d chunks, want 3", c.got())
		}
	})
}

func TestNewHolderIsFound(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, b, c := l.host(1), l.host(2), l.host(3)
		id := a.publish(100)
		l.seedAll(id, b)
		l.mu.Lock()
		l.holders[id] = []placement.HostID{a.id}
		l.mu.Unlock()
		a.rate, b.rate = slowRate/100, slowRate
		wait := c.mustFetch(id)
		until(t, "it has begun", func() bool { return c.got() > 0 })
		l.holds(id, b)
		start := time.Now()
		wait()
		if took := time.Since(start); took > LookTime+10*time.Second {
			t.Errorf("took %v", took)
		}
		if b.sent() < 50 {
			t.Errorf("the new holder gave %d chunks", b.sent())
		}
	})
}

func TestResumeAfterRestart(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, b := l.host(1), l.host(2)
		id := a.publish(100)
		a.rate = slowRate
		f := b.file(id)
		ctx, cancel := context.WithCancel(context.Background())
		err := b.Fetch(ctx, f, content.Bits{}, Distribute, func(p Progress) {
			if p.Done > p.Total/3 {
				cancel()
			}
		})
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("error %v", err)
		}
		b.stop()
		b.start()
		held := b.file(id).Have().Count()
		if held == 0 || held == 100 {
			t.Fatalf("%d chunks are held after the restart", held)
		}
		if err := b.fetch(id); err != nil {
			t.Fatal(err)
		}
		if b.got() != 100-held {
			t.Errorf("received %d chunks with %d held of 100", b.got(), held)
		}
	})
}

// TestCancelStops: when the last caller is gone, nothing is asked for any more, and after a while nothing is left.
func TestCancelStops(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, b := l.host(1), l.host(2)
		id := a.publish(200)
		a.rate = slowRate
		f := b.file(id)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- b.Fetch(ctx, f, content.Bits{}, Distribute, nil) }()
		until(t, "it has begun", func() bool { return b.got() > 10 })
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		synctest.Wait()
		if j := b.running(id); j == nil || len(b.budget.peers) > 0 {
			t.Errorf("bytes are in flight for nobody: %v", b.budget.peers)
		}
		got := b.got()
		time.Sleep(time.Second)
		if b.got() > got {
			t.Errorf("%d chunks came after the cancel", b.got()-got)
		}
		time.Sleep(LingerTime + time.Second)
		if b.running(id) != nil {
			t.Error("the job is still there")
		}
		time.Sleep(2 * IdleTime)
		if a.sessions() > 0 || b.sessions() > 0 {
			t.Errorf("%d and %d sessions are left", a.sessions(), b.sessions())
		}
	})
}

// TestCallersShareAJob: every chunk comes once, and each caller hears of its own.
func TestCallersShareAJob(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, b := l.host(1), l.host(2)
		id := a.publish(100)
		a.rate = slowRate
		f := b.file(id)
		wait := b.mustFetch(id)
		first, second := content.NewBits(100), content.NewBits(100)
		first.SetRange(0, 60)
		second.SetRange(40, 100)
		done := make(chan error, 2)
		go func() { done <- b.Fetch(context.Background(), f, first, ReadAhead, nil) }()
		go func() { done <- b.Fetch(context.Background(), f, second, Repair, nil) }()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		wait()
		if a.sent() != 100 {
			t.Errorf("%d chunks sent for three callers, want 100", a.sent())
		}
	})
}

// TestDemandGoesFirst: a reader does not wait for the rest of the file.
func TestDemandGoesFirst(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, b := l.host(1), l.host(2)
		id := a.publish(300)
		a.rate = slowRate
		f := b.file(id)
		wait := b.mustFetch(id)
		until(t, "it has begun", func() bool { return b.got() > 50 })
		before := b.got()
		if err := b.Fetch(context.Background(), f, chunks(f, 290, 299), Demand, nil); err != nil {
			t.Fatal(err)
		}
		if n := b.got() - before; n > 40 { // what had been asked for already, and a little
			t.Errorf("%d other chunks came before the demanded ones", n)
		}
		wait()
		order := b.order()
		if slices.Index(order, 290) > 100 {
			t.Errorf("order %v", order)
		}
	})
}

func TestHolesAreNeverAskedFor(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, b := l.host(1), l.host(2)
		path := filepath.Join(t.TempDir(), "sparse")
		src, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []int64{0, 7, 500} {
			if _, err := src.WriteAt([]byte("data"), at*testChunk); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(src.Truncate(1000*testChunk+1), src.Close()); err != nil {
			t.Fatal(err)
		}
		id := a.publishFile(path)
		var last Progress
		f := b.file(id)
		if err := b.Fetch(context.Background(), f, content.Bits{}, Distribute, func(p Progress) { last = p }); err != nil {
			t.Fatal(err)
		}
		if a.sent() != 3 || last.Total != 3*testChunk || last.Done != last.Total {
			t.Errorf("%d chunks sent, progress %+v", a.sent(), last)
		}
	})
}

func TestEmptyFile(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, b := l.host(1), l.host(2)
		if err := b.fetch(a.publishBytes(nil)); err != nil {
			t.Error(err)
		}
	})
}

// TestFullDisk: it is nobody's fault but ours.
func TestFullDisk(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, b := l.host(1), l.host(2)
		id := a.publish(20)
		full := errors.New("no space left")
		b.broken.Store(&full)
		if err := b.fetch(id); !errors.Is(err, full) {
			t.Fatalf("error %v", err)
		}
		b.broken.Store(nil)
		if err := b.fetch(id); err != nil {
			t.Errorf("after there is room again: %v", err)
		}
	})
}

// TestLostChunk: a holder that cannot read a chunk any more is not asked for it again, but for the rest.
func TestLostChunk(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, b, c := l.host(1), l.host(2), l.host(3)
		id := a.publish(20)
		l.seedAll(id, b)
		damage(t, a, id, 5)
		if err := c.fetch(id); err != nil {
			t.Error(err)
		}
	})
}

// damage flips a byte of a stored chunk behind the store's back.
func damage(t *testing.T, h *labHost, id content.Digest, chunk int) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(h.dir, "files", id.Hex(), "data"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := make([]byte, 1)
	if _, err := f.ReadAt(p, int64(chunk)*testChunk+99); err != nil {
		t.Fatal(err)
	}
	p[0] ^= 0x10
	if _, err := f.WriteAt(p, int64(chunk)*testChunk+99); err != nil {
		t.Fatal(err)
	}
}

// TestBothDial: two hosts that fetch from each other at the same time end with one session.
func TestBothDial(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, b := l.host(1), l.host(2)
		x, y := a.publish(150), b.publish(151)
		f, g := b.file(x), a.file(y)
		time.Sleep(2 * IdleTime) // the sessions which brought the manifests
		if a.sessions()+b.sessions() > 0 {
			t.Fatal("idle sessions are left")
		}
		a.rate, b.rate = slowRate, slowRate
		done := make(chan error, 2)
		go func() { done <- b.Fetch(context.Background(), f, content.Bits{}, Distribute, nil) }()
		go func() { done <- a.Fetch(context.Background(), g, content.Bits{}, Distribute, nil) }()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		one, err := a.peers.hold(context.Background(), mustPeer(b.id))
		if err != nil {
			t.Fatal(err)
		}
		two, err := b.peers.hold(context.Background(), mustPeer(a.id))
		if err != nil {
			t.Fatal(err)
		}
		if one.dialed == two.dialed {
			t.Error("they do not prefer the same session")
		}
		a.peers.release(one)
		b.peers.release(two)
		time.Sleep(LingerTime + 2*IdleTime)
		if a.sessions()+b.sessions() > 0 {
			t.Error("idle sessions are left")
		}
	})
}

func TestManifestFromALiar(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		liar, b, c := l.host(1), l.host(2), l.host(3)
		id := liar.publish(20)
		l.seedAll(id, b)
		liar.spoil.Store(true)
		if m, err := c.Manifest(context.Background(), id); err != nil || m.ID() != id {
			t.Errorf("manifest %v, %v", m, err)
		}
		if _, err := c.peers.hold(context.Background(), mustPeer(liar.id)); !errors.Is(err, ErrBadPeer) {
			t.Errorf("a session with the liar: %v", err)
		}
	})
}

func TestManifestDoesNotWaitForTheFrozen(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, b, c := l.host(1), l.host(2), l.host(3)
		id := a.publish(20)
		l.seedAll(id, b)
		a.freeze()
		start := time.Now()
		if _, err := c.Manifest(context.Background(), id); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > 2*hedgeTime {
			t.Errorf("took %v", took)
		}
	})
}

func TestClosedSwarm(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, b := l.host(1), l.host(2)
		id := a.publish(200)
		a.rate = slowRate
		f := b.file(id)
		done := make(chan error)
		go func() { done <- b.Fetch(context.Background(), f, content.Bits{}, Distribute, nil) }()
		until(t, "it has begun", func() bool { return b.got() > 10 })
		s := b.Swarm
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, ErrClosed) {
			t.Errorf("error %v", err)
		}
		if err := s.Fetch(context.Background(), f, content.Bits{}, Distribute, nil); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		if _, err := s.Manifest(context.Background(), id); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

// TestSessionsAreBounded: one peer cannot take them all.
func TestSessionsAreBounded(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, b := l.host(1), l.host(2)
		for range 3 * maxPeerSessions {
			c, err := b.Dial(context.Background(), a.id)
			if err != nil {
				t.Fatal(err)
			}
			l.wg.Go(func() { b.Serve(context.Background(), c, a.id) })
			synctest.Wait()
		}
		time.Sleep(time.Second)
		if a.sessions() > maxPeerSessions {
			t.Errorf("%d sessions with one peer", a.sessions())
		}
	})
}
