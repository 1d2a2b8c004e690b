package raft

import (
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/placement"
)

// TestTimesAreTheLeaders: a host whose clock is wrong puts no wrong time into the catalogue.
func TestTimesAreTheLeaders(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.grow(3)
		follower := c.leader()%3 + 1
		cmd := placement.Command{SetHostState: &placement.SetHostState{ID: hostID(follower), To: placement.Leaving, Now: 1 << 40}}
		if _, err := c.node(follower).Apply(t.Context(), cmd); err != nil {
			t.Fatal(err)
		}
		c.node(follower).View(func(s *placement.State) {
			h, _ := s.Host(hostID(follower))
			if off := time.Since(time.Unix(h.At, 0)); off < -time.Minute || off > time.Minute {
				t.Errorf("it is leaving since %s, and now is %s", time.Unix(h.At, 0), time.Now())
			}
		})
	})
}

func TestClockOfALeader(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	for _, tt := range []struct {
		name         string
		latest, want int64
	}{
		{"nothing is known", 0, 1_000_000},
		{"time goes on", 999_000, 1_000_000},
		{"the one before was a little ahead", 1_000_060, 1_000_060},
		{"the one before was wrong", 1_000_000 + 550*86400, 1_000_000},
	} {
		if got := clock(now, tt.latest); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}
