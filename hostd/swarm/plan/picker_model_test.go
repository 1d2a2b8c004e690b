package plan

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// machine drives a Picker with random calls and checks every answer against books of its own.
type machine struct {
	p       *Picker
	n       int
	prio    []Priority
	sources []*Source
	has     map[*Source]map[int]bool
	asked   map[*Source]map[int]bool
	least   map[*Source]Priority
	window  map[*Source]int
	fellow  map[*Source]bool
	gives   map[*Source]bool
	draws   map[*Source][][2]int // that wait
	scope   map[int]bool
}

func newMachine(t *rapid.T) *machine {
	n := rapid.IntRange(0, 150).Draw(t, "chunks")
	size := int64(n) * testChunk
	if n > 0 {
		size -= int64(rapid.IntRange(0, testChunk-1).Draw(t, "short"))
	}
	return &machine{p: NewPicker(rapid.Uint64().Draw(t, "self"), Place{}, size, testChunk), n: n, prio: make([]Priority, n),
		has: map[*Source]map[int]bool{}, asked: map[*Source]map[int]bool{}, least: map[*Source]Priority{}, window: map[*Source]int{},
		fellow: map[*Source]bool{}, gives: map[*Source]bool{}, draws: map[*Source][][2]int{}, scope: map[int]bool{}}
}

func (m *machine) chunk(t *rapid.T) int {
	if m.n == 0 {
		t.Skip("no chunks")
	}
	return rapid.IntRange(0, m.n-1).Draw(t, "chunk")
}

func (m *machine) source(t *rapid.T) *Source {
	if len(m.sources) == 0 {
		t.Skip("no sources")
	}
	return rapid.SampledFrom(m.sources).Draw(t, "source")
}

func (m *machine) askers(c int) (who []*Source) {
	for _, s := range m.sources {
		if m.asked[s][c] {
			who = append(who, s)
		}
	}
	return who
}

func (m *machine) room(s *Source, windows int) bool {
	owes := s.Owes() + len(m.draws[s])*testChunk
	return m.least[s] <= Demand && (owes == 0 || owes+testChunk <= m.window[s]*windows)
}

// openFor returns the priority of the most urgent chunk that s has and nobody was asked for.
func (m *machine) openFor(s *Source) (best Priority) {
	for c := range m.has[s] {
		if len(m.askers(c)) == 0 && m.prio[c] >= m.least[s] {
			best = max(best, m.prio[c])
		}
	}
	return best
}

// drawable returns how many chunks are open that may come of a draw.
func (m *machine) drawable() (n int) {
	for c := range m.n {
		if len(m.askers(c)) == 0 && m.prio[c] >= Repair && m.prio[c] <= Start {
			n++
		}
	}
	return n
}

func (m *machine) next(t *rapid.T) {
	// What must be true of the answer, seen before it is given.
	demand := false
	idle, owes, fellows, draws := "", 0, 0, 0
	room, more := map[*Source]bool{}, map[*Source]bool{}
	for i, s := range m.sources {
		open := m.openFor(s)
		room[s], more[s] = m.room(s, 1), m.room(s, demandWindow)
		if open == Demand && more[s] {
			demand = true
		}
		owes += s.Owes() + len(m.draws[s])
		draws += len(m.draws[s])
		if m.fellow[s] && len(m.has[s]) < m.n {
			fellows++
		}
		if open > Unwanted && len(m.asked[s])+len(m.draws[s]) == 0 && m.least[s] <= Demand {
			idle = fmt.Sprintf("source %d owes nothing and has an open chunk", i)
		}
	}
	if draws >= m.drawable() || owes+testChunk > maxBusy*testChunk {
		idle = "" // what is open may come of the draws that are out, and enough is on its way
	}
	r, ok := m.p.Next()
	if !ok {
		if demand || idle != "" && (fellows == 0 || owes == 0) { // a seed may be spared while fellows deliver
			t.Fatalf("nothing to ask for, but a demanded chunk is to be had: %v; %s", demand, idle)
		}
		return
	}
	if r.Draw {
		m.drew(t, r, room[r.Source], demand)
		return
	}
	before := m.askers(r.Chunk)
	switch {
	case m.prio[r.Chunk] == Unwanted:
		t.Fatalf("asks for chunk %d, which nobody wants", r.Chunk)
	case !m.has[r.Source][r.Chunk]:
		t.Fatalf("asks for chunk %d of a source that lacks it", r.Chunk)
	case m.asked[r.Source][r.Chunk]:
		t.Fatalf("asks twice for chunk %d of one source", r.Chunk)
	case len(before) > 1:
		t.Fatalf("asks a third source for chunk %d", r.Chunk)
	case r.Priority != m.prio[r.Chunk] || r.Priority < m.least[r.Source]:
		t.Fatalf("priority %d of chunk %d, wanted for %d, source limited to %d", r.Priority, r.Chunk, m.prio[r.Chunk], m.least[r.Source])
	case demand && r.Priority != Demand:
		t.Fatalf("asks for chunk %d of priority %d while a reader waits", r.Chunk, r.Priority)
	case !room[r.Source] && !(r.Priority == Demand && more[r.Source]):
		t.Fatalf("asks more of a source than its window allows")
	}
	m.asked[r.Source][r.Chunk] = true
}

// drew checks a draw.
func (m *machine) drew(t *rapid.T, r Request, room, demand bool) {
	useful := false
	for c := r.Lo; c < r.Hi; c++ {
		if !m.scope[c] {
			t.Fatalf("draws of [%d, %d), chunk %d was never wanted", r.Lo, r.Hi, c)
		}
		if p := m.prio[c]; p != Unwanted && p < r.Priority && len(m.askers(c)) == 0 {
			t.Fatalf("draws of [%d, %d) for %d, chunk %d is open for %d", r.Lo, r.Hi, r.Priority, c, p)
		}
		useful = useful || m.has[r.Source][c] && m.prio[c] == r.Priority && len(m.askers(c)) == 0
	}
	switch s := r.Source; {
	case !m.gives[s] || m.fellow[s]:
		t.Fatal("draws of a source that does not give")
	case !useful || r.Priority > Start || r.Priority < m.least[s]:
		t.Fatalf("draws of [%d, %d) for %d what is not to be had there", r.Lo, r.Hi, r.Priority)
	case !room || demand:
		t.Fatalf("draws although there is no room (%v), or while a reader waits (%v)", !room, demand)
	}
	m.draws[r.Source] = append(m.draws[r.Source], [2]int{r.Lo, r.Hi})
}

// drawn takes the oldest draw that waits at a source.
func (m *machine) drawn(t *rapid.T) (*Source, [2]int) {
	s := m.source(t)
	if len(m.draws[s]) == 0 {
		t.Skip("no draws")
	}
	d := m.draws[s][0]
	m.draws[s] = m.draws[s][1:]
	return s, d
}

// check compares the picker's books with those of the machine.
func (m *machine) check(t *rapid.T) {
	twins := 0
	for c := range m.n {
		holders := 0
		for _, s := range m.sources {
			if m.has[s][c] {
				holders++
			}
		}
		if m.p.Holders(c) != holders || m.p.Wanted(c) != m.prio[c] {
			t.Fatalf("chunk %d: %d holders, wanted for %d; want %d and %d", c, m.p.Holders(c), m.p.Wanted(c), holders, m.prio[c])
		}
		if len(m.askers(c)) > 1 {
			twins++
		}
	}
	if twins > maxTwins {
		t.Fatalf("%d chunks are requested twice", twins)
	}
	for _, s := range m.sources {
		owes := 0
		for c := range m.asked[s] {
			owes += m.p.len(c)
		}
		if s.Owes() != owes {
			t.Fatalf("a source owes %d bytes, want %d", s.Owes(), owes)
		}
		if s.Draws() != len(m.draws[s]) {
			t.Fatalf("%d draws wait at a source, want %d", s.Draws(), len(m.draws[s]))
		}
		if m.p.Complete(s) != (len(m.has[s]) == m.n) {
			t.Fatalf("a source with %d of %d chunks is complete: %v", len(m.has[s]), m.n, m.p.Complete(s))
		}
	}
}

func TestPickerKeepsItsRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(t)
		next := func(t *rapid.T) {
			for range rapid.IntRange(1, 20).Draw(t, "times") {
				m.next(t)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"":      m.check,
			"next":  next,
			"next2": next, // more often than anything else
			"next3": next,
			"want": func(t *rapid.T) {
				c, prio := m.chunk(t), Priority(rapid.IntRange(0, int(Demand)).Draw(t, "prio"))
				if prio == Unwanted {
					for _, s := range m.askers(c) { // as a job does
						m.p.Release(s, c)
						delete(m.asked[s], c)
					}
				}
				if m.prio[c] != prio {
					m.scope[c] = prio != Unwanted
				}
				m.p.Want(c, prio)
				m.prio[c] = prio
			},
			"want all": func(t *rapid.T) {
				for c := range m.n {
					m.p.Want(c, max(Distribute, m.prio[c]))
					m.prio[c] = max(Distribute, m.prio[c])
					m.scope[c] = true
				}
			},
			"add": func(t *rapid.T) {
				if len(m.sources) == 20 {
					t.Skip("enough")
				}
				part := rapid.SampledFrom([]float64{0, 0.1, 0.9, 1}).Draw(t, "part")
				rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
				has := map[int]bool{}
				for c := range m.n {
					if rnd.Float64() < part {
						has[c] = true
					}
				}
				s := m.p.Add(rnd.Uint64(), Place{}, func(c int) bool { return has[c] })
				m.sources = append(m.sources, s)
				m.has[s], m.asked[s], m.window[s] = has, map[int]bool{}, 2*testChunk
			},
			"remove": func(t *rapid.T) {
				s := m.source(t)
				m.p.Remove(s)
				delete(m.has, s)
				delete(m.asked, s)
				delete(m.draws, s)
				for i := range m.sources {
					if m.sources[i] == s {
						m.sources = append(m.sources[:i], m.sources[i+1:]...)
						break
					}
				}
			},
			"gives": func(t *rapid.T) {
				s := m.source(t)
				m.p.Gives(s)
				m.gives[s] = true
			},
			"granted": func(t *rapid.T) {
				s, d := m.drawn(t)
				c := rapid.IntRange(d[0], d[1]-1).Draw(t, "chunk")
				want := len(m.askers(c)) == 0 && m.prio[c] != Unwanted
				if got := m.p.Granted(s, c); got != want {
					t.Fatalf("granted chunk %d is of use: %v, want %v", c, got, want)
				}
				if want {
					m.has[s][c], m.asked[s][c] = true, true
				}
			},
			"refused": func(t *rapid.T) {
				s, _ := m.drawn(t)
				m.p.Refused(s)
			},
			"spent": func(t *rapid.T) {
				s, d := m.drawn(t)
				m.p.Spent(s, d[0], d[1])
			},
			"fellow": func(t *rapid.T) {
				s := m.source(t)
				m.p.Fellow(s)
				m.fellow[s] = true
			},
			"have": func(t *rapid.T) {
				s, c := m.source(t), m.chunk(t)
				m.p.Have(s, c)
				m.has[s][c] = true
			},
			"lost": func(t *rapid.T) {
				s, c := m.source(t), m.chunk(t)
				m.p.Release(s, c)
				m.p.Lost(s, c)
				delete(m.asked[s], c)
				delete(m.has[s], c)
			},
			"pace": func(t *rapid.T) {
				s := m.source(t)
				m.window[s] = rapid.IntRange(0, 20).Draw(t, "window") * testChunk
				m.p.SetPace(s, float64(rapid.IntRange(0, 1e9).Draw(t, "rate")), m.window[s])
			},
			"limit": func(t *rapid.T) {
				s := m.source(t)
				m.least[s] = Priority(rapid.IntRange(0, int(Demand)+1).Draw(t, "least"))
				m.p.Limit(s, m.least[s])
			},
			"fail": func(t *rapid.T) {
				s, c := m.source(t), m.chunk(t)
				m.p.Release(s, c)
				delete(m.asked[s], c)
			},
			"done": func(t *rapid.T) {
				c := m.chunk(t)
				who := m.askers(c)
				if got := m.p.Done(c); len(got) != len(who) {
					t.Fatalf("%d sources were asked for chunk %d, %d are named", len(who), c, len(got))
				}
				for _, s := range who {
					delete(m.asked[s], c)
				}
				m.prio[c] = Unwanted
			},
		})
	})
}
