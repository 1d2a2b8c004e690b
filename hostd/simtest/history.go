package simtest

import (
	"fmt"
	"slices"
	"time"

	"github.com/virtswarm/virtswarm/internal/api"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// Kinds of operations.
const (
	opPublish    = "publish"
	opRemove     = "rm"
	opList       = "ls"
	opPull       = "pull"
	opDistribute = "distribute"
	opUnpin      = "unpin"
)

// operation is a call of a client, as the client saw it.
type operation struct {
	client   int
	host     string
	kind     string
	name     string
	id       string // of the version, as far as it is known
	seen     map[string]listed
	call     time.Duration
	back     time.Duration
	order    [2]int // of call and return among all of them, as many happen at one virtual time
	returned bool
	result   outcome
	copies   int // that a publication was said to have
	why      string
}

// listed is what a list says of a name.
type listed struct {
	id       string
	versions int
}

// outcome is how an operation ended.
type outcome int

const (
	unknown  outcome = iota // it may have taken effect, or still will
	done                    // it has taken effect
	notFound                // it found nothing
)

// history is all operations, in the order of their calls.
type history struct {
	ops   []*operation
	order int
	acked map[string]int // copies that were promised, by version
}

// began notes a call.
func (w *world) began(client int, m *machine, kind, name string) *operation {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := &w.history
	h.order++
	op := &operation{client: client, host: m.name, kind: kind, name: name, call: w.now(), order: [2]int{h.order, 0}}
	h.ops = append(h.ops, op)
	return op
}

// published notes what a publication said while it went on: it is in the catalogue from the first word on.
func (w *world) published(op *operation, m *machine, id string, copies int, replicated bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := &w.history
	op.id, op.result = id, done
	if op.order[1] == 0 {
		h.order++
		op.back, op.order[1] = w.now(), h.order
	}
	if replicated {
		op.copies = copies
		if h.acked == nil {
			h.acked = map[string]int{}
		}
		h.acked[id] = max(h.acked[id], copies)
		if w.doom != nil && op.copies > 1 && w.sound() && m.busy.TryLock() {
			m.strike()
			w.doom <- m
			w.doom = nil
		}
	}
}

// ended notes a return. The word of a daemon that died meanwhile counts for nothing.
func (w *world) ended(op *operation, alive bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := &w.history
	op.returned = true
	switch {
	case !alive:
		op.why = "the host died"
	case err != nil:
		op.why = reasonOf(err)
	}
	if op.result == done {
		return
	}
	h.order++
	op.back, op.order[1] = w.now(), h.order
	switch {
	case !alive:
	case err == nil:
		op.result = done
	case op.kind == opRemove && api.AsError(err).Reason == reason.NotFound:
		op.result = notFound
	}
}

// promised returns how many copies of a version were said to be there.
func (w *world) promised(id string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.history.acked[id]
}

// lines prints the operations.
func (h *history) lines() []string {
	var lines []string
	for _, op := range h.ops {
		text := fmt.Sprintf("%8.3fs to %8.3fs  client %d at %s: %s %s", op.call.Seconds(), op.back.Seconds(), op.client, op.host, op.kind, op.name)
		if op.id != "" {
			text += fmt.Sprintf(" %.12s", op.id)
		}
		if op.kind == opList {
			names := []string{}
			for name, l := range op.seen {
				names = append(names, fmt.Sprintf("%s=%.12s (%d)", name, l.id, l.versions))
			}
			slices.Sort(names)
			text += fmt.Sprint(names)
		}
		text += ": " + [...]string{"unknown", "done", "not found"}[op.result]
		if op.copies > 0 {
			text += fmt.Sprintf(", %d copies", op.copies)
		}
		if op.why != "" {
			text += ", " + op.why
		}
		lines = append(lines, text)
	}
	return lines
}
