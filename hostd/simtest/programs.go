package simtest

import (
	"time"

	"github.com/virtswarm/virtswarm/placement"
)

// setClock sets a machine's wall clock, which timers do not go by, and has the daemon start with it in every other case.
func (w *world) setClock(s step, m *machine) func() {
	by := []time.Duration{-2 * time.Hour, -3 * time.Second, 3 * time.Second, 2 * time.Hour, 400 * 24 * time.Hour}[s.n%5]
	set := func(by time.Duration, startAgain bool) {
		w.did("the clock of %s is %s ahead, and it starts with that: %v", m.name, by, startAgain)
		m.skew.Store(int64(by))
		if startAgain && m.running() {
			m.kill()
			m.restart()
		}
	}
	set(by, s.n/5%2 == 0)
	return func() { set(0, s.n/10%2 == 0) }
}

// upgradeOne upgrades the program of a machine.
func (w *world) upgradeOne(s step, m *machine) func() {
	if m.can == placement.Newest {
		return nil
	}
	m.upgrade()
	return w.again(m)
}

// upgrade stops a daemon whose program is old and puts the new one in its place.
func (m *machine) upgrade() {
	if m.can == placement.Newest {
		return
	}
	m.w.did("upgrade %s", m.name)
	m.shutDown()
	m.can = placement.Newest
}
