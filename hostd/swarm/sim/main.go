package main

import (
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// result is what a scenario came to.
type result struct {
	spec                *spec
	bound               float64
	first, median, last float64 // of T*
	seed                float64 // bytes that the seeds sent, in files
	trunk               float64 // bytes over all trunks, in files
	waste               int
	steps               int
	took                time.Duration
	stuck               int
	times               []float64
}

func (s *spec) run() result {
	begun := time.Now()
	n := s.build()
	n.run()
	r := result{spec: s, bound: s.bound(), steps: n.steps, waste: n.duplicates}
	for i, h := range n.hosts {
		switch {
		case i < len(s.seeds):
			r.seed += float64(h.out) / float64(s.size)
		case h.dead:
		case h.want > 0 || h.pick == nil:
			r.stuck++
		default:
			r.times = append(r.times, float64(h.ended)/1e9/r.bound)
		}
	}
	for _, k := range n.racks {
		r.trunk += float64(k.up.sent) / float64(s.size)
	}
	t := slices.Sorted(slices.Values(r.times))
	if len(t) > 0 {
		r.first, r.median, r.last = t[0], t[len(t)/2], t[len(t)-1]
	}
	r.took = time.Since(begun)
	return r
}

func main() {
	only := flag.String("run", "", "only scenarios whose name contains this")
	workers := flag.Int("workers", 2, "scenarios at a time")
	flag.Parse()
	debug.SetGCPercent(200) // much lives, little dies: most of a collection is for nothing
	var todo []*spec
	for _, s := range scenarios() {
		if strings.Contains(s.name, *only) {
			todo = append(todo, s)
		}
	}
	results := make([]result, len(todo))
	next := make(chan int)
	var wg sync.WaitGroup
	for range *workers {
		wg.Go(func() {
			for i := range next {
				results[i] = todo[i].run()
				fmt.Fprintf(os.Stderr, "%s: last %.3f, after %v\n", todo[i].name, results[i].last, results[i].took.Round(time.Millisecond))
			}
		})
	}
	for i := range todo {
		next <- i
	}
	close(next)
	wg.Wait()
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "scenario\tchunk\tT*, s\tfirst\tmedian\tlast\tseed/file\ttrunk/file\tduplicates\twall")
	for _, r := range results {
		fmt.Fprintf(t, "%s\t%d KiB\t%.2f\t%.3f\t%.3f\t%.3f\t%.3f\t%.3f\t%d\t%v", r.spec.name, r.spec.chunk>>10, r.bound, r.first, r.median, r.last,
			r.seed, r.trunk, r.waste, r.took.Round(10*time.Millisecond))
		if r.stuck > 0 {
			fmt.Fprintf(t, " %d STUCK", r.stuck)
		}
		fmt.Fprintln(t)
	}
	t.Flush()
}
