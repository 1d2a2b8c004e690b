package hostd

import (
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/internal/content"
)

func TestRecentFetches(t *testing.T) {
	r := newRecent()
	id := func(i int) content.Digest { return content.Sum([]byte{byte(i)}) }
	r.add(finished{id: id(0), took: time.Second}) // nothing came
	r.sawRate(1000)
	r.add(finished{id: id(1), bytes: 2000, took: 4 * time.Second})
	r.add(finished{id: id(2), bytes: 2000, took: time.Second}) // faster than ever seen
	r.add(finished{id: id(3), bytes: 4000, took: 4 * time.Second})
	r.setLimit(500)
	r.add(finished{id: id(4), bytes: 1000, took: 2 * time.Second})
	got := r.last()
	want := []time.Duration{2 * time.Second, 2 * time.Second, time.Second, 2 * time.Second}
	if len(got) != len(want) {
		t.Fatalf("%d fetches, want %d: %+v", len(got), len(want), got)
	}
	for i, f := range got {
		if f.id != id(4-i) || f.bound != want[i] {
			t.Errorf("%d: %+v, want content %d with the bound %s", i, f, 4-i, want[i])
		}
	}
	for i := range 2 * maxRecent {
		r.add(finished{id: id(i), bytes: 1, took: 1})
	}
	if got := r.last(); len(got) != maxRecent || got[0].id != id(2*maxRecent-1) {
		t.Errorf("%d fetches are remembered", len(got))
	}
}
