package raft

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/virtswarm/virtswarm/internal/disk/disktest"
)

// TestBrokenLogFailsTheNode has a sync of the log fail, at the leader and at another host: nobody knows then what is on
// that disk, so the node must end rather than stay a member that stores nothing; started again it goes on.
func TestBrokenLogFailsTheNode(t *testing.T) {
	for _, leads := range []bool{true, false} {
		t.Run(fmt.Sprint("leader=", leads), func(t *testing.T) {
			bubble(t, func(t *testing.T, c *cluster) {
				c.grow(3)
				n := c.leader()
				other := n%3 + 1
				if !leads {
					n, other = other, n
				}
				c.hosts[hostID(n)].fault.OnOp(func(op disktest.Op) error {
					if op.Name == "sync" && strings.HasSuffix(op.Path, ".log") {
						return syscall.EIO
					}
					return nil
				})
				c.apply(other, file("f", other))
				node := c.node(n)
				c.eventually("the node fails", func() bool { return node.Err() != nil })
				if err := node.Err(); !errors.Is(err, ErrBroken) || !errors.Is(err, syscall.EIO) {
					t.Errorf("it failed with %v", err)
				}
				c.kill(n)
				c.start(n)
				c.eventually("it goes on", func() bool { return c.node(n).ReadIndex(c.ctx()) == nil && c.node(n).has("f") })
			})
		})
	}
}
