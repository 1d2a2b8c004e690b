package raft

import (
	"bytes"
	"errors"
	"io"
	"testing"

	hraft "github.com/hashicorp/raft"

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

// TestOlderHostStops: a host with the limit of an older program does not go on behind what that could not read, be it an
// entry or a snapshot.
func TestOlderHostStops(t *testing.T) {
	apply := func(m *machine, index uint64, c placement.Command) error {
		data, err := placement.EncodeCommand(c)
		if err != nil {
			t.Fatal(err)
		}
		return m.Apply(&hraft.Log{Index: index, Type: hraft.LogCommand, Data: data}).(outcome).err
	}
	founded := placement.Command{InitCluster: &placement.InitCluster{ID: "test", Host: placement.Host{
		ID: hostID(1), Name: "a", Addr: "a:1", Weight: 100, Version: placement.Newest,
	}}}
	raised := placement.Command{RaiseVersion: &placement.RaiseVersion{To: placement.Newest}}

	older := newMachine()
	older.can = placement.Newest - 1
	if err := apply(older, 1, founded); err != nil {
		t.Fatal(err)
	}
	if err := apply(older, 2, raised); !errors.Is(err, ErrStuck) || !errors.Is(err, placement.ErrNewer) {
		t.Errorf("an entry: %v", err)
	}
	newer := newMachine()
	if err := errors.Join(apply(newer, 1, founded), apply(newer, 2, raised)); err != nil {
		t.Fatal(err)
	}
	var snapshot bytes.Buffer
	if _, err := newer.state.Freeze().WriteTo(&snapshot); err != nil {
		t.Fatal(err)
	}
	older = newMachine()
	older.can = placement.Newest - 1
	if err := older.Restore(io.NopCloser(&snapshot)); !errors.Is(err, placement.ErrNewer) {
		t.Errorf("a snapshot: %v", err)
	}
}
