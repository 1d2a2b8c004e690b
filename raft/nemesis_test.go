package raft

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/placement"
)

// TestNemesis lets five hosts write while hosts are killed, lose their power, are stopped and cut off. What was
// acknowledged must be there in the end, at every host, and all must hold the same.
func TestNemesis(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			bubble(t, func(t *testing.T, c *cluster) {
				small := func(cfg *Config) {
					cfg.SnapshotThreshold, cfg.SnapshotInterval, cfg.TrailingLogs = 30, time.Second, 10
				}
				c.grow(5, small)
				var acked ackList
				rng := rand.New(rand.NewPCG(seed, 1))
				for round := range 8 {
					acked.write(c, round)
					c.torment(rng, small)
				}
				c.fabric.split(0, hostID(1), hostID(2), hostID(3), hostID(4), hostID(5))
				for n := 1; n <= 5; n++ {
					if c.node(n) == nil {
						c.start(n, small)
					}
				}
				acked.check(c)
			})
		})
	}
}

type ackList struct {
	mu    sync.Mutex
	names []string
}

// write publishes from every host that is up, at the same time, as far as that goes.
func (a *ackList) write(c *cluster, round int) {
	var wg sync.WaitGroup
	for _, n := range c.up() {
		node := c.node(n)
		wg.Go(func() {
			for i := range 3 {
				name := fmt.Sprintf("%d/%d/%d", round, n, i)
				ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
				_, err := node.Apply(ctx, file(name, n))
				cancel()
				if err == nil {
					a.mu.Lock()
					a.names = append(a.names, name)
					a.mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
}

// torment does something to a host, or undoes it.
func (c *cluster) torment(rng *rand.Rand, tweak func(*Config)) {
	n := rng.IntN(5) + 1
	switch m := c.hosts[hostID(n)]; {
	case m.node == nil:
		c.start(n, tweak)
	case rng.IntN(4) == 0:
		c.stop(n)
	case rng.IntN(3) == 0:
		c.powerOff(n)
	case rng.IntN(2) == 0:
		c.kill(n)
	default:
		c.fabric.split(rng.IntN(2), m.id)
	}
	time.Sleep(time.Duration(rng.IntN(4000)) * time.Millisecond) // in a bubble
}

// check waits until all hosts agree, and looks for what was acknowledged.
func (a *ackList) check(c *cluster) {
	c.t.Helper()
	if len(a.names) == 0 {
		c.t.Fatal("nothing was ever acknowledged")
	}
	var first []byte
	for n := 1; n <= 5; n++ {
		c.eventually(fmt.Sprint("host ", n, " can read"), func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			return c.node(n).ReadIndex(ctx) == nil
		})
		for _, name := range a.names {
			if !c.node(n).has(name) {
				c.t.Errorf("host %d lost %s, which was acknowledged", n, name)
			}
		}
	}
	var applied uint64
	c.eventually("all hosts are at the same index", func() bool {
		var at []uint64
		for n := 1; n <= 5; n++ {
			at = append(at, c.node(n).AppliedIndex())
		}
		applied = at[0]
		return slices.Min(at) == slices.Max(at)
	})
	for n := 1; n <= 5; n++ {
		c.node(n).View(func(s *placement.State) {
			var b bytes.Buffer
			if _, err := s.Freeze().WriteTo(&b); err != nil {
				c.t.Error(err)
			}
			if first == nil && s.Applied() == applied {
				first = b.Bytes()
			}
			if s.Applied() == applied && !bytes.Equal(first, b.Bytes()) {
				c.t.Errorf("host %d holds another catalogue than host 1", n)
			}
		})
	}
}
