package swarm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/placement"
)

func TestLiarIsShunned(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		a, liar, c := l.host(1), l.host(2), l.host(3)
		id := a.publish(100)
		l.seedAll(id, liar)
		liar.spoil.Store(true)
		limit(slowRate, a, liar)
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
		if _, err := c.peers.hold(context.Background(), mustPeer(liar.id), false); !errors.Is(err, ErrBadPeer) {
			t.Errorf("a session with the liar: %v", err)
		}
		// Nor may it come in.
		if _, err := liar.peers.hold(context.Background(), mustPeer(c.id), false); err == nil {
			time.Sleep(time.Second)
			if liar.sessions() > 1 { // that with a
				t.Error("the liar has a session with the host that shuns it")
			}
		}
		time.Sleep(ShunTime)
		if l, err := c.peers.hold(context.Background(), mustPeer(liar.id), false); err != nil {
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
		limit(slowRate, a, b)
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
		limit(slowRate, a)
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
		limit(slowRate, a, b)
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
		limit(slowRate/100, a)
		limit(slowRate, b)
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

func TestManifestFromALiar(t *testing.T) {
	inLab(t, func(t *testing.T, l *lab) {
		liar, b, c := l.host(1), l.host(2), l.host(3)
		id := liar.publish(20)
		l.seedAll(id, b)
		liar.spoil.Store(true)
		if m, err := c.Manifest(context.Background(), id); err != nil || m.ID() != id {
			t.Errorf("manifest %v, %v", m, err)
		}
		if _, err := c.peers.hold(context.Background(), mustPeer(liar.id), false); !errors.Is(err, ErrBadPeer) {
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
		if took := time.Since(start); took > 2*plan.HedgeTime {
			t.Errorf("took %v", took)
		}
	})
}
