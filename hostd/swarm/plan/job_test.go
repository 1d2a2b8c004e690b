package plan

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/internal/content"
)

// world drives one Job by chance, and checks that what it does makes sense.
type world struct {
	t      *testing.T
	rnd    *rand.Rand
	now    time.Time
	job    *Job
	budget *Budget
	have   content.Bits
	claim  *Claim
	peers  []*Peer        // connected to and not parted with
	opened map[*Peer]bool // of these
	asks   []*Ask         // sent, and neither ended nor cancelled
	done   bool
	steps  int
}

const worldChunks = 40

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(0, 0), budget: NewBudget(MaxInFlight, MaxPeerInFlight),
		have: content.NewBits(worldChunks), opened: map[*Peer]bool{}}
	w.job = NewJob(w.now, JobConfig{Self: Host{99}, Size: worldChunks << 16, Chunk: 1 << 16, Have: w.have.Clone(),
		Place: func(h Host) Place { return Place{Rack: string(rune('a' + h[0]%2))} }, Budget: w})
	all := content.NewBits(worldChunks)
	all.SetRange(0, worldChunks)
	w.claim = NewClaim(Distribute, all)
	w.job.Claim(w.now, w.claim, w.have)
	w.act()
	return w
}

// Ask implements Budgeter.
func (w *world) Ask(now time.Time, peer Host, n int, prio Priority, _ bool) bool {
	return w.budget.Room(now, peer, n, prio)
}

// act carries out what the Job decides.
func (w *world) act() {
	for {
		actions := w.job.Act(w.now)
		if len(actions) == 0 {
			return
		}
		for _, a := range actions {
			w.do(a)
		}
	}
}

func (w *world) do(a Action) {
	w.t.Helper()
	switch a.Do {
	case Look:
		w.job.Listed(w.now, []Host{{1}, {2}})
	case Connect:
		for _, p := range w.peers {
			if p.Host() == a.Peer.Host() {
				w.t.Fatalf("connects twice to %x", p.Host())
			}
		}
		w.peers = append(w.peers, a.Peer)
		if len(w.peers) > MaxSources {
			w.t.Fatalf("%d sources", len(w.peers))
		}
	case Part:
		w.peers = without(w.t, w.peers, a.Peer)
		for _, k := range w.asks {
			if k.Peer == a.Peer {
				w.t.Fatal("parts with a peer that owes something")
			}
		}
	case Send:
		if !w.opened[a.Ask.Peer] {
			w.t.Fatal("asks a peer that has not opened the file")
		}
		w.asks = append(w.asks, a.Ask)
	case Cancel:
		w.asks = without(w.t, w.asks, a.Ask)
	case Tell:
		for _, c := range a.Chunks {
			if !w.have.Has(c) {
				w.t.Fatalf("tells of chunk %d, which is not here", c)
			}
		}
	case Finish:
		w.done = true
		if a.Verdict == Complete && a.Claim.Left() > 0 {
			w.t.Fatal("is done, and something is missing")
		}
	}
}

func without[T comparable](t *testing.T, all []T, it T) []T {
	t.Helper()
	for i, o := range all {
		if o == it {
			return append(all[:i:i], all[i+1:]...)
		}
	}
	t.Fatal("ends what has not begun")
	return nil
}

// step lets something happen.
func (w *world) step() {
	w.steps++
	w.now = w.now.Add(time.Duration(w.rnd.IntN(20)) * time.Millisecond)
	switch k := w.rnd.IntN(20); {
	case k < 3 && len(w.peers) > 0:
		w.open(w.peers[w.rnd.IntN(len(w.peers))])
	case k < 4:
		w.job.Met(w.now, Host{byte(1 + w.rnd.IntN(90))}, Host{99})
	case k < 5:
		w.job.Came(w.now, Host{byte(1 + w.rnd.IntN(90))})
	case k < 6 && len(w.peers) > 0 && w.rnd.IntN(4) == 0:
		w.job.Refused(w.now, w.peers[w.rnd.IntN(len(w.peers))])
	case k < 8 && len(w.peers) > 0:
		w.job.Told(w.peers[w.rnd.IntN(len(w.peers))], []int{w.rnd.IntN(worldChunks)})
	case k < 10:
		if !w.now.Before(w.job.Due()) {
			w.job.Tick(w.now)
		}
	case len(w.asks) > 0:
		w.answer(w.asks[w.rnd.IntN(len(w.asks))])
	}
	w.act()
}

func (w *world) open(p *Peer) {
	if w.opened[p] {
		return
	}
	w.opened[p] = true
	have := content.NewBits(worldChunks)
	for c := range worldChunks {
		if p.Host()[0] <= 2 || w.rnd.IntN(3) == 0 {
			have.Set(c)
		}
	}
	w.job.Opened(w.now, p, have, nil)
}

// answer answers an ask, well as a rule.
func (w *world) answer(a *Ask) {
	if a.Chunk < 0 && w.rnd.IntN(8) > 0 {
		w.job.Granted(w.now, a, a.Lo+w.rnd.IntN(a.Hi-a.Lo))
		return
	}
	w.asks = without(w.t, w.asks, a)
	switch k := w.rnd.IntN(20); {
	case a.Chunk < 0:
		w.job.Ended(w.now, a, 0, Spent)
	case k == 0:
		w.job.Ended(w.now, a, 0, NotHeld)
	case k == 1:
		w.job.Ended(w.now, a, 0, Broken)
	default:
		w.have.Set(a.Chunk)
		w.job.Ended(w.now, a, time.Millisecond, Stored)
	}
}

// TestJobKeepsItsRules: whatever happens, a Job asks only peers that have opened the file, parts with none that still
// owes something, tells of nothing that is not here, and comes to an end.
func TestJobKeepsItsRules(t *testing.T) {
	for seed := range uint64(300) {
		w := newWorld(t, seed)
		for !w.done && w.steps < 20_000 {
			w.step()
		}
		if !w.done {
			t.Fatalf("seed %d: not done after %d steps, %d chunks are missing", seed, w.steps, w.claim.Left())
		}
		w.job.Close(w.now)
		w.act()
		if len(w.peers) > 0 {
			t.Fatalf("seed %d: %d peers are left after Close", seed, len(w.peers))
		}
	}
}

// TestJobLooksAround: it goes to listed holders at once, to hosts that others named when it has looked around, and to
// hosts that came by themselves in any case.
func TestJobLooksAround(t *testing.T) {
	w := newWorld(t, 1)
	if len(w.peers) != 2 {
		t.Fatalf("%d of 2 holders are connected to", len(w.peers))
	}
	w.job.Met(w.now, Host{7})
	w.act()
	if len(w.peers) != 2 {
		t.Error("it has not looked around")
	}
	w.job.Came(w.now, Host{8})
	w.act()
	if len(w.peers) != 3 {
		t.Error("it does not go to a host that came")
	}
	if w.now = w.job.Due(); !w.now.Equal(time.Unix(0, 0).Add(LookAround)) {
		t.Errorf("due after %v", w.now.Sub(time.Unix(0, 0)))
	}
	w.job.Tick(w.now)
	w.act()
	if len(w.peers) != 4 {
		t.Error("it does not go to a host that was named")
	}
}
