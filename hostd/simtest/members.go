package simtest

import (
	"context"
	"time"

	"github.com/virtswarm/virtswarm/hostd"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/placement"
)

const (
	// drainTimeout bounds a drain, which other faults may hold up.
	drainTimeout = 30 * time.Second
	// copiesTimeout bounds the wait for the copies of what was on a disk, before the next one is destroyed.
	copiesTimeout = 30 * time.Second
)

// condemn waits for a machine that acknowledges a publication, which dies at that moment, when the others may have
// nothing of it yet but what they promised. It may be nobody.
func (w *world) condemn() *machine {
	doom := make(chan *machine, 1)
	w.mu.Lock()
	w.doom = doom
	w.mu.Unlock()
	var m *machine
	select {
	case m = <-doom:
	case <-time.After(5 * time.Second):
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case m != nil:
	case w.doom == nil: // in this very moment
		m = <-doom
	default: // nobody, and nobody will
		w.doom = nil
		w.flaws = map[string]bool{}
		return nil
	}
	w.flaws = map[string]bool{m.name: true}
	return m
}

// loseDisks destroys one machine's disk after another: the next one once that machine is back as a new host, and all
// copies are there again. It may be one only.
func (w *world) loseDisks(s step, _ *machine) func() {
	if !w.members.TryLock() {
		return nil
	}
	m := w.loseDisk()
	if m == nil {
		w.members.Unlock()
		return nil
	}
	return func() {
		defer w.members.Unlock()
		for range s.n % 3 {
			back := w.replace(m) && w.copied(m)
			m.busy.Unlock()
			if !back {
				return
			}
			if m = w.loseDisk(); m == nil {
				return
			}
			w.count("another disk was lost")
			time.Sleep(s.lasts)
		}
		w.replace(m)
		m.busy.Unlock()
	}
}

// loseDisk destroys a machine's disk with all that is on it, if the cluster can do without. The machine's busy is held
// then.
func (w *world) loseDisk() *machine {
	if !w.sound() || !w.flawed("") {
		return nil
	}
	m := w.condemn()
	if m == nil {
		return nil
	}
	w.did("destroy %s with its disk", m.name)
	m.powerOff()
	m.discard()
	return m
}

// replace takes the host that a machine was out of the cluster, and lets it join as a new one.
func (w *world) replace(m *machine) bool {
	if !w.remove(m) {
		return false
	}
	w.join(m)
	w.enfranchise()
	return m.running()
}

// copied waits until all contents have their copies again, after the disk of a machine was lost, and says whether they
// have: then another disk may be lost. What was lost for good with that disk, and may be, is remembered.
func (w *world) copied(m *machine) bool {
	for begin := time.Now(); time.Since(begin) < copiesTimeout; time.Sleep(500 * time.Millisecond) {
		whole := false
		var lost []placement.Content
		m.call(func(ctx context.Context, h *hostd.Host) error {
			ctx, cancel := context.WithTimeout(ctx, callTimeout)
			defer cancel()
			r, err := h.API().Hosts(ctx, &v1.HostsRequest{})
			if err != nil || r.GetStaleness().GetStale() {
				return err
			}
			h.Catalogue(func(s *placement.State) {
				whole = true
				for _, id := range s.ChangedSince(0).Contents {
					r, _ := s.Replication(id)
					if c, known := s.Content(id); known && r.Lost > 0 && w.mayBeLost(id) {
						lost = append(lost, c)
					} else if !r.OK() {
						whole = false
					}
				}
			})
			return nil
		})
		if !whole {
			continue
		}
		w.mu.Lock()
		for _, c := range lost {
			w.excused[c.ID] = true
		}
		w.flaws = map[string]bool{}
		w.mu.Unlock()
		w.did("all copies are there again")
		return true
	}
	return false
}

// drain moves what a machine holds off it; once that is said to be done, its disk is destroyed: nothing may be missed.
// It takes the machine that holds a content alone, rather than the one that it was given.
func (w *world) drain(s step, m *machine) func() {
	if !w.members.TryLock() {
		return nil
	}
	done := w.members.Unlock
	if keeper := w.soleKeeper(m); keeper != nil && keeper != m && keeper.busy.TryLock() {
		m = keeper
		done = func() { w.members.Unlock(); keeper.busy.Unlock() }
	}
	if !m.running() || len(w.up()) < 3 {
		done()
		return nil
	}
	via := m
	if s.n%2 == 0 {
		via = w.pair(s, m)
	}
	w.did("drain %s by %s", m.name, via.name)
	drained := false
	alive, err := via.call(func(ctx context.Context, h *hostd.Host) error {
		ctx, cancel := context.WithTimeout(ctx, drainTimeout)
		defer cancel()
		return h.API().Drain(ctx, &v1.DrainRequest{Host: m.name, Wait: true}, func(p *v1.DrainProgress) error {
			drained = drained || p.GetDone()
			return nil
		})
	})
	if !alive || err != nil || !drained {
		w.did("%s is not drained: %v", m.name, err)
		return func() {
			defer done()
			w.undrain(m)
		}
	}
	w.did("%s is drained: destroy it with its disk", m.name)
	w.count("a drained host was destroyed")
	m.powerOff()
	m.discard()
	return func() {
		defer done()
		w.replace(m)
	}
}

// soleKeeper returns a machine that has the only copy of a content, by the catalogue of a machine; nil if none has.
func (w *world) soleKeeper(at *machine) (keeper *machine) {
	at.call(func(_ context.Context, h *hostd.Host) error {
		h.Catalogue(func(s *placement.State) {
			for _, id := range s.ChangedSince(0).Contents {
				holders := s.Holders(id)
				if len(holders) != 1 {
					continue
				}
				for _, m := range w.machines {
					if host, known := s.Host(holders[0].Host); known && host.Name == m.name {
						keeper = m
					}
				}
			}
		})
		return nil
	})
	return keeper
}

// undrain takes a drain back, if it was ordered.
func (w *world) undrain(m *machine) {
	var err error
	for begin := time.Now(); time.Since(begin) < healTimeout; time.Sleep(time.Second) {
		for _, via := range w.up() {
			var state placement.HostState
			_, err = via.call(func(ctx context.Context, h *hostd.Host) error {
				ctx, cancel := context.WithTimeout(ctx, callTimeout)
				defer cancel()
				r, err := h.API().Hosts(ctx, &v1.HostsRequest{})
				if err != nil {
					return err
				}
				if r.GetStaleness().GetStale() {
					return errStale
				}
				h.Catalogue(func(s *placement.State) {
					host, _ := s.Host(m.id)
					state = host.State
				})
				if state == placement.Leaving {
					_, err = h.API().Undrain(ctx, &v1.UndrainRequest{Host: m.name})
				}
				return err
			})
			if err == nil {
				return
			}
		}
	}
	w.violation("the drain of host %s cannot be taken back: %v", m.name, err)
}

// banish takes a host out of the cluster that runs, and goes on for a while. Nobody may have anything to do with it from
// then on: see checkGhosts.
func (w *world) banish(s step, m *machine) func() {
	if !m.running() || !w.members.TryLock() {
		return nil
	}
	if !w.sound() || !w.flawed(m.name) { // its copies are lost
		w.members.Unlock()
		return nil
	}
	w.did("%s is to be removed, and runs", m.name)
	g := w.newGhost(m, w.pair(s, m))
	m.shunned.Store(true)
	removed := w.remove(m)
	return func() {
		defer w.members.Unlock()
		defer m.shunned.Store(false)
		m.kill()
		if !removed {
			return
		}
		if g != nil {
			w.ghosts = append(w.ghosts, g)
		}
		m.discard()
		w.join(m)
		w.enfranchise()
		w.copied(m)
	}
}

func (w *world) leaveAndJoin(s step, m *machine) func() {
	if !m.running() || len(w.up()) < 3 || !w.members.TryLock() {
		return nil
	}
	w.did("%s leaves", m.name)
	left := m.resign()
	if left {
		m.discard()
	} else {
		w.did("nobody knows whether %s has left", m.name)
	}
	return func() {
		defer w.members.Unlock()
		if !left && !w.out(m) {
			return
		}
		w.join(m)
		w.enfranchise()
	}
}
