package simtest

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/anishathalye/porcupine"
)

// What hosts say of a domain is one register a machine: it holds the newest fact of the domain that its host has told
// of. A report sets it to a newer fact than it holds, and one that is late does nothing; a host that leaves empties its
// own. A read shows all registers of the domain at one moment: which are empty, and the fact in that of the host which
// has the domain. Which of several that is, is placement's rule, and tested there.

// seats bounds the machines.
const seats = 8

// registers are what each machine's host has said of one domain: the number of a fact, negative if the domain is gone,
// 0 if nothing.
type registers [seats]int64

// said is an operation of a host on its register: it tells of a fact, or leaves. Of nobody it is a read.
type said struct {
	machine int // nobody: -1
	fact    int64
	leaves  bool
}

// saw is what a read has shown. at is nobody if there is no such domain.
type saw struct {
	at     int
	fact   int64
	claims [seats]bool // who claims it, at included
}

const nobody = -1

var placed = porcupine.Model{
	Init: func() any { return registers{} },
	Step: func(state, in, out any) (bool, any) {
		r, i := state.(registers), in.(said)
		switch {
		case i.machine == nobody:
			o := out.(saw)
			for m, number := range r {
				if o.claims[m] != (number > 0) {
					return false, state
				}
			}
			return o.at == nobody || r[o.at] == o.fact, state
		case i.leaves:
			r[i.machine] = 0
		case abs(i.fact) > abs(r[i.machine]):
			r[i.machine] = i.fact
		}
		return true, r
	},
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v -> %+v", in, out) },
}

func abs(n int64) int64 { return max(n, -n) }

// checkClaims looks whether there is an order of all reports and reads that explains what was shown of each domain. It
// is called outside of the bubble, as checkNames is.
func (w *world) checkClaims() {
	for _, d := range w.fleet.vms {
		ops, err := w.claimsOf(d.UUID)
		switch {
		case err != nil:
			w.violation("%s: %v", d.Name, err)
		case porcupine.CheckOperationsTimeout(placed, ops, porcupinePatience) == porcupine.Illegal:
			w.violation("no order of the reports explains what was shown of %s%s", d.Name, tell(ops))
		}
	}
}

// tell prints operations in the order of their calls.
func tell(ops []porcupine.Operation) (text string) {
	byCall := func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) }
	for _, op := range slices.SortedFunc(slices.Values(ops), byCall) {
		back := fmt.Sprint(op.Return)
		if op.Return == math.MaxInt64 {
			back = "…"
		}
		text += fmt.Sprintf("\n  %d to %s: %s", op.Call, back, placed.DescribeOperation(op.Input, op.Output))
	}
	return text
}

// claimsOf returns what concerns a domain.
func (w *world) claimsOf(uuid string) (ops []porcupine.Operation, err error) {
	c := w.fleet.claims
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range w.machines {
		ops = append(ops, c.reports(m, uuid)...)
	}
	seat := func(name string) int {
		return slices.IndexFunc(w.machines, func(m *machine) bool { return m.name == name })
	}
	for _, r := range c.reads {
		o := saw{at: nobody}
		if s, known := r.shown[uuid]; known {
			o.at, o.fact = seat(s.host), s.fact
			for _, name := range append(s.others, s.host) {
				i := seat(name)
				if i < 0 {
					return nil, fmt.Errorf("a read shows it on host %q, which there is not", name)
				}
				o.claims[i] = true
			}
		}
		ops = append(ops, porcupine.Operation{Call: r.from, Return: r.to, Input: said{machine: nobody}, Output: o})
	}
	for i := range ops {
		ops[i].ClientId = i
	}
	return ops, nil
}

// reports returns what the hosts that a machine has been one after the other told of a domain, or may have told. The
// caller holds mu.
func (c *claims) reports(m *machine, uuid string) (ops []porcupine.Operation) {
	var lives [][]*span // of one host each
	for _, s := range c.spans {
		switch n := len(lives); {
		case s.m != m || s.id == "":
		case n > 0 && lives[n-1][0].id == s.id:
			lives[n-1] = append(lives[n-1], s)
		default:
			lives = append(lives, []*span{s})
		}
	}
	for i, of := range lives {
		ops = append(ops, c.tellable(of, uuid)...)
		left := slices.IndexFunc(of, func(s *span) bool { return s.left > 0 })
		if left < 0 {
			continue
		}
		op := porcupine.Operation{Call: of[left].left, Return: math.MaxInt64, Input: said{machine: m.n, leaves: true}}
		if i+1 < len(lives) { // its name was free again
			op.Return = lives[i+1][0].served
		}
		ops = append(ops, op)
	}
	return ops
}

// tellable returns what one host told of a domain in its lives, or may have told: what it saw, which of what was before
// a life is only what had come of it. What was not acknowledged may be told at any time.
func (c *claims) tellable(lives []*span, uuid string) (ops []porcupine.Operation) {
	var facts []*fact // in order
	add := func(f *fact, since int64) {
		if f == nil || len(facts) > 0 && facts[len(facts)-1] == f {
			return
		}
		facts = append(facts, f)
		number := f.number
		if f.gone {
			number = -number
		}
		ops = append(ops, porcupine.Operation{Call: since, Return: math.MaxInt64, Input: said{machine: f.m.n, fact: number}})
	}
	for _, s := range lives {
		var before *fact
		for _, f := range c.facts {
			if f.m != s.m || f.uuid != uuid || f.number > s.to {
				continue
			}
			if f.number < s.from {
				before = f
				continue
			}
			add(before, s.from)
			before = nil
			add(f, f.number)
		}
		add(before, s.from)
	}
	acked, last := 0, int64(0)
	for _, a := range c.acks {
		if a.uuid != uuid || !slices.Contains(lives, a.span) {
			continue
		}
		if a.fact == 0 { // which of the times that it was gone is not said: the first that it can be
			i := slices.IndexFunc(facts, func(f *fact) bool { return f.gone && f.number >= last })
			if i < 0 {
				continue
			}
			a.fact = facts[i].number
		}
		last = max(last, a.fact)
		for ; acked < len(facts) && facts[acked].number <= last; acked++ {
			ops[acked].Return = a.at
		}
	}
	return ops
}
