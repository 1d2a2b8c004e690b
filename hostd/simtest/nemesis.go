package simtest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// plan is what the nemesis will do. It is made of the seed alone; whom a step means by "the leader" shows at its time.
type plan struct{ steps []step }

// step is one fault: it begins some time after the one before began, and is undone after a while, if it can be.
type step struct {
	kind   string
	after  time.Duration
	lasts  time.Duration
	target int  // number of a machine
	leader bool // the leader instead, if there is one
	other  int  // for what is between two
	n      int  // whatever the kind makes of it
}

// kinds are the faults, with how often each is drawn.
var kinds = []struct {
	name   string
	weight int
	do     func(w *world, s step, m *machine) (undo func())
}{
	{"kill", 4, (*world).kill},
	{"power loss", 6, (*world).powerLoss},
	{"stop", 2, (*world).shutDown},
	{"isolate", 4, (*world).isolate},
	{"split", 3, (*world).split},
	{"one-way cut", 3, (*world).oneWay},
	{"slow link", 3, (*world).slow},
	{"broken connections", 2, (*world).breakAll},
	{"full disk", 2, (*world).fullDisk},
	{"flipped bytes", 5, (*world).flip},
	{"lost disks", 6, (*world).loseDisks},
	{"leave and join", 2, (*world).leaveAndJoin},
	{"drain", 6, (*world).drain},
	{"removal", 4, (*world).banish},
	{"clock", 5, (*world).setClock},
	{upgradeKind, 5, (*world).upgradeOne},
}

// upgradeKind is drawn only where the cluster begins with old programs.
const upgradeKind = "upgrade"

func newPlan(rng *rand.Rand, hosts int, old bool) *plan {
	kinds, total := kinds, 0
	if !old {
		kinds = kinds[:len(kinds)-1]
	}
	for _, k := range kinds {
		total += k.weight
	}
	p := &plan{}
	for range 5 + rng.IntN(5) {
		draw := rng.IntN(total)
		i := 0
		for ; draw >= kinds[i].weight; i++ {
			draw -= kinds[i].weight
		}
		p.steps = append(p.steps, step{
			kind: kinds[i].name, after: time.Duration(300+rng.IntN(2500)) * time.Millisecond,
			lasts: time.Duration(500+rng.IntN(6000)) * time.Millisecond, target: rng.IntN(hosts),
			leader: rng.IntN(3) == 0, other: 1 + rng.IntN(hosts-1), n: rng.IntN(1 << 20),
		})
	}
	return p
}

// carryOut does one step after the other, and waits until all are undone.
func (w *world) carryOut(p *plan) {
	var undoing sync.WaitGroup
	defer undoing.Wait()
	for _, s := range p.steps {
		time.Sleep(s.after)
		m := w.machines[s.target]
		if s.leader {
			if i := slices.IndexFunc(w.machines, (*machine).leads); i >= 0 {
				m = w.machines[i]
			}
		}
		if !m.busy.TryLock() { // something else is going on with it
			w.did("%s of %s: skipped", s.kind, m.name)
			continue
		}
		undoing.Go(func() {
			defer m.busy.Unlock()
			i := slices.IndexFunc(kinds, func(k struct {
				name   string
				weight int
				do     func(w *world, s step, m *machine) (undo func())
			}) bool {
				return k.name == s.kind
			})
			undo := kinds[i].do(w, s, m)
			if undo == nil {
				return
			}
			w.count(s.kind)
			time.Sleep(s.lasts)
			undo()
		})
	}
}

// nets counts the reasons for which a road is cut.
type nets struct {
	w    *world
	mu   sync.Mutex
	cuts map[[2]string]int
}

// cut cuts roads, and returns what takes it back.
func (n *nets) cut(roads ...[2]string) (mend func()) {
	n.add(1, roads)
	return func() { n.add(-1, roads) }
}

func (n *nets) add(d int, roads [][2]string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range roads {
		n.cuts[r] += d
		n.w.fabric.Cut(r[0], r[1], n.cuts[r] > 0)
	}
}

// whole says whether nothing is cut.
func (n *nets) whole() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, reasons := range n.cuts {
		if reasons > 0 {
			return false
		}
	}
	return true
}

// between are the roads between two sets of machines, both ways.
func between(some, others []*machine) (roads [][2]string) {
	for _, a := range some {
		for _, b := range others {
			if a != b {
				roads = append(roads, [2]string{a.name, b.name}, [2]string{b.name, a.name})
			}
		}
	}
	return roads
}

func (w *world) kill(s step, m *machine) func() {
	if !m.running() {
		return nil
	}
	w.did("kill %s", m.name)
	m.kill()
	return w.again(m)
}

// again starts a machine again.
func (w *world) again(m *machine) func() {
	return func() {
		w.did("start %s", m.name)
		m.restart()
	}
}

// powerLoss lets the machine die in the middle of what it writes, if it writes anything soon.
func (w *world) powerLoss(s step, m *machine) func() {
	if !m.running() {
		return nil
	}
	n := 1 + s.n%40
	sprung := m.trap.arm(n)
	where := fmt.Sprintf("at its change %d", n)
	select {
	case <-sprung:
	case <-time.After(2 * time.Second):
		m.trap.disarm()
		where = "at rest"
	}
	w.did("power off %s %s", m.name, where)
	m.powerOff()
	return w.again(m)
}

func (w *world) shutDown(s step, m *machine) func() {
	if !m.running() {
		return nil
	}
	w.did("shut down %s", m.name)
	m.shutDown()
	return w.again(m)
}

// isolate cuts a machine off, as a broken cable does, or a process that was stopped: what it was sent meanwhile arrives
// afterwards.
func (w *world) isolate(s step, m *machine) func() {
	w.did("isolate %s", m.name)
	mend := w.nets.cut(between([]*machine{m}, w.machines)...)
	return func() { w.did("reconnect %s", m.name); mend() }
}

// split parts the machines by the bits of n.
func (w *world) split(s step, _ *machine) func() {
	var sides [2][]*machine
	var names [2][]string
	for i, m := range w.machines {
		side := s.n >> i & 1
		sides[side], names[side] = append(sides[side], m), append(names[side], m.name)
	}
	text := strings.Join(names[0], "") + " from " + strings.Join(names[1], "")
	w.did("split %s", text)
	mend := w.nets.cut(between(sides[0], sides[1])...)
	return func() { w.did("join %s", text); mend() }
}

func (w *world) pair(s step, m *machine) *machine {
	return w.machines[(m.n+s.other)%len(w.machines)]
}

func (w *world) oneWay(s step, m *machine) func() {
	to := w.pair(s, m)
	w.did("cut %s to %s", m.name, to.name)
	mend := w.nets.cut([2]string{m.name, to.name})
	return func() { w.did("mend %s to %s", m.name, to.name); mend() }
}

func (w *world) slow(s step, m *machine) func() {
	delay, rate := time.Duration(1+s.n%300)*time.Millisecond, 100_000+s.n
	w.did("slow down %s: %s, %d bytes a second", m.name, delay, rate)
	set := func(delay time.Duration, rate int) {
		for _, r := range between([]*machine{m}, w.machines) {
			w.fabric.Slow(r[0], r[1], delay, rate)
		}
	}
	set(delay, rate)
	return func() { w.did("speed up %s", m.name); set(lanDelay, 0) }
}

func (w *world) breakAll(s step, m *machine) func() {
	w.did("break the connections of %s", m.name)
	for _, other := range w.machines {
		w.fabric.Break(m.name, other.name)
	}
	return func() {}
}

func (w *world) fullDisk(s step, m *machine) func() {
	w.did("fill the disk of %s", m.name)
	m.fill(true)
	return func() {
		w.did("clear the disk of %s", m.name)
		m.fill(false)
		if !m.running() { // it had to give up
			m.restart()
		}
	}
}

// flawed says whether a machine's copies may be destroyed: one machine in a run, as all contents have two copies. ""
// is one that is still to be chosen.
func (w *world) flawed(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.flaws) == 0 {
		w.flaws[name] = true
	}
	return w.flaws[name]
}

func (w *world) isFlawed(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.flaws[name]
}

func (w *world) flip(s step, m *machine) func() {
	if !w.flawed(m.name) {
		return nil
	}
	w.did("flip bytes of %s: %s", m.name, m.flip(s.n))
	return func() {}
}

// sound says whether the cluster can do without one vote for ever: not while another is out of reach, as two of three
// are too many, nor while votes are changing hands.
func (w *world) sound() bool {
	return len(w.up()) == len(w.machines) && w.nets.whole() && w.voters() >= 3
}
