package raft

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
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
		c.eventually("nothing is left to be applied, though the last entry was that of a read", func() bool {
			s := c.node(1).Status()
			return s.Applied == s.Commit && s.Commit > c.node(1).AppliedIndex()
		})
		c.stop(1)
		c.start(1)
		if !c.node(1).has("a") {
			t.Fatal("the file is not there right after a restart, before there is a leader")
		}
		c.apply(1, file("b", 1))
	})
}

// TestTheOnlyVoterLeadsAtOnce: when it makes the cluster and when it starts again; one of three does not.
func TestTheOnlyVoterLeadsAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		begin := time.Now() // the bubble's clock: it stands still while somebody works
		c.found()
		c.stop(1)
		c.start(1)
		c.apply(1, file("a", 1))
		if took := time.Since(begin); took >= DefaultTiming.Heartbeat {
			t.Errorf("two elections with one voter took %s", took)
		}
		c.join(1, 2)
		c.join(1, 3)
		c.eventually("three vote", func() bool { return len(c.node(1).Status().Voters) == 3 })
		c.stop(2)
		c.stop(3)
		c.stop(1)
		c.start(1)
		time.Sleep(3 * DefaultTiming.Heartbeat)
		if s := c.node(1).Status(); s.Role == Leader {
			t.Error("one of three voters elected itself")
		}
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

// TestRepeatedCommandsSpareWhatCameBetween loses the answer to a removal, and publishes the name anew before the
// removal is sent again; then the other way round, over a restart of the host that asks.
func TestRepeatedCommandsSpareWhatCameBetween(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.grow(3)
		leader := c.leader()
		n := leader%3 + 1
		between := func(what func()) {
			var once sync.Once
			c.fabric.mu.Lock()
			defer c.fabric.mu.Unlock()
			c.fabric.after = func(op string, _ []byte) (err error) {
				if op == opApply {
					once.Do(func() { what(); err = errCut })
				}
				return err
			}
		}
		remove := placement.Command{RemoveFile: &placement.RemoveFile{Name: "f"}}
		c.apply(n, file("f", n))
		between(func() { c.apply(leader, file("f", leader)) })
		c.apply(n, remove)
		if !c.node(n).has("f") {
			t.Fatal("a repeated removal took away what was published meanwhile")
		}
		c.apply(n, remove)
		c.stop(n)
		c.start(n)
		c.eventually("it is back", func() bool { return c.node(n).ReadIndex(t.Context()) == nil })
		between(func() { c.apply(leader, remove) })
		c.apply(n, file("f", n))
		if c.node(n).has("f") {
			t.Fatal("a repeated publication brought back what was removed meanwhile")
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
