package simtest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/virtswarm/virtswarm/hostd"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/link/linktest"
	"github.com/virtswarm/virtswarm/placement"
)

// worldDice keeps what is drawn for all machines apart from the plan.
const worldDice = 1 << 33

// Options say what is simulated.
type Options struct {
	Seed uint64
	Pool *Pool // what is published
	// Logger gets what the hosts log; nil means nobody.
	Logger hclog.Logger
}

// Report is what a run found.
type Report struct {
	Seed       uint64
	Hosts      int
	Violations []string
	Schedule   []string       // what the nemesis did, in order, with virtual times
	History    []string       // what the clients did and saw, in order of their returns
	Seen       map[string]int // how often each fault was done, and each check had something to look at
}

// world is a cluster with its network, clients and nemesis.
type world struct {
	o        Options
	fabric   *linktest.Fabric
	machines []*machine
	nets     *nets
	fleet    *fleet
	members  sync.Mutex // held while a host comes or goes; only tried
	begin    time.Time

	mu         sync.Mutex
	violations []string
	schedule   []string
	history    history
	doom       chan *machine           // gets the next machine that acknowledges a publication, dead; nil if none shall die
	flaws      map[string]bool         // machines whose disk was damaged or destroyed: their copies may be gone
	excused    map[content.Digest]bool // what was lost with a disk, and may be
	orders     []*order
	seen       map[string]int // how often what was done or checked

	// What follows is of the seed, and the same for all machines.
	snapshots hostd.Snapshots
	quota     hostd.Bytes
	high, low hostd.Percent
	old       bool // the cluster begins with programs of the version before
	ghosts    []*ghost
}

// Run simulates a cluster. Nothing of it depends on real time, but how long it takes.
func Run(t *testing.T, o Options) *Report {
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	var w *world
	synctest.Test(t, func(*testing.T) { w = simulate(o) })
	w.checkNames()
	w.checkClaims()
	w.checkOrders()
	return w.report()
}

func simulate(o Options) *world {
	rng := rand.New(rand.NewPCG(o.Seed, 0))
	w := &world{o: o, fabric: linktest.NewFabric(), begin: time.Now(), flaws: map[string]bool{}, excused: map[content.Digest]bool{}, seen: map[string]int{}}
	w.draw(rand.New(rand.NewPCG(o.Seed, worldDice)))
	w.fleet = newFleet(w)
	w.nets = &nets{w: w, cuts: map[[2]string]int{}}
	for n := range hostsOf(rng) {
		w.machines = append(w.machines, newMachine(w, n))
	}
	w.network()
	plan := newPlan(rng, len(w.machines), w.old)
	if w.found() {
		over := make(chan struct{})
		var watch sync.WaitGroup
		watch.Go(func() { w.watchLeader(over) })
		w.live(plan)
		healed := w.heal()
		close(over)
		watch.Wait()
		if healed {
			w.check()
		}
	}
	w.end()
	return w
}

// hostsOf draws how many hosts there are: mostly few, as faults meet sooner then.
func hostsOf(rng *rand.Rand) int {
	return []int{3, 3, 3, 3, 4, 4, 5, 5, 5, 7}[rng.IntN(10)]
}

// draw decides what is the same for all machines: small logs, so that snapshots are taken and installed in the middle of
// faults; in half of the runs stores that are always too full; in a third programs of the version before.
func (w *world) draw(rng *rand.Rand) {
	w.snapshots = hostd.Snapshots{
		Threshold: 10 + rng.Uint64N(50), Interval: time.Duration(500+rng.IntN(2000)) * time.Millisecond, Trailing: 2 + rng.Uint64N(30),
	}
	if rng.IntN(2) == 0 {
		w.quota, w.high, w.low = 1000*content.MinChunkSize, 2, 1
	}
	w.old = rng.IntN(3) == 0
}

// oldest is the cluster version of the programs that a cluster begins with.
func (w *world) oldest() int {
	if w.old {
		return placement.Newest - 1
	}
	return placement.Newest
}

// network gives every road the delay of a LAN.
func (w *world) network() {
	for _, a := range w.machines {
		for _, b := range w.machines {
			if a != b {
				w.fabric.Slow(a.name, b.name, lanDelay, 0)
			}
		}
	}
}

// live lets clients and nemesis at the cluster until the plan is carried out.
func (w *world) live(plan *plan) {
	over := make(chan struct{})
	var busy sync.WaitGroup
	for n := range clientCount {
		c := &client{w: w, n: n, rng: rand.New(rand.NewPCG(w.o.Seed, uint64(n)+1)), over: over}
		busy.Go(c.run)
	}
	busy.Go(func() { w.fleet.run(rand.New(rand.NewPCG(w.o.Seed, domainDice)), over) })
	busy.Go(func() { w.fleet.read(rand.New(rand.NewPCG(w.o.Seed, domainDice+1)), over) })
	busy.Go(func() { w.fleet.guests(rand.New(rand.NewPCG(w.o.Seed, domainDice+2)), over) })
	busy.Go(func() { w.startsAgain(over) })
	w.carryOut(plan)
	close(over)
	busy.Wait()
}

// now is the virtual time since the beginning.
func (w *world) now() time.Duration { return time.Since(w.begin) }

// count notes that something was done, or that a check had something to look at.
func (w *world) count(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen[what]++
}

// did notes what the nemesis has done.
func (w *world) did(format string, a ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.schedule = append(w.schedule, fmt.Sprintf("%8.3fs  %s", w.now().Seconds(), fmt.Sprintf(format, a...)))
}

// violation notes that a promise was broken.
func (w *world) violation(format string, a ...any) {
	text := fmt.Sprintf(format, a...)
	w.mu.Lock()
	if !slices.Contains(w.violations, text) {
		w.violations = append(w.violations, text)
	}
	w.mu.Unlock()
	w.did("VIOLATION: %s", text)
}

func (w *world) report() *Report {
	w.mu.Lock()
	defer w.mu.Unlock()
	return &Report{
		Seed: w.o.Seed, Hosts: len(w.machines), Violations: w.violations, Schedule: w.schedule, History: w.history.lines(), Seen: w.seen,
	}
}

// up returns the machines whose daemon runs.
func (w *world) up() []*machine {
	return slices.DeleteFunc(slices.Clone(w.machines), func(m *machine) bool { return !m.running() })
}
