package raft

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/placement"
)

// file is a Publish of a file from host n.
func file(name string, n int) placement.Command {
	return placement.Command{Publish: &placement.Publish{
		Name: name, ID: content.Sum([]byte(name)), Size: 100, DataBytes: 100, ChunkSize: content.DefaultChunkSize,
		Shards: 1, Replicas: 2, Publisher: hostID(n), At: 1,
	}}
}

func (n *Node) has(name string) (ok bool) {
	n.View(func(s *placement.State) { _, ok = s.File(name) })
	return ok
}

func TestOneHostIsACluster(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.found()
		c.apply(1, file("a", 1))
		if err := c.node(1).ReadIndex(c.ctx()); err != nil {
			t.Fatal(err)
		}
		if !c.node(1).has("a") {
			t.Fatal("the file is not there")
		}
		s := c.node(1).Status()
		if s.Role != Leader || s.Leader != hostID(1) || len(s.Voters) != 1 || s.Quorum != 1 || s.LastContact != 0 {
			t.Fatalf("status %+v", s)
		}
		c.stop(1)
		c.start(1)
		if !c.node(1).has("a") {
			t.Fatal("the file is not there right after a restart, before there is a leader")
		}
		c.apply(1, file("b", 1))
	})
}

func TestClusterGrows(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.found()
		for n := 2; n <= 7; n++ {
			c.join(n-1, n)
			want := []int{0, 1, 1, 3, 3, 5, 5, 5}[n]
			c.eventually(fmt.Sprintf("%d voters of %d", want, n), func() bool {
				s := c.node(n).Status()
				if len(s.Voters) == 2 || len(s.Voters) > MaxVoters {
					// On the way from one to three there is a moment with two; it must not last.
					c.eventually("no longer two voters", func() bool { return len(c.node(n).Status().Voters) != 2 })
				}
				return len(s.Voters) == want && len(s.Voters)+len(s.Nonvoters) == n
			})
			c.apply(n, file(fmt.Sprint("from", n), n)) // by a follower
		}
		for _, n := range c.up() {
			if err := c.node(n).ReadIndex(c.ctx()); err != nil {
				t.Fatal(err)
			}
			for m := 2; m <= 7; m++ {
				if !c.node(n).has(fmt.Sprint("from", m)) {
					t.Errorf("host %d does not have what host %d published", n, m)
				}
			}
		}
	})
}

// TestReadsAreLinearizable writes at one host and reads at another, over and over, while leaders die.
func TestReadsAreLinearizable(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.grow(5)
		for i := range 30 {
			if i%10 == 5 {
				dead := c.leader()
				c.kill(dead)
				defer func() {}()
				c.apply(c.up()[0], file(fmt.Sprint("during", i), c.up()[0]))
				c.start(dead)
			}
			up := c.up()
			writer, reader := up[i%len(up)], up[(i*3+1)%len(up)]
			name := fmt.Sprint("file", i)
			c.apply(writer, file(name, writer))
			if err := c.node(reader).ReadIndex(c.ctx()); err != nil {
				t.Fatal(err)
			}
			if !c.node(reader).has(name) {
				t.Fatalf("read %d at host %d does not see what host %d wrote before", i, reader, writer)
			}
		}
	})
}

func TestApplyIsSeenWhereItWasMade(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.grow(4)
		for i := range 20 {
			n := i%4 + 1
			c.apply(n, file(fmt.Sprint(i), n))
			if !c.node(n).has(fmt.Sprint(i)) {
				t.Fatalf("host %d does not see its own write", n)
			}
		}
	})
}

func TestErrorsSurviveForwarding(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.grow(3)
		follower := c.leader()%3 + 1
		_, err := c.node(follower).Apply(c.ctx(), placement.Command{RemoveFile: &placement.RemoveFile{Name: "never/was"}})
		if !errors.Is(err, placement.ErrNoFile) || !strings.Contains(err.Error(), "never/was") {
			t.Fatalf("remove at a follower: %v, want ErrNoFile with the name", err)
		}
		_, err = c.node(follower).Apply(c.ctx(), placement.Command{Publish: &placement.Publish{Name: "../x"}})
		if !errors.Is(err, placement.ErrInvalidName) {
			t.Fatalf("publish of a bad name: %v", err)
		}
		if _, err := c.node(follower).HandleForward(c.ctx(), "raft.nonsense", nil); err == nil {
			t.Fatal("an unknown operation was answered")
		}
		if _, err := c.node(c.leader()).HandleForward(c.ctx(), opApply, []byte(`{"x":1}`)); err != nil {
			t.Fatalf("a bad command must be answered as one: %v", err)
		}
	})
}

func TestNewLeaderWithinFiveSeconds(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.grow(5)
		for range 5 {
			dead := c.leader()
			c.kill(dead)
			begin := time.Now()
			c.leader()
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("a new leader after %s", took)
			}
			c.apply(c.up()[0], file(fmt.Sprint("after", dead), c.up()[0]))
			c.start(dead)
			c.eventually("the dead one is back", func() bool { return c.node(dead).has(fmt.Sprint("after", dead)) })
		}
	})
}

func TestNothingAcknowledgedIsLostWhenAllAreKilled(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.grow(3)
		var acked []string
		for round := range 4 {
			for i := range 5 {
				name := fmt.Sprint(round, "-", i)
				n := i%3 + 1
				c.apply(n, file(name, n))
				acked = append(acked, name)
			}
			for n := 1; n <= 3; n++ {
				if round%2 == 0 {
					c.kill(n)
				} else {
					c.stop(n)
				}
			}
			for n := 1; n <= 3; n++ {
				c.start(n)
			}
			for n := 1; n <= 3; n++ {
				if err := c.node(n).ReadIndex(c.ctx()); err != nil {
					t.Fatal(err)
				}
				for _, name := range acked {
					if !c.node(n).has(name) {
						t.Fatalf("round %d: host %d lost %s", round, n, name)
					}
				}
			}
		}
	})
}

func TestAMinorityCannotWriteOrRead(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.grow(7) // two of them have no vote
		old := c.leader()
		// The old leader keeps one voter and both non-voters: three answers, no majority.
		minority := []placement.HostID{hostID(old)}
		s := c.node(old).Status()
		for _, v := range s.Voters {
			if v != hostID(old) && len(minority) < 2 {
				minority = append(minority, v)
			}
		}
		minority = append(minority, s.Nonvoters...)
		c.fabric.split(1, minority...)
		short, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		defer cancel()
		if err := c.node(old).ReadIndex(short); !errors.Is(err, ErrNoLeader) {
			t.Errorf("read at a leader without majority: %v, want ErrNoLeader", err)
		}
		var other int
		for _, n := range c.up() {
			if !slices.Contains(minority, hostID(n)) {
				other = n
			}
		}
		c.apply(other, file("of the majority", other))
		ctx, cancel2 := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel2()
		if _, err := c.node(old).Apply(ctx, file("of the minority", old)); !errors.Is(err, ErrNoLeader) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("write at a leader without majority: %v, want ErrNoLeader", err)
		}
		c.fabric.split(0, minority...)
		if err := c.node(old).ReadIndex(c.ctx()); err != nil {
			t.Fatal(err)
		}
		if !c.node(old).has("of the majority") {
			t.Error("the old leader does not have what the majority wrote")
		}
	})
}

// TestAmbiguousAnswersAreSafe loses every third answer after the command was carried out.
func TestAmbiguousAnswersAreSafe(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.grow(3)
		lost := 0
		c.fabric.mu.Lock()
		c.fabric.after = func(op string, _ []byte) error {
			c.fabric.mu.Lock()
			defer c.fabric.mu.Unlock()
			if lost++; op == opApply && lost%3 != 0 {
				return errCut
			}
			return nil
		}
		c.fabric.mu.Unlock()
		n := c.leader()%3 + 1
		for i := range 6 {
			name := fmt.Sprint("f", i)
			c.apply(n, file(name, n))
			var versions int
			c.node(n).View(func(s *placement.State) {
				f, _ := s.File(name)
				versions = len(f.Versions)
			})
			if versions != 1 {
				t.Fatalf("%s has %d versions after a repeated publish", name, versions)
			}
			c.apply(n, placement.Command{RemoveFile: &placement.RemoveFile{Name: name}})
		}
	})
}

func TestDeadHostsAreMarkedAndComeBack(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.grow(4)
		state := func(n int) (state placement.HostState) {
			c.node(c.leader()).View(func(s *placement.State) { h, _ := s.Host(hostID(n)); state = h.State })
			return state
		}
		dead := c.leader()%4 + 1
		c.kill(dead)
		took := c.eventually("dead host is down", func() bool { return state(dead) == placement.Down })
		if took < DefaultHostTimeout/2 {
			t.Errorf("marked down after %s, before the timeout", took)
		}
		c.start(dead)
		c.eventually("host is alive again", func() bool { return state(dead) == placement.Alive })
		// An operator's word stands.
		c.apply(dead, placement.Command{SetHostState: &placement.SetHostState{ID: hostID(dead), To: placement.Leaving, Now: 1}})
		time.Sleep(2 * DefaultHostTimeout)
		if got := state(dead); got != placement.Leaving {
			t.Errorf("a leaving host became %s", got)
		}
	})
}

func TestDeadVoterIsReplaced(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.grow(6)
		s := c.node(c.leader()).Status()
		spare := s.Nonvoters[0]
		dead := s.Voters[0]
		if dead == s.Leader {
			dead = s.Voters[1]
		}
		for n := range 7 {
			if hostID(n) == dead {
				c.kill(n)
			}
		}
		c.eventually("the spare votes in its place", func() bool {
			v := c.node(c.leader()).Status().Voters
			return len(v) == 5 && slices.Contains(v, spare) && !slices.Contains(v, dead)
		})
	})
}

func TestHostsLeave(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.grow(3)
		for left := 3; left > 1; left-- {
			gone := c.leader() // the leader, of all hosts
			by := c.up()[0]
			if by == gone {
				by = c.up()[1]
			}
			c.apply(by, placement.Command{RemoveHost: &placement.RemoveHost{ID: hostID(gone)}})
			c.eventually("the host learns that it was removed", func() bool {
				select {
				case <-c.node(gone).Failed():
					return true
				default:
					return false
				}
			})
			if err := c.node(gone).Err(); !errors.Is(err, ErrRemoved) {
				t.Fatalf("the removed host failed with %v", err)
			}
			if _, err := c.node(gone).Apply(c.ctx(), file("x", gone)); !errors.Is(err, ErrRemoved) {
				t.Fatalf("apply at the removed host: %v", err)
			}
			c.stop(gone)
			c.eventually("it is out of the Raft configuration", func() bool {
				s := c.node(c.leader()).Status()
				return len(s.Voters)+len(s.Nonvoters) == left-1 && len(s.Voters) == 1
			})
			c.apply(c.up()[0], file(fmt.Sprint("with", left-1), c.up()[0]))
			if c.node(c.up()[0]).Known(string(hostID(gone))) {
				t.Error("the removed host is still known")
			}
		}
		last := c.up()[0]
		_, err := c.node(last).Apply(c.ctx(), placement.Command{RemoveHost: &placement.RemoveHost{ID: hostID(last)}})
		if !errors.Is(err, placement.ErrLastHost) {
			t.Fatalf("the last host left: %v", err)
		}
	})
}

func TestHostRemovedWhileDownLearnsIt(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.grow(4)
		gone := c.leader()%4 + 1
		c.kill(gone)
		by := c.leader()
		c.apply(by, placement.Command{RemoveHost: &placement.RemoveHost{ID: hostID(gone)}})
		c.eventually("it is out of the Raft configuration", func() bool {
			s := c.node(c.leader()).Status()
			return len(s.Voters)+len(s.Nonvoters) == 3
		})
		for _, n := range c.up() {
			if c.node(n).Known(string(hostID(gone))) {
				t.Errorf("host %d still knows the removed host", n)
			}
		}
		c.fabric.mu.Lock()
		c.fabric.wrong[hostID(gone)] = errRefused // as TLS would, asking Known
		c.fabric.mu.Unlock()
		node := c.start(gone)
		c.eventually("the host learns that it was removed", func() bool { return node.Err() != nil })
		if !errors.Is(node.Err(), ErrRemoved) {
			t.Fatalf("it failed with %v", node.Err())
		}
	})
}

func TestRemovedHostMayJoinAgain(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.grow(4)
		gone := c.leader()%4 + 1
		by := c.leader()
		c.apply(by, placement.Command{RemoveHost: &placement.RemoveHost{ID: hostID(gone)}})
		c.eventually("it is out", func() bool { return c.node(gone).Err() != nil })
		c.stop(gone)
		delete(c.hosts, hostID(gone))
		c.dir = t.TempDir() // with nothing on its disk
		c.join(by, gone)
		c.apply(gone, file("back again", gone))
		time.Sleep(3 * removedAfter)
		if err := c.node(gone).Err(); err != nil {
			t.Fatalf("it replayed its removal and believed it: %v", err)
		}
	})
}

func TestHostThatMovedIsFound(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.grow(3)
		n := c.leader()%3 + 1
		c.stop(n)
		c.hosts[hostID(n)].addr = "elsewhere:9"
		c.start(n)
		c.apply(n, placement.Command{UpdateHost: &placement.UpdateHost{ID: hostID(n), Addr: "elsewhere:9"}})
		c.apply(c.leader(), file("to be seen there", c.leader()))
		c.eventually("the host that moved follows", func() bool { return c.node(n).has("to be seen there") })
		c.eventually("its Raft address follows", func() bool {
			for _, s := range c.node(c.leader()).configuration().Servers {
				if s.Address == serverAddress(hostID(n), "elsewhere:9") {
					return true
				}
			}
			return false
		})
	})
}

func TestSnapshotsReplaceTheLog(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		small := func(cfg *Config) {
			cfg.SnapshotThreshold, cfg.SnapshotInterval, cfg.TrailingLogs = 50, time.Second, 10
		}
		c.grow(3, small)
		for i := range 200 {
			n := i%3 + 1
			c.apply(n, file(fmt.Sprint("f", i), n))
		}
		c.eventually("snapshots everywhere", func() bool {
			for n := 1; n <= 3; n++ {
				first, _ := c.node(n).log.FirstIndex()
				if c.node(n).Status().LastSnapshot < 100 || first < 50 {
					return false
				}
			}
			return true
		})
		// A new host gets the snapshot, a restarted one reads it.
		c.join(1, 4, small)
		c.eventually("the new host has everything", func() bool { return c.node(4).has("f0") && c.node(4).has("f199") })
		for n := 1; n <= 4; n++ {
			c.kill(n)
		}
		for n := 1; n <= 4; n++ {
			c.start(n, small)
			if !c.node(n).has("f0") {
				t.Fatalf("host %d has nothing right after a restart", n)
			}
		}
		c.apply(4, file("after", 4))
		var snaps [2]string
		for i := range snaps {
			n := i + 1
			if err := c.node(n).ReadIndex(c.ctx()); err != nil {
				t.Fatal(err)
			}
			c.node(n).View(func(s *placement.State) {
				var b strings.Builder
				if _, err := s.Freeze().WriteTo(&b); err != nil {
					t.Error(err)
				}
				snaps[i] = b.String()
			})
		}
		if snaps[0] != snaps[1] {
			t.Error("two hosts hold different catalogues")
		}
	})
}

func TestLeadershipIsHandedOver(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.grow(3)
		old := c.leader()
		begin := time.Now()
		if err := c.node(old).TransferLeadership(c.ctx()); err != nil {
			t.Fatal(err)
		}
		c.leader(old)
		if took := time.Since(begin); took >= DefaultTiming.Heartbeat {
			t.Errorf("another leader after %s, no faster than an election", took)
		}
	})
}

func TestKnown(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.grow(3)
		stranger := string(hostID(99))
		for n := 1; n <= 3; n++ {
			c.eventually("the host is current", func() bool { return !c.node(n).Known(stranger) })
			for m := 1; m <= 3; m++ {
				if !c.node(n).Known(string(hostID(m))) {
					t.Errorf("host %d does not know host %d", n, m)
				}
			}
		}
		// A host that waits to be added knows nobody, and so must trust everybody.
		c.admit(1, 4)
		c.fabric.split(1, hostID(4))
		node := c.start(4)
		if !node.Known(string(hostID(2))) || !node.Known(stranger) {
			t.Error("a fresh host refuses the others")
		}
		c.fabric.split(0, hostID(4))
		c.eventually("it becomes current", func() bool { return !node.Known(stranger) && node.Known(string(hostID(2))) })
	})
}
