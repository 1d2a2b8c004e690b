package sim

import "testing"

// TestSmallScenarios bounds what the plan costs. The limits are a little above what it reaches today, so that a change
// that makes it worse is seen.
func TestSmallScenarios(t *testing.T) {
	limits := map[string]struct{ last, seed, trunk float64 }{
		"300 hosts at once, 256 MiB": {1.60, 1.60, 0},
		"1 fetcher, 128 MiB":         {1.01, 1, 0},
		"2 fetchers, 128 MiB":        {1.02, 1.02, 0},
		"8 fetchers, 16 MiB":         {1.13, 1.10, 0},
		"8 fetchers, 128 MiB":        {1.03, 1.02, 0},
		"8 fetchers, 512 MiB":        {1.02, 1.01, 0},
		"24 fetchers, 128 MiB":       {1.08, 1.07, 0},
		"8 fetchers, 2 seeds":        {1.06, 1.09, 0},
		"8 fetchers, 3 seeds":        {1.06, 1.15, 0},
		"8 fetchers, slow seed":      {1.02, 1.02, 0},
		"8 fetchers, fast seed":      {1.03, 1.10, 0},
		"8 fetchers, 1 at a tenth":   {1.05, 1.20, 0},
		"8 fetchers, 3 join late":    {1.55, 1.06, 0},
		"8 fetchers, 2 killed":       {1.05, 1.05, 0},
		"8 fetchers, 2 vanish":       {1.06, 1.05, 0},
		"2 racks of 4":               {1.14, 1.05, 1.14},
		"4 homes want half each":     {1.05, 1.05, 0},
	}
	seen := 0
	for _, s := range Scenarios() {
		want, ok := limits[s.Name]
		if !ok {
			continue
		}
		seen++
		t.Run(s.Name, func(t *testing.T) {
			r := s.Run()
			t.Logf("first %.3f, median %.3f, last %.3f of T*; seeds sent %.3f files, trunks %.3f", r.First, r.Median, r.Last, r.Seed, r.Trunk)
			if r.Stuck > 0 {
				t.Fatalf("%d hosts are not done", r.Stuck)
			}
			if r.Last > want.last || r.Seed > want.seed || r.Trunk > want.trunk {
				t.Errorf("last %.3f of T*, seeds sent %.3f files, trunks %.3f; want at most %v, %v, %v", r.Last, r.Seed, r.Trunk, want.last, want.seed, want.trunk)
			}
		})
	}
	if seen != len(limits) {
		t.Errorf("%d of %d scenarios exist", seen, len(limits))
	}
}

// TestOthersAreNotSlowed: by one receiver at a tenth, or by hosts that join late.
func TestOthersAreNotSlowed(t *testing.T) {
	for _, s := range Scenarios() {
		slow, late := s.Name == "8 fetchers, 1 at a tenth", s.Name == "8 fetchers, 3 join late"
		if !slow && !late {
			continue
		}
		plain := float64(s.Size) / (100 * mbit)
		n := s.build()
		n.run()
		for _, h := range n.hosts[1:6] {
			if got := float64(h.ended) / 1e9 / plain; got > 1.1 {
				t.Errorf("%s: host %d ended after %.3f plain copies", s.Name, h.id, got)
			}
		}
	}
}

// TestSimulationIsDeterministic: two runs of one scenario take the same steps.
func TestSimulationIsDeterministic(t *testing.T) {
	for _, s := range Scenarios() {
		if s.Name != "8 fetchers, 2 vanish" {
			continue
		}
		a, b := s.Run(), s.Run()
		if a.Steps != b.Steps || a.Last != b.Last || a.Seed != b.Seed {
			t.Errorf("%d and %d steps, last %v and %v", a.Steps, b.Steps, a.Last, b.Last)
		}
	}
}
