package raft

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	hraft "github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"
	"pgregory.net/rapid"
)

// parseServers reads servers like "a:vL b:v- c:n c:nx": v voter, n not; L leader; - down; d drained; x no member any
// more; ~ healthy, not yet stable.
func parseServers(text string) (servers []candidate) {
	for i, f := range strings.Fields(text) {
		id, flags, _ := strings.Cut(f, ":")
		healthy := !strings.Contains(flags, "-")
		servers = append(servers, candidate{
			id: hraft.ServerID(id), voter: strings.Contains(flags, "v"), leader: strings.Contains(flags, "L"),
			healthy: healthy, stable: healthy && !strings.Contains(flags, "~"), eligible: !strings.Contains(flags, "x"),
			leaving: strings.Contains(flags, "d"), since: time.Unix(int64(i), 0),
		})
	}
	return servers
}

func TestPlanVoters(t *testing.T) {
	for _, c := range []struct {
		name, servers string
		members       int
		promote       string
		demote        string
		leader        hraft.ServerID
	}{
		{"one alone", "a:vL", 1, "", "", ""},
		{"a second gets no vote", "a:vL b:n", 2, "", "", ""},
		{"a third makes three voters", "a:vL b:n c:n", 3, "b c", "", ""},
		{"but not while one of them is not stable", "a:vL b:n c:n~", 3, "", "", ""},
		{"nor while one is down", "a:vL b:n c:n-", 3, "", "", ""},
		{"a fourth gets no vote", "a:vL b:v c:v d:n", 4, "", "", ""},
		{"a fifth makes five", "a:vL b:v c:v d:n e:n", 5, "d e", "", ""},
		{"seven hosts, five voters", "a:vL b:v c:v d:v e:v f:n g:n", 7, "", "", ""},
		{"a dead voter is replaced", "a:vL b:v c:v- d:n", 4, "d", "c", ""},
		{"a dead voter stays if nobody can replace it", "a:vL b:v c:v-", 3, "", "", ""},
		{"three voters never shrink for the dead", "a:vL b:v c:v- d:n-", 4, "", "", ""},
		{"five voters, one dead, stay", "a:vL b:v c:v d:v e:v-", 5, "", "", ""},
		{"five voters, two dead, become three", "a:vL b:v c:v d:v- e:v-", 5, "", "d e", ""},
		{"three do not become five with four healthy", "a:vL b:v c:v d:n e:n-", 5, "", "", ""},
		{"a removed voter is replaced", "a:vL b:v c:vx d:n", 3, "d", "c", ""},
		{"a removed leader hands over", "a:vLx b:v c:v", 2, "", "c", "b"},
		{"a drained voter is replaced", "a:vL b:v c:vd d:n", 4, "d", "c", ""},
		{"a drained voter stays if nobody can replace it", "a:vL b:v c:vd", 3, "", "", ""},
		{"a drained leader hands over if it is replaced", "a:vLd b:v c:v d:v", 4, "", "", "b"},
		{"a drained leader of three leads on", "a:vLd b:v c:v", 3, "", "", ""},
		{"a drained leader of two has the other promoted first", "a:vLd b:n", 2, "b", "", ""},
		{"a drained host is not promoted", "a:vL b:v c:v- d:nd", 4, "", "", ""},
		{"a drained voter goes after a dead one", "a:vL b:vd c:v- d:n", 4, "d", "c", ""},
		{"two remain of three: one votes", "a:vL b:v", 2, "", "b", ""},
		{"a removed leader of two has the other promoted first", "a:vLx b:n", 1, "b", "", ""},
		{"and hands over then", "a:vLx b:v", 1, "", "", "b"},
		{"no quorum of healthy: hands off", "a:vL b:v- c:v-", 3, "", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			plan := planVoters(parseServers(c.servers), c.members)
			if got := join(plan.Promotions); got != c.promote {
				t.Errorf("promotes %q, want %q", got, c.promote)
			}
			if got := join(plan.Demotions); got != c.demote {
				t.Errorf("demotes %q, want %q", got, c.demote)
			}
			if plan.Leader != c.leader {
				t.Errorf("hands over to %q, want %q", plan.Leader, c.leader)
			}
		})
	}
}

func join(ids []hraft.ServerID) string {
	var s []string
	for _, id := range ids {
		s = append(s, string(id))
	}
	slices.Sort(s)
	return strings.Join(s, " ")
}

// TestPlanVotersIsSafe draws clusters and follows the plan until it says nothing more.
func TestPlanVotersIsSafe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		servers, members := drawServers(t)
		for round := 0; ; round++ {
			plan := planVoters(servers, members)
			if len(plan.Promotions)+len(plan.Demotions) == 0 {
				break
			}
			if round == 3 {
				t.Fatalf("no rest after %d rounds: %+v wants %+v", round, servers, plan)
			}
			follow(t, servers, plan)
		}
		voters := 0
		for _, s := range servers {
			if s.voter {
				voters++
			}
		}
		if voters > MaxVoters && tolerance(servers) >= 0 {
			t.Fatalf("%d voters: %+v", voters, servers)
		}
	})
}

func drawServers(t *rapid.T) (servers []candidate, members int) {
	n := rapid.IntRange(1, 9).Draw(t, "servers")
	for i := range n {
		s := candidate{id: hraft.ServerID(fmt.Sprint(i)), eligible: true, since: time.Unix(int64(i), 0)}
		if i == 0 {
			s.leader, s.voter, s.healthy, s.stable = true, true, true, true
		} else {
			s.voter = i < 5 && rapid.Bool().Draw(t, "voter")
			s.healthy = rapid.IntRange(0, 3).Draw(t, "down") > 0
			s.stable = s.healthy && rapid.IntRange(0, 3).Draw(t, "young") > 0
			s.eligible = rapid.IntRange(0, 5).Draw(t, "removed") > 0
			s.leaving = rapid.IntRange(0, 5).Draw(t, "drained") == 0
		}
		if s.eligible {
			members++
		}
		servers = append(servers, s)
	}
	return servers, members
}

// tolerance is how many healthy voters may fail before there is no quorum; negative if there is none now.
func tolerance(servers []candidate) int {
	voters, healthy := 0, 0
	for _, s := range servers {
		if s.voter {
			voters++
			if s.healthy {
				healthy++
			}
		}
	}
	return healthy - voters/2 - 1
}

// follow carries out a plan: with a quorum before, there must be one after every step.
func follow(t *rapid.T, servers []candidate, plan autopilot.RaftChanges) {
	before := tolerance(servers)
	set := func(id hraft.ServerID, voter bool) {
		for i := range servers {
			if servers[i].id == id {
				servers[i].voter = voter
			}
		}
		if before >= 0 && tolerance(servers) < 0 {
			t.Fatalf("no quorum after setting the vote of %s to %v: %+v", id, voter, servers)
		}
	}
	if slices.Contains(plan.Demotions, plan.Leader) {
		t.Fatalf("the plan demotes the host it makes the leader: %+v", plan)
	}
	for _, id := range plan.Promotions {
		set(id, true)
	}
	for _, id := range plan.Demotions {
		if id == "0" {
			t.Fatal("the plan demotes the leader")
		}
		set(id, false)
	}
}
