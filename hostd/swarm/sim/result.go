package sim

import "slices"

// Result is what a scenario came to.
type Result struct {
	Bound               float64 // T*, in seconds
	First, Median, Last float64 // of T*
	Seed                float64 // bytes that the seeds sent, in files
	Trunk               float64 // bytes over all trunks, in files
	Duplicates          int     // chunks that came for nothing
	Steps               int     // events
	Stuck               int     // hosts that were not done
}

// Run lets a scenario happen.
func (s *Spec) Run() Result {
	n := s.build()
	n.run()
	r := Result{Bound: s.bound(), Steps: n.steps, Duplicates: n.duplicates}
	var times []float64
	for i, h := range n.hosts {
		switch {
		case i < len(s.seeds):
			r.Seed += float64(h.out) / float64(s.Size)
		case h.dead:
		case h.missing > 0 || h.job == nil:
			r.Stuck++
		default:
			times = append(times, float64(h.ended)/1e9/r.Bound)
		}
	}
	for _, k := range n.racks {
		r.Trunk += float64(k.up.sent) / float64(s.Size)
	}
	t := slices.Sorted(slices.Values(times))
	if len(t) > 0 {
		r.First, r.Median, r.Last = t[0], t[len(t)/2], t[len(t)-1]
	}
	return r
}
