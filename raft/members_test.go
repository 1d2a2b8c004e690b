package raft

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/placement"
)

func TestDeadHostsAreMarkedAndComeBack(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		const grace = 30 * time.Second
		short := func(cfg *Config) { cfg.Grace = grace }
		c.grow(4, short)
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
		c.start(dead, short)
		c.eventually("host is alive again", func() bool { return state(dead) == placement.Alive })

		c.kill(dead)
		c.eventually("dead host is down again", func() bool { return state(dead) == placement.Down })
		time.Sleep(grace / 2)
		first := c.leader()
		if err := c.node(first).TransferLeadership(c.ctx()); err != nil { // the grace goes on under another leader
			t.Fatal(err)
		}
		c.eventually("another leads", func() bool { return c.leader() != first })
		took = c.eventually("dead host is lost", func() bool { return state(dead) == placement.Lost })
		if took < grace/4 || took > grace {
			t.Errorf("lost after %s more, half the grace before", took)
		}
		c.start(dead)
		c.eventually("lost host is alive again", func() bool { return state(dead) == placement.Alive })

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
		// A leader that comes later finds it, too.
		other := 6 - n - c.leader(n) // of 1, 2 and 3
		c.stop(c.leader(n))
		c.apply(other, file("by two", n))
		c.eventually("the host that moved follows, or leads", func() bool { return c.node(n).has("by two") })
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
