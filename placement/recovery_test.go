package placement

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
)

func recovery(n int, index uint64) Recovery {
	return Recovery{ID: fmt.Sprintf("%032x", n), Term: 3, Index: index, By: hostID(1), At: 100}
}

// A recovery removes hosts with all that they held, and is remembered over a snapshot.
func TestRecover(t *testing.T) {
	w := newWorld(t, 4)
	id := digest(1)
	w.do(t, publishing("f", 1, 1, 2, 1))
	w.do(t, Command{Report: &Report{Host: hostID(3), Holdings: []Holding{{ID: id, Shards: AllShards()}}}})
	end := w.Applied()
	if w.Lineage() != "" || len(w.Recoveries()) != 0 {
		t.Fatalf("lineage %q before any recovery", w.Lineage())
	}
	r := recovery(1, end)
	if err := w.Recover(end+1, r, []HostID{hostID(3), hostID(4)}); err != nil {
		t.Fatal(err)
	}
	if got := w.Recoveries(); len(got) != 1 || got[0] != r || w.Lineage() != r.ID || w.Applied() != end+1 {
		t.Fatalf("recoveries %+v, lineage %q, applied %d", got, w.Lineage(), w.Applied())
	}
	for n := 1; n <= 4; n++ {
		if _, in := w.Host(hostID(n)); in != (n <= 2) || w.WasRemoved(hostID(n)) != (n > 2) {
			t.Errorf("host %d: a member %v", n, in)
		}
		if left := w.LeftOut(hostID(n)); left != (n > 2) {
			t.Errorf("host %d was left out: %v", n, left)
		}
	}
	if !w.Held(hostID(3), id).Empty() || !w.Held(hostID(1), id).Has(0) {
		t.Error("what the lost host held counts, or what a survivor holds does not")
	}
	var text bytes.Buffer
	if _, err := w.Freeze().WriteTo(&text); err != nil {
		t.Fatal(err)
	}
	again, err := Restore(&text)
	if err != nil || !slices.Equal(again.Recoveries(), w.Recoveries()) {
		t.Fatalf("restored recoveries %+v, %v", again.Recoveries(), err)
	}
	if err := again.Recover(end+9, recovery(2, end+8), []HostID{hostID(2)}); err != nil || again.Lineage() != recovery(2, 1).ID {
		t.Fatalf("the second recovery: %v, lineage %q", err, again.Lineage())
	}
}

// A recovery that cannot be is refused, and changes nothing.
func TestRecoverRefuses(t *testing.T) {
	w := newWorld(t, 2)
	end := w.Applied()
	for what, c := range map[string]struct {
		index  uint64
		r      Recovery
		remove []HostID
		err    error
	}{
		"an index of the past":      {end, recovery(1, end), nil, ErrBadCommand},
		"from before the catalogue": {end + 1, recovery(1, end-1), nil, ErrBadCommand},
		"no id":                     {end + 1, Recovery{Index: end, By: hostID(1)}, nil, ErrBadCommand},
		"a stranger gone":           {end + 1, recovery(1, end), []HostID{hostID(9)}, ErrNoHost},
		"by one who is gone":        {end + 1, recovery(1, end), []HostID{hostID(1)}, ErrNoHost},
		"by a stranger":             {end + 1, Recovery{ID: recovery(1, 1).ID, Index: end, By: hostID(9)}, nil, ErrNoHost},
	} {
		if err := w.Recover(c.index, c.r, c.remove); !errors.Is(err, c.err) {
			t.Errorf("%s: %v, want %v", what, err, c.err)
		}
		if w.Applied() != end || len(w.Recoveries()) != 0 || len(w.Hosts()) != 2 {
			t.Fatalf("%s: something changed", what)
		}
	}
	for n := range MaxRecoveries {
		if err := w.Recover(w.Applied()+1, recovery(n+1, w.Applied()), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Recover(w.Applied()+1, recovery(999, w.Applied()), nil); !errors.Is(err, ErrTooMany) {
		t.Errorf("one recovery too many: %v", err)
	}
}

func TestAhead(t *testing.T) {
	r := Recovery{Term: 4, Index: 10}
	for _, c := range []struct {
		term, index uint64
		ahead       bool
	}{{4, 10, false}, {4, 11, true}, {4, 9, false}, {5, 9, true}, {3, 99, false}} {
		if got := r.Ahead(c.term, c.index); got != c.ahead {
			t.Errorf("a log that ends with entry %d of term %d is ahead: %v", c.index, c.term, got)
		}
	}
}

// A start of a host's daemon that is older than one the catalogue knows is refused.
func TestLivesAscend(t *testing.T) {
	w := newWorld(t, 2)
	life := func(n uint64) Command { return Command{UpdateHost: &UpdateHost{ID: hostID(2), Life: n}} }
	w.do(t, life(7))
	w.do(t, life(7))
	w.do(t, Command{UpdateHost: &UpdateHost{ID: hostID(2), Addr: "elsewhere:1"}})
	w.refuse(t, life(6), ErrLaterLife)
	w.do(t, life(8))
	if h, _ := w.Host(hostID(2)); h.Life != 8 {
		t.Errorf("life %d", h.Life)
	}
}
