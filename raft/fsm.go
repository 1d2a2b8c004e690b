package raft

import (
	"fmt"
	"io"
	"sync"

	hraft "github.com/hashicorp/raft"

	"github.com/virtswarm/virtswarm/placement"
)

// machine is the catalogue as hashicorp/raft drives it: raft.FSM. It owns the state and its lock.
type machine struct {
	mu      sync.RWMutex
	state   *placement.State
	changed chan struct{} // closed and replaced at every change
	stuck   error         // set when an entry could not be understood; the state stands still from there on
	can     int           // the highest cluster version that this host understands

	// committed is told the index of every entry that arrives, as those are committed; failed is told of stuck.
	committed func(index uint64)
	failed    func(error)
	// restored is told the lineage of a catalogue that has replaced one of another; installed, that a snapshot has come
	// from the leader.
	restored  func(lineage string)
	installed func()
}

func newMachine() *machine {
	return &machine{
		state: placement.New(), changed: make(chan struct{}), can: placement.Newest,
		committed: func(uint64) {}, failed: func(error) {}, restored: func(string) {}, installed: func() {},
	}
}

// outcome is what Apply gives to whoever proposed the entry here.
type outcome struct {
	result placement.Result
	err    error
}

// Apply implements raft.FSM. Entries that Open replayed already are skipped.
func (m *machine) Apply(l *hraft.Log) any {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.committed(l.Index)
	if m.stuck != nil {
		return outcome{err: m.stuck}
	}
	if l.Index <= m.state.Applied() {
		return outcome{result: placement.Result{Index: l.Index}}
	}
	c, err := placement.DecodeCommand(l.Data)
	if err == nil && c.Needs() > m.can {
		err = fmt.Errorf("it needs cluster version %d, and this host can %d: %w", c.Needs(), m.can, placement.ErrNewer)
	}
	if err != nil {
		m.stuck = fmt.Errorf("%w: entry %d of the Raft log: %w", ErrStuck, l.Index, err)
		m.failed(m.stuck)
		return outcome{err: m.stuck}
	}
	result, err := m.state.Apply(l.Index, c)
	m.notify()
	return outcome{result, err}
}

// notify wakes those who wait for a change; the caller holds the lock.
func (m *machine) notify() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// Snapshot implements raft.FSM.
func (m *machine) Snapshot() (hraft.FSMSnapshot, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.stuck != nil {
		return nil, m.stuck // or entries that were not applied would be taken for part of it and deleted
	}
	return picture{m.state.Freeze()}, nil
}

// Restore implements raft.FSM. A snapshot of the leader's that is older than this host's state, as one may be that was
// resent, does not take the state back: the entries in between come again, and are skipped.
func (m *machine) Restore(r io.ReadCloser) error {
	state, err := placement.Restore(r)
	if err != nil {
		return err
	}
	if state.Version() > m.can {
		return fmt.Errorf("the snapshot has cluster version %d, and this host can %d: %w", state.Version(), m.can, placement.ErrNewer)
	}
	m.mu.Lock()
	before := m.state.Lineage()
	if state.Lineage() != before || state.Applied() >= m.state.Applied() {
		m.state = state
		m.notify()
	}
	m.mu.Unlock()
	m.installed()
	if lineage := state.Lineage(); lineage != before {
		m.restored(lineage)
	}
	return nil
}

// view runs f while the state does not change.
func (m *machine) view(f func(*placement.State)) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	f(m.state)
}

// wait returns the index applied and the channel that is closed at the next change.
func (m *machine) wait() (uint64, <-chan struct{}) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.state.Applied(), m.changed
}

// picture is a frozen catalogue: raft.FSMSnapshot.
type picture struct{ frozen *placement.Frozen }

func (p picture) Persist(sink hraft.SnapshotSink) error {
	if _, err := p.frozen.WriteTo(sink); err != nil {
		_ = sink.Cancel()
		return err
	}
	return sink.Close()
}

func (p picture) Release() {}
