package wire

import (
	"testing"
	"testing/synctest"

	"github.com/virtswarm/virtswarm/internal/content"
)

// TestPriorityCodes: what older versions say and hear keeps its meaning, and the order is kept between those who know
// all.
func TestPriorityCodes(t *testing.T) {
	for p, old := range map[Priority]byte{1: 1, 2: 2, 3: 2, 4: 3, 5: 4, 0: 1, 9: 4} {
		if c := p.code(0); c != old {
			t.Errorf("priority %d is said as %d to an older side, want %d", p, c, old)
		}
	}
	for p := Priority(1); p <= MaxPriority; p++ {
		if got := priorityOf(p.code(^uint64(0))); got != p {
			t.Errorf("priority %d comes as %d", p, got)
		}
	}
	for _, c := range []byte{0, 6, 255} {
		if p := priorityOf(c); p != 0 {
			t.Errorf("code %d is taken for priority %d", c, p)
		}
	}
}

// TestPriorityArrives: each priority comes to the holder as it was meant; what an older side asks for, too.
func TestPriorityArrives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := newFile(1, 5, 100)
		h := newHolder(file)
		heard := make(chan Priority, 1)
		h.onDraw = func(p *Pull) (int, error) {
			heard <- p.Priority
			return p.First, nil
		}
		c := pipePair(t, nil, h)
		if _, _, err := c.a.Open(t.Context(), file.id, 5, true); err != nil {
			t.Fatal(err)
		}
		for p := Priority(1); p <= MaxPriority; p++ {
			buf := make([]byte, 100)
			if _, err := c.a.Draw(t.Context(), file.id, 0, 5, p, func(int) ([]byte, bool) { return buf, true }); err != nil {
				t.Fatal(err)
			}
			if got := <-heard; got != p {
				t.Errorf("priority %d was heard as %d", p, got)
			}
		}
		c.close(t)
	})
	for code, want := range map[byte]Priority{1: 1, 2: 2, 5: 3, 3: 4, 4: 5} {
		m, err := parseRequest(request{length: content.MinChunkSize, prio: code}.append(nil, 1)[headerSize:])
		if err != nil || priorityOf(m.prio) != want {
			t.Errorf("code %d: %d, %v", code, priorityOf(m.prio), err)
		}
	}
}
