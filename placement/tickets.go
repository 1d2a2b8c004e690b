package placement

import (
	"fmt"
	"slices"
	"sort"

	"github.com/virtswarm/virtswarm/internal/content"
)

// A Ticket tells a command from all others: a host gives each of its commands one, and the same one to a command that
// it sends again as it does not know how it ended. The catalogue carries a ticket out once: whatever happened in
// between, a second time changes nothing and is answered as the first was.
type Ticket struct {
	Host   HostID `json:"host"`   // who asks
	Number uint64 `json:"number"` // grows with every command of the host, over its restarts too; at least 1
}

// MaxTickets is how many tickets of a host are remembered, those with the highest numbers. A command whose ticket is
// lower than all of them is refused, as it may have been carried out: so many others overtook it while it was on its
// way.
const MaxTickets = 256

// settled is a ticket that was used, and how that ended. It does not change.
type settled struct {
	Number  uint64 `json:"number"`
	Index   uint64 `json:"index"` // of the command in the log
	Changed bool   `json:"changed,omitempty"`
	Refused string `json:"refused,omitempty"` // the code of the error
}

// find returns where a ticket is, or would be, among those of its host.
func find(done []settled, number uint64) (int, bool) {
	i := sort.Search(len(done), func(i int) bool { return done[i].Number >= number })
	return i, i < len(done) && done[i].Number == number
}

// recall answers a command that must not be carried out: its ticket was used before, or that cannot be told any more.
func (s *State) recall(c Command) (r Result, answered bool, err error) {
	t := c.Ticket
	if t == nil || s.cluster == "" {
		return r, false, nil
	}
	if s.hosts[t.Host] == nil {
		return r, true, fmt.Errorf("%s of host %q: %w", c.Kind(), t.Host, ErrNoHost)
	}
	done := s.tickets[t.Host]
	i, found := find(done, t.Number)
	switch {
	case found:
		first := done[i]
		r = Result{Index: first.Index, Changed: first.Changed}
		if first.Refused != "" {
			return r, true, fmt.Errorf("%s: %w", c.Kind(), codes[first.Refused])
		}
		if c.Report != nil {
			r.Unknown = s.unknownOf(c.Report)
		}
		return r, true, nil
	case i == 0 && len(done) == MaxTickets:
		return r, true, fmt.Errorf("%s with ticket %d, the lowest that is remembered is %d: %w", c.Kind(), t.Number, done[0].Number, ErrOutcomeUnknown)
	}
	return r, false, nil
}

// record remembers how a command with a ticket ended, at the cost of the lowest ticket if there are too many.
func (s *State) record(t *Ticket, r Result, err error) {
	if t == nil || s.hosts[t.Host] == nil { // a host that has just removed itself asks for nothing more
		return
	}
	code, _ := ErrorCode(err)
	n := settled{Number: t.Number, Index: r.Index, Changed: r.Changed, Refused: code}
	done := s.tickets[t.Host]
	if i, _ := find(done, t.Number); i == len(done) {
		done = append(done, n) // behind what a frozen picture sees
	} else {
		done = slices.Insert(slices.Clone(done), i, n)
	}
	if len(done) > MaxTickets {
		done = done[1:]
	}
	s.tickets[t.Host] = done
}

// unknownOf returns the contents in a report that the catalogue does not know.
func (s *State) unknownOf(c *Report) (unknown []content.Digest) {
	for _, h := range c.Holdings {
		if s.contents[h.ID] == nil {
			unknown = append(unknown, h.ID)
		}
	}
	for _, id := range c.Dropped {
		if s.contents[id] == nil {
			unknown = append(unknown, id)
		}
	}
	return unknown
}

func (t *Ticket) validate() error {
	if t != nil && (!t.Host.Valid() || t.Number == 0) {
		return fmt.Errorf("ticket %d of host %.80q: %w", t.Number, t.Host, ErrBadCommand)
	}
	return nil
}
