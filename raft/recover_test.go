package raft

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/disk/disktest"
	"github.com/virtswarm/virtswarm/placement"
)

// offline opens the directory of a host that is down.
func (c *cluster) offline(n int, tweaks ...func(*Config)) *Offline {
	c.t.Helper()
	cfg := Config{ID: hostID(n), Dir: c.hostDir(n), Advertise: c.hosts[hostID(n)].addr, Forwarder: forwarder{c.fabric, hostID(n)}}
	for _, tweak := range tweaks {
		tweak(&cfg)
	}
	o, err := OpenOffline(cfg)
	if err != nil {
		c.t.Fatalf("open host %d offline: %v", n, err)
	}
	return o
}

// recover recovers the cluster at host n, which is down, without the hosts in gone.
func (c *cluster) recover(n int, gone ...int) {
	c.t.Helper()
	o := c.offline(n)
	var ids []placement.HostID
	for _, g := range gone {
		ids = append(ids, hostID(g))
	}
	if err := errors.Join(o.Recover(ids, time.Now()), o.Close()); err != nil {
		c.t.Fatalf("recover at host %d: %v", n, err)
	}
}

// destroy ends hosts and takes them out of the test, with their disks.
func (c *cluster) destroy(hosts ...int) {
	c.t.Helper()
	for _, n := range hosts {
		c.kill(n)
		delete(c.hosts, hostID(n))
		if err := os.RemoveAll(c.hostDir(n)); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (n *Node) trouble(kind TroubleKind) bool {
	return slices.ContainsFunc(n.Trouble(), func(t Trouble) bool { return t.Kind == kind })
}

// TestRecover loses three voters of six hosts for good, and goes on from the survivor whose log is the longest.
func TestRecover(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.grow(7)
		lost := voterNumbers(c, 5)[:3]
		for i := range 20 {
			c.apply(c.up()[i%7], file(fmt.Sprint("before ", i), 1))
		}
		c.destroy(lost...)
		left := c.up()
		best := left[0]
		c.eventually("there is no leader", func() bool {
			return !slices.ContainsFunc(left, func(n int) bool { return c.node(n).Status().Role == Leader })
		})
		for _, n := range left {
			end, own := ask(t, c, best, n), ask(t, c, best, best)
			if own.Behind(end) {
				best = n
			}
		}
		c.stop(best)
		c.recover(best, lost...)
		c.start(best)
		c.apply(best, file("after", best))
		want := len(left) // the survivors are hosts, and as many of them vote as is right
		c.eventually("the survivors follow, and vote", func() bool {
			s := c.node(best).Status()
			return len(s.Voters) == []int{0, 1, 1, 3, 3}[want] && len(s.Voters)+len(s.Nonvoters) == want
		})
		for _, n := range left {
			c.eventually("the survivor has all", func() bool { return c.node(n).has("after") && c.node(n).has("before 19") })
			if tr := c.node(n).Trouble(); len(tr) > 0 {
				t.Errorf("host %d has trouble: %+v", n, tr)
			}
			c.node(n).View(func(s *placement.State) {
				for _, l := range lost {
					if _, in := s.Host(hostID(l)); in || !s.WasRemoved(hostID(l)) {
						t.Errorf("host %d still has host %d as a member", n, l)
					}
				}
			})
		}
		c.stop(left[0]) // and the cluster is as sound as before
		c.apply(left[1], file("with one down", left[1]))
	})
}

// voterNumbers returns the numbers of the voters, which are to be so many.
func voterNumbers(c *cluster, want int) (list []int) {
	for n := 1; n <= len(c.hosts); n++ {
		if slices.Contains(c.node(c.leader()).Status().Voters, hostID(n)) {
			list = append(list, n)
		}
	}
	if len(list) != want {
		c.t.Fatalf("voters %v, want %d", list, want)
	}
	return list
}

func ask(t *testing.T, c *cluster, from, host int) LogEnd {
	t.Helper()
	p, err := forwarder{c.fabric, hostID(from)}.Forward(c.ctx(), hostID(host), c.hosts[hostID(host)].addr, opStats, nil)
	if err != nil {
		t.Fatal(err)
	}
	var s stats
	if err := json.Unmarshal(p, &s); err != nil {
		t.Fatal(err)
	}
	return LogEnd{Term: s.LastTerm, Index: s.LastIndex, Lineage: s.Lineage}
}

// TestSurvivorAheadIsRefused recovers from a log that lacks what another survivor has: that one must neither follow,
// which would undo it, nor be believed to be of one mind.
func TestSurvivorAheadIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.grow(3)
		stale := c.leader()%3 + 1
		c.kill(stale)
		on := c.up()
		c.apply(on[0], file("acknowledged by two", on[0]))
		ahead := on[0]
		c.destroy(on[1])
		c.recover(stale, on[1])
		c.start(stale)
		c.apply(stale, file("after", stale))
		c.eventually("both say what is wrong", func() bool {
			return c.node(stale).trouble(TroubleAhead) && c.node(ahead).trouble(TroubleAhead)
		})
		if !c.node(ahead).has("acknowledged by two") || c.node(ahead).has("after") {
			t.Error("the survivor that is ahead has followed")
		}
		ctx := c.ctx()
		if err := c.node(ahead).ReadIndex(ctx); !errors.Is(err, ErrNoLeader) {
			t.Errorf("it believes that what it reads is the newest: %v", err)
		}
		// The way out: it leaves, and joins anew with an empty directory.
		c.apply(stale, placement.Command{RemoveHost: &placement.RemoveHost{ID: hostID(ahead)}})
		c.destroy(ahead)
		c.dir = filepath.Join(c.dir, "anew")
		c.join(stale, ahead, func(cfg *Config) { cfg.Bootstrap = false })
		c.eventually("it follows now", func() bool { return c.node(ahead).has("after") })
		if tr := c.node(stale).Trouble(); len(tr) > 0 {
			t.Errorf("the trouble is not over: %+v", tr)
		}
	})
}

// TestRecoveredApart recovers two survivors apart from each other, each without the rest.
func TestRecoveredApart(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.grow(5)
		c.destroy(1, 2, 3)
		c.stop(4)
		c.stop(5)
		c.recover(4, 1, 2, 3)
		c.recover(5, 1, 2, 3)
		c.start(4)
		c.start(5)
		c.apply(4, file("at four", 4))
		c.apply(5, file("at five", 5))
		c.eventually("both say what is wrong", func() bool {
			return c.node(4).trouble(TroubleApart) && c.node(5).trouble(TroubleApart)
		})
		if c.node(4).has("at five") || c.node(5).has("at four") {
			t.Error("one has followed the other")
		}
		c.eventually("neither counts on the other", func() bool {
			down := false
			c.node(4).View(func(s *placement.State) { h, _ := s.Host(hostID(5)); down = h.State == placement.Down })
			return down
		})
		c.stop(5)
		c.start(5)
		c.apply(5, file("still at five", 5))
		if !c.node(5).has("at five") {
			t.Error("what was acknowledged is gone after a restart")
		}
	})
}

// TestRecoverIsAtomic cuts a recovery short at every step that it takes on the disk: afterwards the host is what it
// was, or is recovered, and can be recovered again.
func TestRecoverIsAtomic(t *testing.T) {
	for step := 1; ; step++ {
		over := false
		bubble(t, func(t *testing.T, c *cluster) {
			c.grow(3)
			c.apply(1, file("kept", 1))
			survivor := c.leader()
			var gone []int
			for _, n := range c.up() {
				if n != survivor {
					gone = append(gone, n)
				}
			}
			c.destroy(gone...)
			c.kill(survivor)
			fault, err := disktest.NewFault(disk.OS{}, filepath.Join(c.dir, "attic"), uint64(step))
			if err != nil {
				t.Fatal(err)
			}
			o := c.offline(survivor, func(cfg *Config) { cfg.FS = fault })
			fault.KillAt(step)
			err = o.Recover([]placement.HostID{hostID(gone[0]), hostID(gone[1])}, time.Now())
			over = err == nil && !fault.Killed()
			_ = o.Close()
			if !over {
				if err := fault.PowerOff(); err != nil {
					t.Fatal(err)
				}
				o := c.offline(survivor)
				again := true
				o.View(func(s *placement.State) { again = len(s.Recoveries()) == 0 })
				if err := o.Close(); err != nil {
					t.Fatal(err)
				}
				if again {
					c.recover(survivor, gone...)
				}
			}
			node := c.start(survivor)
			c.apply(survivor, file("after", survivor))
			if s := node.Status(); !node.has("kept") || len(s.Voters) != 1 || len(s.Nonvoters) != 0 {
				t.Errorf("cut short at step %d: %+v", step, s)
			}
		})
		if over {
			if step < 5 {
				t.Fatalf("a recovery of %d steps: nothing was cut short", step)
			}
			return
		}
	}
}

// TestOldCopyIsRefused lets a host start from a copy of its directory that is older than its last start, and from one
// of the same start that lacks entries it had.
func TestOldCopyIsRefused(t *testing.T) {
	for _, restarted := range []bool{true, false} {
		t.Run(fmt.Sprint("restarted meanwhile: ", restarted), func(t *testing.T) {
			bubble(t, func(t *testing.T, c *cluster) {
				c.grow(3)
				old := c.leader()%3 + 1
				tell := func() {
					c.apply(old, placement.Command{UpdateHost: &placement.UpdateHost{ID: hostID(old), Life: c.node(old).Life()}})
				}
				tell()
				c.stop(old)
				copyDir(t, c.hostDir(old), c.hostDir(old)+".copy")
				c.start(old)
				if restarted {
					tell()
				}
				c.apply(old, file("promised", old))
				time.Sleep(5 * time.Second) // of the bubble: the leader hears of what is on its disk
				c.kill(old)
				if err := os.RemoveAll(c.hostDir(old)); err != nil {
					t.Fatal(err)
				}
				copyDir(t, c.hostDir(old)+".copy", c.hostDir(old))
				node := c.start(old)
				c.eventually("it is refused", func() bool { return node.Err() != nil })
				if !errors.Is(node.Err(), ErrOldCopy) {
					t.Fatalf("it failed with %v", node.Err())
				}
			})
		})
	}
}

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("copy %s: %v: %s", from, err, out)
	}
}

// TestTwinIsRefused starts a copy of a host's directory on a second machine, while the host runs.
func TestTwinIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.grow(3)
		n := c.leader()%3 + 1
		c.apply(n, placement.Command{UpdateHost: &placement.UpdateHost{ID: hostID(n), Life: c.node(n).Life()}})
		c.stop(n)
		copyDir(t, c.hostDir(n), c.hostDir(n)+".copy")
		c.start(n)
		c.eventually("it is back", func() bool { return c.node(n).current.Load() })
		cfg := Config{
			ID: hostID(n), Dir: c.hostDir(n) + ".copy", Stream: c.fabric.stream(hostID(n), "twin:1"), Advertise: "twin:1",
			Forwarder: forwarder{c.fabric, hostID(n)},
		}
		if _, err := Open(cfg); !errors.Is(err, ErrTwin) || !strings.Contains(err.Error(), fmt.Sprintf("host%d:1", n)) {
			t.Fatalf("the copy starts: %v", err)
		}
		if err := c.node(n).Err(); err != nil {
			t.Fatalf("the host itself ends: %v", err)
		}
		// And one that was started while nobody could be asked is found out by the leader.
		life := c.node(n).Life() + 1
		_, err := c.node(c.leader()).Apply(c.ctx(), placement.Command{UpdateHost: &placement.UpdateHost{ID: hostID(n), Addr: "twin:1", Life: life}})
		if !errors.Is(err, ErrTwin) {
			t.Fatalf("its introduction: %v", err)
		}
	})
}

// FuzzHello reads what anybody may say first on a connection.
func FuzzHello(f *testing.F) {
	var good bytes.Buffer
	h := hello{Version: helloVersion, Host: hostID(1), Life: 7, Before: 6, Term: 2, Index: 9, Recoveries: []placement.Recovery{{ID: fmt.Sprintf("%032x", 1), Index: 4}}}
	if err := writeHello(&good, h); err != nil {
		f.Fatal(err)
	}
	f.Add(good.Bytes())
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, '{'})
	f.Add([]byte{2, 0, 0, 0, '{', '}'})
	f.Fuzz(func(t *testing.T, p []byte) {
		h, err := readHello(bytes.NewReader(p))
		if err != nil {
			return
		}
		if !h.Host.Valid() || len(h.Recoveries) > placement.MaxRecoveries {
			t.Fatalf("read %+v", h)
		}
		if r := compareLineages(h, h); r != nil {
			t.Fatalf("a host is apart from itself: %s", r.Text)
		}
	})
}

func TestCompareLineages(t *testing.T) {
	r := func(n int) placement.Recovery {
		return placement.Recovery{ID: fmt.Sprintf("%032x", n), Term: 3, Index: uint64(100 * n), By: hostID(n)}
	}
	at := func(term, index uint64, of ...placement.Recovery) hello {
		return hello{Version: helloVersion, Host: hostID(9), Term: term, Index: index, Recoveries: of}
	}
	for _, c := range []struct {
		name string
		a, b hello
		want TroubleKind
	}{
		{"no recovery", at(3, 5), at(4, 900), ""},
		{"the same one", at(3, 100, r(1)), at(4, 900, r(1)), ""},
		{"one is behind the other's recovery", at(3, 100), at(4, 101, r(1)), ""},
		{"one is beyond it by an entry", at(3, 101), at(4, 101, r(1)), TroubleAhead},
		{"one is beyond it by a term", at(4, 90), at(4, 101, r(1)), TroubleAhead},
		{"two recoveries behind", at(3, 100), at(9, 999, r(1), r(2)), ""},
		{"behind the second recovery only", at(3, 200, r(1)), at(9, 999, r(1), r(2)), ""},
		{"beyond the second recovery", at(3, 201, r(1)), at(9, 999, r(1), r(2)), TroubleAhead},
		{"apart", at(3, 100, r(1)), at(3, 200, r(2)), TroubleApart},
		{"apart after a common one", at(3, 300, r(1), r(3)), at(3, 200, r(1), r(2), r(4)), TroubleApart},
	} {
		for _, pair := range [][2]hello{{c.a, c.b}, {c.b, c.a}} {
			got := TroubleKind("")
			if r := compareLineages(pair[0], pair[1]); r != nil {
				got = r.Kind
			}
			if got != c.want {
				t.Errorf("%s: %q, want %q", c.name, got, c.want)
			}
		}
	}
}
