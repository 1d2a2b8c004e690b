package raft

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	hraft "github.com/hashicorp/raft"
)

// server is a server of the Raft configuration as the choice of voters sees it.
type server struct {
	id      hraft.ServerID
	voter   bool
	leader  bool
	healthy bool      // it was heard lately, hears the leader, and is caught up
	answers bool      // it is healthy, and answered just now: only those count when the majority is at stake
	stable  bool      // it has been healthy for long enough to be promoted
	since   time.Time // when healthy last changed
	member  bool      // the catalogue has it
	leaving bool      // it is drained: it may be switched off soon

	retiring bool // it is about to be removed: it is not chosen, but its vote counts as long as it has one
}

// change is one step from one set of voters to another.
type change struct {
	kind changeKind
	id   hraft.ServerID
}

type changeKind int

const (
	promote  changeKind = iota + 1 // make a non-voter a voter
	demote                         // make a voter a non-voter
	transfer                       // make a voter the leader
)

func (c change) String() string {
	return fmt.Sprintf("%s %s", [...]string{"?", "promote", "demote", "transfer leadership to"}[c.kind], c.id)
}

// nextChange returns the next step towards the voters that the cluster should have; ok is false if there is none to be
// taken now. members is the number of hosts, dead and drained ones included. Each step is safe for the servers as they
// are: after it, more than half of the voters are members that answer. The caller looks at the servers again before it
// asks for another step.
//
// The number of voters is odd: 1 for up to two members (two voters stand still when either fails), 3 for up to four,
// else 5. Dead voters are replaced by healthy hosts as far as there are any; otherwise they stay, as voters that come
// back do no harm. The same goes for those that are leaving: while nobody takes its place, a vote is better than none.
// Of 5 voters 3 remain when that is all that is healthy: then one more may fail. Three never shrink because hosts are
// down, and become one only where fewer than two are there to stay.
func nextChange(servers []server, members int) (_ change, ok bool) {
	ranked := rank(servers)
	chosen := ranked[:min(wantVoters(ranked, members), len(ranked))]
	healthy := 0
	for _, c := range chosen {
		if c.healthy {
			healthy++
		}
	}
	if !quorate(servers) || healthy <= len(chosen)/2 {
		return change{}, false // whatever this is, changing voters would make it worse
	}
	// A healthy voter more never costs the majority, so those come first.
	for _, c := range chosen {
		if !c.voter {
			return change{promote, c.id}, true
		}
	}
	return nextDemotion(servers, chosen)
}

// nextDemotion returns the safe step that takes a vote away from those who are not chosen.
func nextDemotion(servers, chosen []server) (_ change, ok bool) {
	surplus := slices.DeleteFunc(slices.Clone(servers), func(s server) bool {
		return !s.voter || slices.ContainsFunc(chosen, func(c server) bool { return c.id == s.id })
	})
	if len(surplus) == 0 {
		return change{}, false
	}
	// A dead voter less never costs the majority, so those go first. Where only healthy ones are surplus and none can be
	// spared, the majority is kept by dead voters that were chosen: one of them goes, and may come back with its host.
	slices.SortFunc(surplus, byHealth)
	for _, s := range append(surplus, deadOf(chosen)...) {
		if s.leader {
			if to := successor(chosen); to != "" {
				return change{transfer, to}, true
			}
		} else if quorate(without(servers, s.id)) {
			return change{demote, s.id}, true
		}
	}
	return change{}, false
}

// byHealth puts the dead first, then those who are no members.
func byHealth(a, b server) int {
	return cmp.Or(compareBool(a.healthy, b.healthy), compareBool(a.member, b.member), cmp.Compare(a.id, b.id))
}

// compareBool puts false first.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func deadOf(servers []server) []server {
	return slices.DeleteFunc(slices.Clone(servers), func(s server) bool { return s.healthy || !s.voter })
}

// retirement returns the next step towards a cluster in which a server does not vote, so that its host can be removed;
// done says that it does not vote already. Neither done nor ok: there is no safe way as things are.
func retirement(servers []server, members int, id hraft.ServerID) (_ change, done, ok bool) {
	rest := slices.Clone(servers)
	done = true
	for i := range rest {
		if s := &rest[i]; s.id == id {
			s.retiring, done = true, !s.voter
			if s.member {
				members--
			}
		}
	}
	if done {
		return change{}, true, false
	}
	c, ok := nextChange(rest, members)
	return c, false, ok
}

// quorate reports whether more than half of the voters are members that answer.
func quorate(servers []server) bool { return tolerance(servers) >= 0 }

// tolerance is how many of the voters that answer may fail before there is no majority; negative if there is none now.
func tolerance(servers []server) int {
	voters, living := 0, 0
	for _, s := range servers {
		if s.voter {
			voters++
			if s.answers && s.member {
				living++
			}
		}
	}
	return living - voters/2 - 1
}

// without returns the servers with the vote of one of them taken away.
func without(servers []server, id hraft.ServerID) []server {
	rest := slices.Clone(servers)
	for i := range rest {
		if rest[i].id == id {
			rest[i].voter = false
		}
	}
	return rest
}

// wantVoters says how many of the ranked should vote. Three need two that are there to stay, five need three: then all
// that are drained may be switched off at once.
func wantVoters(ranked []server, members int) int {
	voters, healthy, staying := 0, 0, 0
	for _, s := range ranked {
		if s.voter {
			voters++
		}
		if s.healthy {
			healthy++
			if !s.leaving {
				staying++
			}
		}
	}
	switch {
	case members >= MaxVoters && staying >= 3 && (healthy >= MaxVoters || healthy == MaxVoters-1 && voters >= MaxVoters):
		return MaxVoters
	case members >= 3 && len(ranked) >= 3 && staying >= 2:
		return 3
	}
	return 1
}

// rank returns those who may vote, the best first: the leader, healthy voters, healthy others by how long they have
// been so, voters that are leaving, voters that are down, and, to make up the number, others that are leaving. Others
// that are not healthy are left out.
func rank(servers []server) []server {
	var ranked []server
	for _, s := range servers {
		if s.member && !s.retiring && (s.voter || s.answers && s.stable) {
			ranked = append(ranked, s)
		}
	}
	class := func(c server) int {
		switch {
		case !c.voter && c.leaving:
			return 5
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
	slices.SortFunc(ranked, func(a, b server) int {
		return cmp.Or(cmp.Compare(class(a), class(b)), a.since.Compare(b.since), cmp.Compare(a.id, b.id))
	})
	return ranked
}

// successor is the voter that a leader who is not to vote any more hands over to.
func successor(chosen []server) hraft.ServerID {
	for _, c := range chosen {
		if c.voter && c.healthy {
			return c.id
		}
	}
	return ""
}
