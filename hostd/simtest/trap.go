package simtest

import (
	"sync"

	"github.com/virtswarm/virtswarm/internal/disk/disktest"
)

// trap kills a machine in the middle of what it writes.
type trap struct {
	mu     sync.Mutex
	left   int           // changes of the disk until the machine dies, 0: it does not
	sprung chan struct{} // closed when it dies
}

// set returns the hook of the disk of a machine that starts.
func (t *trap) set() func(disktest.Op) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.left, t.sprung = 0, make(chan struct{})
	return t.op
}

func (t *trap) op(op disktest.Op) error {
	if op.N == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.left > 0 {
		if t.left--; t.left == 0 {
			close(t.sprung)
			return disktest.ErrKilled
		}
	}
	return nil
}

// arm has the n-th change from now be the machine's last. The channel is closed then.
func (t *trap) arm(n int) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.left = n
	return t.sprung
}

// disarm spares the machine, if it is still alive.
func (t *trap) disarm() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.left = 0
}

// room is how full a machine's disk is made.
type room struct {
	mu   sync.Mutex
	full bool // now
	was  bool // since the machine was started
}

// fill leaves no page free on the machine's disk, or all that it has.
func (m *machine) fill(full bool) {
	m.room.mu.Lock()
	defer m.room.mu.Unlock()
	m.room.full, m.room.was = full, m.room.was || full
	m.limit(full)
}

func (m *machine) limit(full bool) {
	m.files.SetLimit(0)
	if free, total, err := m.files.Space("/"); err == nil && full {
		m.files.SetLimit(total - free)
	}
}

// wasFull says whether the disk was full since the machine was started.
func (m *machine) wasFull() bool {
	m.room.mu.Lock()
	defer m.room.mu.Unlock()
	return m.room.was
}
