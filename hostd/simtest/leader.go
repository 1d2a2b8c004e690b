package simtest

import (
	"slices"
	"time"

	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/raft"
)

const (
	// leaderLook is how often the voters are looked at.
	leaderLook = 250 * time.Millisecond
	// settledAfter is how long a leader must have the same voters until they count as settled.
	settledAfter = 2 * time.Second
	// leaderPatience is how long a living majority may be without a leader: an election takes seconds, and whoever was
	// killed in the middle of a change of the voters is started again before.
	leaderPatience = time.Minute
)

// watchLeader looks, until it is over, whether the cluster has a leader whenever a majority of the voters that it last
// settled on has been running for a while in a network that is whole. It has none if a change of the voters has given
// the majority away.
func (w *world) watchLeader(over <-chan struct{}) {
	var settled, seen []placement.HostID // voters: the last settled ones, and those that the leader has now
	now := time.Now()
	since, headless := now, now // seen has been the same; no leader, and a living majority of settled
	look := time.NewTicker(leaderLook)
	defer look.Stop()
	for {
		select {
		case <-over:
			return
		case <-look.C:
		}
		running, voters := w.voting()
		now = time.Now()
		if voters != nil {
			if !slices.Equal(voters, seen) {
				seen, since = voters, now
			}
			if now.Sub(since) >= settledAfter {
				settled = seen
			}
		}
		living := 0
		for _, v := range settled {
			if running[v] {
				living++
			}
		}
		if voters != nil || living <= len(settled)/2 || !w.nets.whole() {
			headless = now
		}
		if now.Sub(headless) > leaderPatience {
			w.violation("no leader for %s, though %d of the %d voters that the cluster settled on run", leaderPatience, living, len(settled))
			w.tellRaft()
			return
		}
	}
}

// voting returns the hosts that run, and the voters as the leader has them, nil if nobody leads.
func (w *world) voting() (running map[placement.HostID]bool, voters []placement.HostID) {
	running = map[placement.HostID]bool{}
	for _, m := range w.machines {
		m.mu.Lock()
		host := m.host
		m.mu.Unlock()
		if host == nil {
			continue
		}
		running[host.ID()] = true
		if s := host.Raft(); s.Role == raft.Leader {
			voters = slices.Sorted(slices.Values(s.Voters))
		}
	}
	return running, voters
}
