package swarm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
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
		limit(slowRate, a, b, c)
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
		limit(slowRate, a, b, c)
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
		limit(slowRate, a, b, c)
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
		limit(slowRate, seed)
		const n = 256
		id := seed.publish(n)
		var waits []func()
		for i := range 8 {
			h := l.host(i + 1)
			limit(slowRate, h)
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

func TestResumeAfterRestart(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, b := l.host(1), l.host(2)
		id := a.publish(100)
		limit(slowRate, a)
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
		limit(slowRate, a)
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
		if j := b.running(id); j == nil || len(b.budget.owed()) > 0 {
			t.Errorf("bytes are in flight for nobody: %v", b.budget.owed())
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
		limit(slowRate, a)
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
		limit(slowRate, a)
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
		limit(slowRate, a, b)
		done := make(chan error, 2)
		go func() { done <- b.Fetch(context.Background(), f, content.Bits{}, Distribute, nil) }()
		go func() { done <- a.Fetch(context.Background(), g, content.Bits{}, Distribute, nil) }()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		one, err := a.peers.hold(context.Background(), mustPeer(b.id), false)
		if err != nil {
			t.Fatal(err)
		}
		two, err := b.peers.hold(context.Background(), mustPeer(a.id), false)
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

// TestOneOfTwoDials: of two hosts that are introduced to each other one dials, also when they hear of it at the same
// moment.
func TestOneOfTwoDials(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		hosts := []*labHost{l.host(0), l.host(1), l.host(2), l.host(3), l.host(4)}
		limit(slowRate, hosts...)
		id := hosts[0].publish(150)
		var waits []func()
		for _, h := range hosts[1:] {
			h.shaking = plan.CourtesyTime / 2
			waits = append(waits, h.mustFetch(id))
		}
		until(t, "all fetch", func() bool { return hosts[1].got() > 20 && hosts[4].got() > 20 })
		pairs, ends := len(hosts)*(len(hosts)-1)/2, 0
		for _, h := range hosts {
			ends += h.sessions()
		}
		if ends != 2*pairs {
			t.Errorf("%d ends of sessions for %d pairs of hosts", ends, pairs)
		}
		for _, wait := range waits {
			wait()
		}
	})
}

func TestClosedSwarm(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, b := l.host(1), l.host(2)
		id := a.publish(200)
		limit(slowRate, a)
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
		for range 3 * plan.MaxPeerSessions {
			c, err := b.Dial(context.Background(), a.id)
			if err != nil {
				t.Fatal(err)
			}
			l.wg.Go(func() { b.Serve(context.Background(), c, a.id) })
			synctest.Wait()
		}
		time.Sleep(time.Second)
		if a.sessions() > plan.MaxPeerSessions {
			t.Errorf("%d sessions with one peer", a.sessions())
		}
	})
}

// TestFileMadeAnew removes a file and fetches it again while the job of the first fetch still lingers.
func TestFileMadeAnew(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, b := l.host(1), l.host(2)
		id := a.publish(20)
		for range 2 {
			if err := b.fetch(id); err != nil {
				t.Fatal(err)
			}
			if err := b.store.Remove(id); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestWantsChange: who wants something else ends the call before once the new one is known; nothing comes twice.
func TestWantsChange(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, b := l.host(1), l.host(2)
		id := a.publish(200)
		limit(slowRate, a)
		f := b.file(id)
		ctx, stop := context.WithCancel(context.Background())
		before, changed := make(chan error, 1), make(chan struct{})
		go func() { before <- b.Fetch(ctx, f, content.Bits{}, Repair, nil) }()
		until(t, "some chunks", func() bool { return b.got() > 20 })
		var once sync.Once
		after := make(chan error, 1)
		go func() {
			after <- b.Fetch(context.Background(), f, content.Bits{}, Start, func(Progress) { once.Do(func() { close(changed) }) })
		}()
		<-changed
		stop()
		if err := <-before; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if err := <-after; err != nil || b.got() != 200 || a.sent() > 204 { // a few draws were granted just when they were given up
			t.Errorf("%v: got %d chunks of %d sent, want each of 200 once", err, b.got(), a.sent())
		}
	})
}

// TestStartOvertakesRepair: who joins a fetch at a higher priority does not wait in the line with the draws of a lower
// one.
func TestStartOvertakesRepair(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, b := l.host(1), l.host(2)
		id := a.publish(200)
		limit(slowRate, a)
		f := b.file(id)
		ctx, stop := context.WithCancel(context.Background())
		before := make(chan error, 1)
		go func() { before <- b.Fetch(ctx, f, content.Bits{}, Repair, nil) }()
		until(t, "it has found its pace", func() bool { return b.got() > 100 })
		var others []*labHost
		var done []func()
		for i := range 6 {
			o := l.host(3 + i)
			others, done = append(others, o), append(done, o.mustFetch(a.publish(100+i))) // at the priority between the two
		}
		distributed := func() (n int) {
			for _, o := range others {
				n += o.got()
			}
			return n
		}
		until(t, "the others go first", func() bool { return distributed() > 60 })
		got := distributed()
		if err := b.Fetch(context.Background(), f, content.Bits{}, Start, nil); err != nil {
			t.Error(err)
		}
		if n := distributed() - got; n > 300 {
			t.Errorf("%d chunks were distributed before the last that a start waits for", n)
		}
		stop()
		<-before
		for _, wait := range done {
			wait()
		}
	})
}
