package simtest

import (
	"slices"
	"strings"
	"sync"

	"github.com/virtswarm/virtswarm/internal/disk"
)

// trap decides about each operation of a disk: whether it is full, and whether the machine dies of it.
type trap struct {
	mu     sync.Mutex
	full   bool
	was    bool          // full, since the machine was started
	left   int           // changes until the machine dies, 0: it does not
	sprung chan struct{} // closed when it dies
}

// grows are the operations that a full disk refuses; it spares the vote, as hashicorp/raft panics where it cannot save it.
var grows = []string{"create", "write", "mkdir", "link"}

// set returns the hook of the disk of a machine that starts.
func (t *trap) set() func(disk.Op) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.was, t.left, t.sprung = t.full, 0, make(chan struct{})
	return t.op
}

// wasFull says whether the disk was full since the machine was started.
func (t *trap) wasFull() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.was
}

func (t *trap) op(op disk.Op) error {
	if op.N == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.left > 0 {
		if t.left--; t.left == 0 {
			close(t.sprung)
			return disk.ErrKilled
		}
	}
	if t.full && slices.Contains(grows, op.Name) && !strings.Contains(op.Path, vote) {
		return disk.NoSpace()
	}
	return nil
}

// fill makes the disk full, or not.
func (t *trap) fill(full bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.full, t.was = full, t.was || full
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
