package simtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/hostd"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/placement"
)

const (
	domainCount = 3
	// domainDice keeps what the fleet draws apart from what clients draw.
	domainDice = 1 << 32
	// domainThink is the longest pause between two things that happen to domains.
	domainThink = 500 * time.Millisecond
)

// vm is a domain, and where it really is.
type vm struct {
	placement.Domain
	at, to *machine // to: where it migrates, nil if it does not; at is nil where it is defined nowhere
	// image is a content of a machine's store that is its disk, zero if none is; imageDisk is which of the machine's
	// disks that was, and looks how often it was whole since the catalogue knows of it.
	image      content.Digest
	imageAt    *machine
	imageDisk  int
	imageSince int64 // place in the order of claims
	looks      int
}

// fleet is all domains: it moves them about while the nemesis does its work, and compares what the catalogue says. The
// truth is what the machines' libvirts see, whether a daemon runs there or not.
type fleet struct {
	w *world

	mu     sync.Mutex
	vms    []*vm
	claims *claims
	said   map[saying]string // what was said of a domain at an index, by whoever
	newest uint64            // highest index of a read that has returned; of read alone
}

// saying is one view of a domain: of an index there is only one.
type saying struct {
	uuid  string
	index uint64
}

func newFleet(w *world) *fleet {
	f := &fleet{w: w, claims: newClaims(), said: map[saying]string{}}
	for i := range domainCount {
		f.vms = append(f.vms, &vm{Domain: placement.Domain{
			UUID: fmt.Sprintf("%08d-0000-4000-8000-000000000000", i), Name: fmt.Sprintf("vm%d", i), Manager: placement.ManagedByLibvirt, VCPUs: 1,
		}})
	}
	return f
}

// run lets something happen to domains until it is over, and then lets no migration stand half way.
func (f *fleet) run(rng *rand.Rand, over <-chan struct{}) {
	for {
		think := time.NewTimer(time.Duration(rng.Int64N(int64(domainThink))))
		select {
		case <-over:
			think.Stop()
			f.mu.Lock()
			defer f.mu.Unlock()
			for _, d := range f.vms {
				if d.to != nil {
					f.arrive(d, rng)
				}
			}
			return
		case <-think.C:
		}
		d := f.vms[rng.IntN(len(f.vms))]
		f.mu.Lock()
		nowhere := d.at == nil
		f.mu.Unlock()
		if nowhere {
			f.startSomewhere(d, rng)
			continue
		}
		f.mu.Lock()
		if d.at != nil { // else the power failed
			f.happen(d, rng)
		}
		f.mu.Unlock()
	}
}

// startSomewhere starts a domain that is nowhere, mostly from an image of the store there.
func (f *fleet) startSomewhere(d *vm, rng *rand.Rand) {
	m := f.w.machines[rng.IntN(len(f.w.machines))]
	image, ok := content.Digest{}, false
	if rng.IntN(3) > 0 {
		image, ok = f.boot(m, d, rng)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	d.Disks, d.image = nil, content.Digest{}
	if ok {
		d.give(image, m)
	}
	f.set(d, m, placement.DomainRunning, rng)
}

// happen does one thing to a domain that is somewhere; f.mu is held.
func (f *fleet) happen(d *vm, rng *rand.Rand) {
	machines := f.w.machines
	switch {
	case d.to != nil && rng.IntN(3) == 0: // the migration fails
		f.w.did("%s does not get to %s", d.Name, d.to.name)
		f.unset(d, d.to, rng)
		d.to = nil
		f.set(d, d.at, placement.DomainRunning, rng)
	case d.to != nil:
		f.arrive(d, rng)
	case rng.IntN(4) == 0:
		f.w.did("%s ends on %s", d.Name, d.at.name)
		f.unset(d, d.at, rng)
		d.at = nil
	case rng.IntN(3) == 0:
		f.retag(d)
	case rng.IntN(3) == 0:
		state := placement.DomainPaused
		if d.State == state {
			state = placement.DomainRunning
		}
		f.set(d, d.at, state, rng)
	case rng.IntN(2) == 0 && d.State == placement.DomainRunning:
		d.to = machines[(d.at.n+1+rng.IntN(len(machines)-1))%len(machines)]
		f.w.did("%s goes to %s", d.Name, d.to.name)
		f.show(d, d.to, placement.DomainMigrating, rng)
	default:
		f.set(d, d.at, placement.DomainCrashed, rng)
		f.unset(d, d.at, rng)
		d.at = nil
	}
}

// retag gives a domain its tag, or takes it away. The daemon is told of that at once.
func (f *fleet) retag(d *vm) {
	if d.Tags == nil {
		d.Tags = []string{tagWeb}
	} else {
		d.Tags = nil
	}
	f.w.did("the tags of %s on %s are %v", d.Name, d.at.name, d.Tags)
	seen := d.Domain
	d.at.vms.put(seen)
	d.at.vms.event()
}

// arrive ends a migration: the last pages go, it runs there, and is gone here.
func (f *fleet) arrive(d *vm, rng *rand.Rand) {
	from := d.at
	f.show(d, from, placement.DomainMigrating, rng)
	f.set(d, d.to, placement.DomainRunning, rng)
	d.to = nil
	f.unset(d, from, rng)
}

// set makes a machine the one where a domain is.
func (f *fleet) set(d *vm, m *machine, state placement.DomainState, rng *rand.Rand) {
	d.at, d.State = m, state
	f.w.did("%s is %s on %s", d.Name, state, m.name)
	f.show(d, m, state, rng)
}

// show makes a machine's libvirt see a domain.
func (f *fleet) show(d *vm, m *machine, state placement.DomainState, rng *rand.Rand) {
	seen := d.Domain
	seen.State = state
	m.vms.put(seen)
	f.tell(m, rng)
}

func (f *fleet) unset(d *vm, m *machine, rng *rand.Rand) {
	m.vms.drop(d.UUID)
	f.tell(m, rng)
}

// tell sends the event of a change: mostly at once, or late, twice, or not at all.
func (f *fleet) tell(m *machine, rng *rand.Rand) {
	switch rng.IntN(10) {
	case 0:
	case 1:
		time.AfterFunc(time.Duration(rng.Int64N(int64(2*time.Second))), m.vms.event)
	case 2:
		m.vms.event()
		m.vms.event()
	default:
		m.vms.event()
	}
}

// powerOff ends all that runs on a machine.
func (f *fleet) powerOff(m *machine) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, d := range f.vms {
		m.vms.drop(d.UUID)
		switch m {
		case d.to: // the source goes on
			d.to = nil
		case d.at:
			if d.at = nil; d.to != nil { // what had begun to arrive ends with its source
				d.to.vms.drop(d.UUID)
				d.to.vms.event()
				d.to = nil
			}
		}
	}
}

// misplaced says which domain a settled catalogue has otherwise than it is, "" if none.
func (f *fleet) misplaced(s *placement.State) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, d := range f.vms {
		v, known := s.Domain(d.UUID)
		if d.at == nil {
			if known {
				return fmt.Sprintf("%s %s on %s, and it is nowhere", d.Name, v.State, v.Host)
			}
			continue
		}
		h, _ := s.Host(v.Host)
		if !known || h.Name != d.at.name || v.State != d.State || !slices.Equal(v.Tags, d.Tags) || v.Split || len(v.Others) > 0 {
			return fmt.Sprintf("%s %s on %q (split: %v, others: %d), and it is %s on %s", d.Name, v.State, h.Name, v.Split, len(v.Others), d.State, d.at.name)
		}
	}
	return ""
}

// heard notes what somebody was told of a domain, which must be what everybody is told of that index.
func (f *fleet) heard(by string, g *v1.Guest, index uint64, gone bool) {
	text := fmt.Sprintf("%v on %s, gone: %v", g.GetState(), g.GetHostId(), gone)
	key := saying{g.GetUuid(), index}
	f.mu.Lock()
	before, known := f.said[key]
	f.said[key] = text
	f.mu.Unlock()
	if known && before != text {
		f.w.violation("%s was %s at index %d, and by %s %s", g.GetName(), before, index, by, text)
	}
}

// watch follows the domains at a daemon as long as it lives. Each change must come once, in order.
func (f *fleet) watch(m *machine, h *hostd.Host, life context.Context) {
	defer m.calls.Done()
	last := map[string]uint64{}
	h.API().WatchGuests(life, &v1.WatchGuestsRequest{}, func(e *v1.GuestEvent) error { // it ends with the daemon
		if life.Err() != nil || e.GetGuest() == nil {
			return nil
		}
		if e.GetReset_() {
			clear(last)
		}
		g := e.GetGuest()
		index := e.GetIndex()
		if e.GetInitial() {
			index = g.GetIndex()
		}
		if index <= last[g.GetUuid()] {
			f.w.violation("a watcher at %s heard of %s at index %d after %d", m.name, g.GetName(), index, last[g.GetUuid()])
		}
		last[g.GetUuid()] = index
		f.heard("a watcher at "+m.name, g, index, e.GetGone())
		return nil
	})
}

// read lists the domains at one host after the other. Answers that are not said to be stale are linearizable: none is
// older than one that was given before it was asked for.
func (f *fleet) read(rng *rand.Rand, over <-chan struct{}) {
	for {
		think := time.NewTimer(time.Duration(rng.Int64N(int64(domainThink))))
		select {
		case <-over:
			think.Stop()
			return
		case <-think.C:
		}
		m := f.w.machines[rng.IntN(len(f.w.machines))]
		m.call(func(ctx context.Context, h *hostd.Host) error {
			ctx, cancel := context.WithTimeout(ctx, callTimeout)
			defer cancel()
			asked := f.claims.tick()
			r, err := h.API().Guests(ctx, &v1.GuestsRequest{})
			if err != nil || r.GetStaleness().GetStale() || ctx.Err() != nil {
				return err
			}
			if index := r.GetStaleness().GetIndex(); index < f.newest {
				f.w.violation("%s answered with index %d after one with %d", m.name, index, f.newest)
			} else {
				f.newest = index
			}
			f.claims.read(asked, r.GetGuests())
			seen := []string{}
			for _, g := range r.GetGuests() {
				if slices.Contains(seen, g.GetUuid()) {
					f.w.violation("%s is listed twice by %s", g.GetName(), m.name)
				}
				seen = append(seen, g.GetUuid())
				f.heard(m.name, g, g.GetIndex(), false)
			}
			return nil
		})
	}
}
