package plan

import (
	"testing"

	"pgregory.net/rapid"
)

// TestGiverGivesEachChunkOnce: to whomever, before it gives any twice.
func TestGiverGivesEachChunkOnce(t *testing.T) {
	const n = 1000
	g := NewGiver(Mix(1), n)
	for c := range n {
		g.Hold(c)
	}
	followers := []*Follower{g.Follow(), g.Follow(), g.Follow()}
	seen := map[int]bool{}
	for i := range n {
		c, ok := g.Grant(followers[i%3], 0, n)
		if !ok || seen[c] {
			t.Fatalf("grant %d: chunk %d (%v), given before: %v", i, c, ok, seen[c])
		}
		seen[c] = true
	}
	if !g.Spent(0, n) {
		t.Error("is not spent when all is given")
	}
	g.Leave(followers[0])
	if g.Spent(0, n) {
		t.Error("is spent although a follower left with what it was given")
	}
}

// TestTwoGiversSeldomGiveTheSame: they hear of each other's grants by what the followers hold, wherever they begin.
func TestTwoGiversSeldomGiveTheSame(t *testing.T) {
	for _, n := range []int{300, 1000} {
		for key := range uint64(100) {
			if twice := twoGivers(t, n, key); twice > n/10 {
				t.Errorf("%d of %d chunks were given twice by givers %d and %d", twice, n, key, key+1)
			}
		}
	}
}

// twoGivers lets two givers give a file in turns, and returns what both gave.
func twoGivers(t *testing.T, n int, key uint64) (twice int) {
	a, b := NewGiver(Mix(key), n), NewGiver(Mix(key+1), n)
	for c := range n {
		a.Hold(c)
		b.Hold(c)
	}
	const fetchers = 4
	var at [2][fetchers]*Follower // each fetcher, as each giver sees it
	for k := range fetchers {
		at[0][k], at[1][k] = a.Follow(), b.Follow()
	}
	type gift struct{ chunk, fetcher int }
	var news []gift
	times := map[int]int{}
	for turn := 0; !a.Spent(0, n) || !b.Spent(0, n); turn++ {
		for i, g := range []*Giver{a, b} {
			k := int(Mix(uint64(turn*2+i)) % fetchers)
			c, ok := g.Grant(at[i][k], 0, n)
			if !ok {
				continue
			}
			if times[c]++; times[c] > 1 {
				twice++
			}
			news = append(news, gift{c, k})
		}
		for len(news) > 12 { // it is heard of late
			a.Has(at[0][news[0].fetcher], news[0].chunk)
			b.Has(at[1][news[0].fetcher], news[0].chunk)
			news = news[1:]
		}
	}
	if len(times) != n {
		t.Errorf("%d of %d chunks were given", len(times), n)
	}
	return twice
}

// TestGiverKeepsItsRules drives a Giver with random calls and compares it with plain books.
func TestGiverKeepsItsRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 150).Draw(t, "chunks")
		g := NewGiver(rapid.Uint64().Draw(t, "self"), n)
		held := map[int]bool{}
		has := map[*Follower]map[int]bool{}
		given := map[int]*Follower{} // and not arrived
		var followers []*Follower
		follower := func(t *rapid.T) *Follower {
			if len(followers) == 0 {
				t.Skip("no followers")
			}
			return rapid.SampledFrom(followers).Draw(t, "follower")
		}
		chunk := func(t *rapid.T) int { return rapid.IntRange(0, n-1).Draw(t, "chunk") }
		free := func(c int) bool {
			for _, f := range followers {
				if has[f][c] {
					return false
				}
			}
			return held[c] && given[c] == nil
		}
		t.Repeat(map[string]func(*rapid.T){
			"follow": func(t *rapid.T) {
				f := g.Follow()
				followers = append(followers, f)
				has[f] = map[int]bool{}
			},
			"leave": func(t *rapid.T) {
				f := follower(t)
				g.Leave(f)
				for i, o := range followers {
					if o == f {
						followers = append(followers[:i], followers[i+1:]...)
						break
					}
				}
				for c, o := range given {
					if o == f {
						delete(given, c)
					}
				}
			},
			"hold": func(t *rapid.T) {
				for range 10 {
					c := chunk(t)
					g.Hold(c)
					held[c] = true
				}
			},
			"drop": func(t *rapid.T) {
				c := chunk(t)
				g.Drop(c)
				delete(held, c)
			},
			"has": func(t *rapid.T) {
				f, c := follower(t), chunk(t)
				g.Has(f, c)
				has[f][c] = true
				delete(given, c)
			},
			"revoke": func(t *rapid.T) {
				f, c := follower(t), chunk(t)
				if given[c] == f {
					g.Revoke(f, c)
					delete(given, c)
				}
			},
			"grant": func(t *rapid.T) {
				f := follower(t)
				lo := chunk(t)
				hi := rapid.IntRange(lo, n).Draw(t, "hi")
				possible := false
				for c := lo; c < hi; c++ {
					possible = possible || free(c)
				}
				spent := g.Spent(lo, hi)
				c, ok := g.Grant(f, lo, hi)
				if ok != possible || spent == possible {
					t.Fatalf("grant in [%d, %d): %v, spent: %v, possible: %v", lo, hi, ok, spent, possible)
				}
				if ok {
					if c < lo || c >= hi || !free(c) {
						t.Fatalf("granted chunk %d of [%d, %d), free: %v", c, lo, hi, free(c))
					}
					given[c] = f
				}
			},
		})
	})
}
