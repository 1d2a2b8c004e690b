package raft

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	hraft "github.com/hashicorp/raft"
	"pgregory.net/rapid"
)

// parseServers reads servers like "a:vL b:v- c:n c:nx": v voter, n not; L leader; - down; ? healthy, but silent just
// now; d drained; x no member any more; ~ healthy, not yet stable.
func parseServers(text string) (servers []server) {
	for i, f := range strings.Fields(text) {
		id, flags, _ := strings.Cut(f, ":")
		healthy := !strings.Contains(flags, "-")
		servers = append(servers, server{
			id: hraft.ServerID(id), voter: strings.Contains(flags, "v"), leader: strings.Contains(flags, "L"),
			healthy: healthy, answers: healthy && !strings.Contains(flags, "?"), stable: healthy && !strings.Contains(flags, "~"),
			member: !strings.Contains(flags, "x"), leaving: strings.Contains(flags, "d"), since: time.Unix(int64(i), 0),
		})
	}
	return servers
}

// steps takes steps until there are none, and returns them like "+d -c >b".
func steps(t *testing.T, servers []server, next func([]server) (change, bool)) string {
	var taken []string
	for range maxChanges {
		c, ok := next(servers)
		if !ok {
			return strings.Join(taken, " ")
		}
		taken = append(taken, [...]string{"", "+", "-", ">"}[c.kind]+string(c.id))
		carryOut(servers, c)
	}
	t.Fatalf("no rest: %s", strings.Join(taken, " "))
	return ""
}

func carryOut(servers []server, c change) {
	for i := range servers {
		s := &servers[i]
		switch {
		case c.kind == transfer:
			s.leader = s.id == c.id
		case s.id == c.id:
			s.voter = c.kind == promote
		}
	}
}

func TestNextChange(t *testing.T) {
	for _, c := range []struct {
		name, servers string
		members       int
		steps         string
	}{
		{"one alone", "a:vL", 1, ""},
		{"a second gets no vote", "a:vL b:n", 2, ""},
		{"a third makes three voters", "a:vL b:n c:n", 3, "+b +c"},
		{"but not while one of them is not stable", "a:vL b:n c:n~", 3, ""},
		{"nor while one is down", "a:vL b:n c:n-", 3, ""},
		{"nor while one is silent", "a:vL b:n c:n?", 3, ""},
		{"half way to three, and the third is down: back to one", "a:vL b:v c:n-", 3, "-b"},
		{"a fourth gets no vote", "a:vL b:v c:v d:n", 4, ""},
		{"a fifth makes five", "a:vL b:v c:v d:n e:n", 5, "+d +e"},
		{"seven hosts, five voters", "a:vL b:v c:v d:v e:v f:n g:n", 7, ""},
		{"a dead voter is replaced", "a:vL b:v c:v- d:n", 4, "+d -c"},
		{"a silent voter is not replaced at once", "a:vL b:v c:v? d:n", 4, ""},
		{"a dead voter stays if nobody can replace it", "a:vL b:v c:v-", 3, ""},
		{"three voters never shrink for the dead", "a:vL b:v c:v- d:n-", 4, ""},
		{"five voters, one dead, stay", "a:vL b:v c:v d:v e:v-", 5, ""},
		{"five voters, two dead, become three", "a:vL b:v c:v d:v- e:v-", 5, "-d -e"},
		{"three do not become five with four healthy", "a:vL b:v c:v d:n e:n-", 5, ""},
		{"a removed voter is replaced", "a:vL b:v c:vx d:n", 3, "+d -c"},
		{"a removed leader hands over", "a:vLx b:v c:v", 2, ">b -a -c"},
		{"a drained voter is replaced", "a:vL b:v c:vd d:n", 4, "+d -c"},
		{"a drained voter stays if nobody can replace it", "a:vL b:v c:vd", 3, ""},
		{"a drained leader hands over if it is replaced", "a:vLd b:v c:v d:v", 4, ">b -a"},
		{"a drained leader of three leads on", "a:vLd b:v c:v", 3, ""},
		{"a drained leader of two has the other promoted first", "a:vLd b:n", 2, "+b >b -a"},
		{"a drained host is not promoted", "a:vL b:v c:v- d:nd", 4, ""},
		{"but where there would not be three", "a:vL b:n c:nd", 3, "+b +c"},
		{"all but one are drained", "a:vL b:vd c:vd", 3, "-b -c"},
		{"the leader and another of three are drained", "a:vLd b:v c:vd", 3, ">b -a -c"},
		{"three of five are drained", "a:vL b:v c:vd d:vd e:vd", 5, "-d -e"},
		{"a drained voter goes after a dead one", "a:vL b:vd c:v- d:n", 4, "+d -c"},
		{"two remain of three: one votes", "a:vL b:v", 2, "-b"},
		{"two remain, and one does not answer: both votes stay", "a:vL b:v?", 2, ""},
		{"two of three remain, one is dead: the dead vote goes", "a:vL b:v c:v-x", 2, "-c -b"},
		{"no majority answers: hands off", "a:vL b:v- c:v-", 3, ""},
		{"nor is one that is silent for a moment worth the other", "a:vL b:v? c:v-", 3, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := steps(t, parseServers(c.servers), func(s []server) (change, bool) { return nextChange(s, c.members) })
			if got != c.steps {
				t.Errorf("steps %q, want %q", got, c.steps)
			}
		})
	}
}

func TestRetirement(t *testing.T) {
	for _, c := range []struct {
		name, servers string
		members       int
		steps         string // of a's retirement
		stuck         bool
	}{
		{"one that does not vote", "a:n b:vL", 2, "", false},
		{"one of three", "a:v b:vL c:v", 3, "-a", false},
		{"one of three, while another is dead", "a:v b:vL c:v-", 3, "-c -a", false},
		{"a dead one of three", "a:v- b:vL c:v", 3, "-a", false},
		{"one of three, with a spare", "a:v b:vL c:v d:n", 4, "+d -a", false},
		{"one of three, another dead, with a spare", "a:v b:vL c:v- d:n", 4, "+d -a", false},
		{"one of five, two dead", "a:v b:vL c:v d:v- e:v-", 5, "-e -a", false},
		{"the leader of three", "a:vL b:v c:v", 3, ">b -a", false},
		{"the leader of three, another dead", "a:vL b:v c:v-", 3, "-c >b -a", false},
		{"the only voter of two", "a:vL b:n", 2, "+b >b -a", false},
		{"the only voter, while the other is new", "a:vL b:n~", 2, "", true},
		{"the only voter, while the other is dead", "a:vL b:n-", 2, "", true},
		{"one of three, while another is silent", "a:v b:vL c:v?", 3, "-c -a", false},
		{"one of two, whose other is silent", "a:vL b:v?", 2, "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			servers, done := parseServers(c.servers), false
			got := steps(t, servers, func(s []server) (_ change, ok bool) {
				var step change
				step, done, ok = retirement(s, c.members, "a")
				return step, ok
			})
			if got != c.steps || done == c.stuck {
				t.Errorf("steps %q, done %v; want %q, %v", got, done, c.steps, !c.stuck)
			}
		})
	}
}

// model is a cluster in which hosts join, die, come back, are drained and leave, without time: who is alive answers and
// is stable.
type model []server

// key names a model, whatever its hosts are called.
func (m model) key() string {
	var all []string
	for _, s := range m {
		all = append(all, fmt.Sprint(s.voter, s.leader, s.healthy, s.leaving))
	}
	slices.Sort(all)
	return strings.Join(all, "|")
}

// led returns the model with a living voter as its leader in all ways that an election can end.
func (m model) led() (all []model) {
	for i, s := range m {
		if s.leader && s.healthy && s.voter {
			return []model{m}
		}
		if s.voter && s.healthy {
			next := slices.Clone(m)
			for j := range next {
				next[j].leader = j == i
			}
			all = append(all, next)
		}
	}
	for i, s := range m { // an old leader does not stop another one from being elected before it is seen
		if s.leader && !(s.healthy && s.voter) {
			m[i].leader = false
		}
	}
	return all
}

// events returns all models that one event makes of this one; leaving is not among them.
func (m model) events(most int) (all []model) {
	with := func(i int, f func(*server)) {
		next := slices.Clone(m)
		f(&next[i])
		if quorate(next) { // else the operator's fault is not ours to mend
			all = append(all, next.led()...)
		}
	}
	for i := range m {
		with(i, func(s *server) { s.healthy = !s.healthy; s.answers, s.stable = s.healthy, s.healthy })
		with(i, func(s *server) { s.leaving = !s.leaving })
	}
	if len(m) < most {
		joined := server{id: fresh(m), member: true, healthy: true, answers: true, stable: true}
		all = append(all, append(slices.Clone(m), joined))
	}
	return all
}

func fresh(m model) hraft.ServerID {
	for n := 0; ; n++ {
		id := hraft.ServerID(fmt.Sprint(n))
		if !slices.ContainsFunc(m, func(s server) bool { return s.id == id }) {
			return id
		}
	}
}

// TestNoOrderOfEventsLosesTheMajority walks through every state that a cluster of up to seven hosts can get into by
// hosts that join, die, come back, are drained and leave, in every order, between any two steps. From each of them
// every step that is taken leaves a majority of living voters, the steps come to rest with the right number of voters,
// and a host leaves unless no other one is fit to vote.
func TestNoOrderOfEventsLosesTheMajority(t *testing.T) {
	const most = 7
	first := model{{id: "0", voter: true, leader: true, member: true, healthy: true, answers: true, stable: true}}
	seen := map[string]bool{first.key(): true}
	queue := []model{first}
	removals, refusals := 0, 0
	for len(queue) > 0 {
		m := queue[0]
		queue = queue[1:]
		var next []model
		step := func(what string, c change) model {
			n := slices.Clone(m)
			carryOut(n, c)
			if !quorate(n) {
				t.Fatalf("%s: no majority after %s of %s", what, c, m.key())
			}
			return n
		}
		next = append(next, m.events(most)...)
		if c, ok := nextChange(m, len(m)); ok {
			next = append(next, step("settle", c))
		} else if want, got := wantedAtRest(m), ballots(m); want != 0 && want != got {
			t.Fatalf("%d voters at rest, not %d: %s", got, want, m.key())
		}
		for _, s := range m {
			c, done, ok := retirement(m, len(m), s.id)
			switch {
			case done && len(m) > 1:
				gone := slices.DeleteFunc(slices.Clone(m), func(o server) bool { return o.id == s.id })
				if !quorate(gone) {
					t.Fatalf("the removal of %s costs the majority: %s", s.id, m.key())
				}
				removals++
				next = append(next, gone.led()...)
			case ok:
				next = append(next, step("retire "+string(s.id), c))
			case !done && othersFit(m, s.id):
				t.Fatalf("the removal of %s is refused, and another host is fit: %s", s.id, m.key())
			case !done:
				refusals++
			}
		}
		for _, n := range next {
			if k := n.key(); !seen[k] {
				seen[k] = true
				queue = append(queue, n)
			}
		}
	}
	if len(seen) < 1000 || removals == 0 || refusals == 0 {
		t.Fatalf("%d states, %d removals, %d refusals: the walk does not go where it should", len(seen), removals, refusals)
	}
	t.Logf("%d states, %d removals, %d refusals", len(seen), removals, refusals)
}

// othersFit says whether there is a living voter, or a living host that may become one, beside a server.
func othersFit(m model, id hraft.ServerID) bool {
	return slices.ContainsFunc(m, func(s server) bool { return s.id != id && s.healthy && (s.voter || !s.leaving) })
}

func ballots(m []server) (n int) {
	for _, s := range m {
		if s.voter {
			n++
		}
	}
	return n
}

// wantedAtRest is how many voters a cluster has in the end if all its hosts are well; 0 if they are not.
func wantedAtRest(m model) int {
	if slices.ContainsFunc(m, func(s server) bool { return !s.healthy || s.leaving }) {
		return 0
	}
	return []int{0, 1, 1, 3, 3, 5, 5, 5}[len(m)]
}

// TestChangesAreSafe draws servers of all kinds, also such as no cluster gets into by itself, and follows the steps.
func TestChangesAreSafe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		servers, members := drawServers(t)
		id := servers[rapid.IntRange(0, len(servers)-1).Draw(t, "retires")].id
		retires := rapid.Bool().Draw(t, "retire")
		for round := 0; ; round++ {
			c, ok := nextChange(servers, members)
			if retires {
				c, _, ok = retirement(servers, members, id)
			}
			if !ok {
				break
			}
			if round == maxChanges {
				t.Fatalf("no rest after %d rounds: %+v wants %s", round, servers, c)
			}
			before := quorate(servers)
			carryOut(servers, c)
			if !before || !quorate(servers) {
				t.Fatalf("%s with a majority %v, %v after: %+v", c, before, quorate(servers), servers)
			}
			if slices.ContainsFunc(servers, func(s server) bool { return s.leader && !s.voter }) {
				t.Fatalf("%s demotes the leader: %+v", c, servers)
			}
		}
		if quorate(servers) && ballots(servers) > MaxVoters+1 {
			t.Fatalf("%d voters: %+v", ballots(servers), servers)
		}
	})
}

func drawServers(t *rapid.T) (servers []server, members int) {
	n := rapid.IntRange(1, 9).Draw(t, "servers")
	for i := range n {
		s := server{id: hraft.ServerID(fmt.Sprint(i)), member: true, since: time.Unix(int64(i), 0)}
		if i == 0 {
			s.leader, s.voter, s.healthy, s.answers, s.stable = true, true, true, true, true
		} else {
			s.voter = i < 5 && rapid.Bool().Draw(t, "voter")
			s.healthy = rapid.IntRange(0, 3).Draw(t, "down") > 0
			s.answers = s.healthy && rapid.IntRange(0, 4).Draw(t, "silent") > 0
			s.stable = s.healthy && rapid.IntRange(0, 3).Draw(t, "young") > 0
			s.member = rapid.IntRange(0, 5).Draw(t, "removed") > 0
			s.leaving = rapid.IntRange(0, 5).Draw(t, "drained") == 0
		}
		if s.member {
			members++
		}
		servers = append(servers, s)
	}
	return servers, members
}
