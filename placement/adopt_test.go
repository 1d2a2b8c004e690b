package placement

import (
	"slices"
	"testing"

	"github.com/virtswarm/virtswarm/internal/content"
)

// adopting is an Adopt of content n, published at a time by a host.
func adopting(name string, n int, at int64, publisher int, rank Rank) Command {
	c := &Adopt{Publish: *publishing(name, n, 1, 2, publisher).Publish, Rank: rank}
	c.At = at
	return Command{Adopt: c}
}

// order is the contents of a name's versions, oldest first.
func (w *world) order(name string) (list []content.Digest) {
	f, _ := w.File(name)
	for _, v := range f.Versions {
		list = append(list, v.ID)
	}
	return list
}

func (w *world) wantOrder(t *testing.T, name string, contents ...int) {
	t.Helper()
	var want []content.Digest
	for _, n := range contents {
		want = append(want, digest(n))
	}
	if got := w.order(name); !slices.Equal(got, want) {
		t.Errorf("%s has versions %v, want %v", name, got, want)
	}
}

// TestAdoptsUnderItsName: nobody becomes a holder, and the publisher may be unknown.
func TestAdoptsUnderItsName(t *testing.T) {
	w := newWorld(t, 2)
	c := adopting("a", 1, 50, 99, RankCareful)
	w.do(t, c)
	w.again(t, c)
	v, err := w.Lookup("a", digest(1))
	if err != nil || v.Publisher != hostID(99) || v.At != 50 || v.Replicas != 2 || v.Guests != "none" || v.Index != w.next-1 {
		t.Errorf("%+v, %v", v, err)
	}
	if h := w.Holders(digest(1)); len(h) != 0 {
		t.Errorf("held by %v", h)
	}
	w.do(t, Command{Report: &Report{Host: hostID(2), Holdings: []Holding{{digest(1), AllShards()}}}})
	if !w.Held(hostID(2), digest(1)).All() {
		t.Error("what a host holds of it cannot be reported")
	}
	w.refuse(t, adopting("a", 2, 1, 1, "odd"), ErrBadCommand)
	conflict := adopting("b", 1, 1, 1, RankCareful)
	conflict.Adopt.Size++
	conflict.Adopt.Shards++
	w.refuse(t, conflict, ErrContentConflict)
}

// TestAdoptedVersionsKeepTheirOrder, in whichever order they are entered.
func TestAdoptedVersionsKeepTheirOrder(t *testing.T) {
	for _, rank := range []Rank{RankCareful, RankOlder, RankByTime} {
		for _, order := range [][]int{{1, 2, 3}, {3, 2, 1}, {2, 3, 1}} {
			w := newWorld(t, 2)
			for _, n := range order {
				w.do(t, adopting("a", n, int64(n), 99, rank))
			}
			w.wantOrder(t, "a", 1, 2, 3)
		}
	}
}

// TestAdoptingHidesNothing: what was published in this cluster stays the newest.
func TestAdoptingHidesNothing(t *testing.T) {
	w := newWorld(t, 2)
	w.do(t, publishing("a", 1, 1, 1, 1)) // at 100
	w.do(t, adopting("a", 2, 50, 99, RankCareful))
	w.wantOrder(t, "a", 2, 1)
	w.refuse(t, adopting("a", 3, 200, 99, RankCareful), ErrHides)
	if _, err := w.Admits(*adopting("a", 3, 200, 99, RankCareful).Adopt); !isErr(err, ErrHides) {
		t.Errorf("admits: %v", err)
	}
	older := adopting("a", 3, 200, 99, RankOlder)
	w.do(t, older)
	w.again(t, older)
	w.wantOrder(t, "a", 2, 3, 1)
	w.do(t, adopting("a", 4, 300, 99, RankByTime))
	w.wantOrder(t, "a", 2, 3, 1, 4)
	// A removed host published here as well.
	w.do(t, publishing("b", 1, 1, 1, 2))
	w.do(t, Command{RemoveHost: &RemoveHost{ID: hostID(2)}})
	w.refuse(t, adopting("b", 3, 200, 99, RankCareful), ErrHides)
}

// TestAdoptsAContentThatCameBack: a name may have had a content, another one, and the first again.
func TestAdoptsAContentThatCameBack(t *testing.T) {
	w := newWorld(t, 1)
	first, second, third := adopting("a", 1, 1, 99, RankByTime), adopting("a", 2, 2, 99, RankByTime), adopting("a", 1, 3, 99, RankByTime)
	for _, c := range []Command{first, second, third} {
		w.do(t, c)
	}
	w.wantOrder(t, "a", 1, 2, 1)
	for _, c := range []Command{first, second, third} {
		w.again(t, c)
	}
}
