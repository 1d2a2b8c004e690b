package control

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestPaceThinsOutAndMeasures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace()
		reports, last := 0, 0.0
		const perTick, ticks = 1 << 20, 100
		for i := range ticks {
			p.tick(int64(i*perTick), func(rate float64) { reports, last = reports+1, rate })
			time.Sleep(50 * time.Millisecond)
		}
		if want := ticks * 50 / 200; reports != want {
			t.Errorf("%d reports in 5 s, want %d", reports, want)
		}
		if want := 20.0 * perTick; last < 0.99*want || last > 1.01*want {
			t.Errorf("rate %.0f, want %.0f", last, want)
		}
	})
}
