package raft

import (
	"cmp"
	"slices"
	"time"

	hraft "github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"
)

// candidate is a server of the Raft configuration as the choice of voters sees it.
type candidate struct {
	id       hraft.ServerID
	voter    bool
	leader   bool
	healthy  bool      // in contact and caught up
	stable   bool      // healthy for long enough to be promoted
	since    time.Time // when healthy last changed
	eligible bool      // a member
	leaving  bool      // drained: it may be switched off soon
}

// planVoters decides who shall vote. members is the number of hosts, dead and drained ones included.
//
// The number of voters is odd: 1 for up to two members (two voters stand still when either fails), 3 for up to four,
// else 5. Dead voters are replaced by healthy hosts as far as there are any; otherwise they stay, as voters that come
// back do no harm. The same goes for those that are leaving: while nobody takes its place, a vote is better than none.
// Of 5 voters 3 remain when that is all that is healthy: then one more may fail. Three never shrink because hosts are
// down or drained.
func planVoters(servers []candidate, members int) autopilot.RaftChanges {
	want := wantVoters(servers, members)
	ranked := rank(servers)
	chosen := ranked[:min(want, len(ranked))]

	var plan autopilot.RaftChanges
	healthy := 0
	isChosen := map[hraft.ServerID]bool{}
	for _, c := range chosen {
		isChosen[c.id] = true
		if c.healthy {
			healthy++
		}
		if !c.voter {
			plan.Promotions = append(plan.Promotions, c.id)
		}
	}
	if healthy <= len(chosen)/2 {
		return autopilot.RaftChanges{} // whatever this is, changing voters would make it worse
	}
	// The dead go first: the quorum must never be more than those who are up.
	rest := slices.Clone(servers)
	slices.SortFunc(rest, func(a, b candidate) int {
		return cmp.Or(boolCompare(a.healthy, b.healthy), cmp.Compare(a.id, b.id))
	})
	for _, s := range rest {
		switch {
		case s.leader && !isChosen[s.id]:
			plan.Leader = successor(chosen)
		case s.voter && !isChosen[s.id]:
			plan.Demotions = append(plan.Demotions, s.id)
		}
	}
	return plan
}

// boolCompare puts false first.
func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func wantVoters(servers []candidate, members int) int {
	voters, fit := 0, 0
	for _, s := range servers {
		if s.eligible && s.voter {
			voters++
		}
		if s.eligible && s.healthy && (s.voter || s.stable && !s.leaving) {
			fit++
		}
	}
	switch {
	case members >= MaxVoters && (fit >= MaxVoters || fit == MaxVoters-1 && voters >= MaxVoters):
		return MaxVoters
	case members >= 3 && (fit >= 3 || voters >= 3):
		return 3
	}
	return 1
}

// rank returns those who may vote, the best first: the leader, healthy voters, healthy others by how long they have
// been so, voters that are leaving, and voters that are down. Others that are leaving or not healthy are left out.
func rank(servers []candidate) []candidate {
	var ranked []candidate
	for _, s := range servers {
		if s.eligible && (s.voter || s.healthy && s.stable && !s.leaving) {
			ranked = append(ranked, s)
		}
	}
	class := func(c candidate) int {
		switch {
		case !c.healthy:
			return 4
		case c.leaving:
			return 3
		case c.leader:
			return 0
		case c.voter:
			return 1
		}
		return 2
	}
	slices.SortFunc(ranked, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(class(a), class(b)), a.since.Compare(b.since), cmp.Compare(a.id, b.id))
	})
	return ranked
}

// successor is the voter that a leader who is not to vote any more hands over to.
func successor(chosen []candidate) hraft.ServerID {
	for _, c := range chosen {
		if c.voter && c.healthy {
			return c.id
		}
	}
	return ""
}
