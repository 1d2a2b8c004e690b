package raft

import (
	"errors"
	"testing"

	"github.com/virtswarm/virtswarm/placement"
)

// version is the cluster version that a host knows.
func (n *Node) version() (v int) {
	n.View(func(s *placement.State) { v = s.Version() })
	return v
}

// TestVersionRises: the leader raises the cluster version once all members have told that they can it, and not before.
func TestVersionRises(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.found()
		c.join(1, 2)
		c.join(1, 3)
		tell := func(n, version int) {
			c.apply(n, placement.Command{UpdateHost: &placement.UpdateHost{ID: hostID(n), Version: version, Program: "v0.2.0"}})
		}
		tell(1, placement.Newest)
		tell(2, placement.Newest)
		c.apply(1, file("a", 1))
		if got := c.node(1).version(); got != 1 {
			t.Fatalf("the version is %d although one host tells none", got)
		}
		tell(3, placement.Newest)
		c.eventually("the version rises everywhere", func() bool {
			return c.node(1).version() == placement.Newest && c.node(2).version() == placement.Newest && c.node(3).version() == placement.Newest
		})
		back := placement.Command{UpdateHost: &placement.UpdateHost{ID: hostID(3), Version: 1, Program: "v0.1.0"}}
		if _, err := c.node(3).Apply(c.ctx(), back); !errors.Is(err, placement.ErrTooOld) {
			t.Errorf("a host goes back: %v", err)
		}
	})
}
