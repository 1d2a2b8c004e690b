// Command swarmsim runs the scenarios of package sim, and prints how near each comes to its bound.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/virtswarm/virtswarm/hostd/swarm/sim"
)

func main() {
	only := flag.String("run", "", "only scenarios whose name contains this, the long ones too")
	workers := flag.Int("workers", 2, "scenarios at a time")
	flag.Parse()
	debug.SetGCPercent(200) // much lives, little dies: most of a collection is for nothing
	var todo []*sim.Spec
	for _, s := range sim.Scenarios() {
		if strings.Contains(s.Name, *only) && (!s.Long || *only != "") {
			todo = append(todo, s)
		}
	}
	results := make([]sim.Result, len(todo))
	took := make([]time.Duration, len(todo))
	next := make(chan int)
	var wg sync.WaitGroup
	for range *workers {
		wg.Go(func() {
			for i := range next {
				begun := time.Now()
				results[i] = todo[i].Run()
				took[i] = time.Since(begun).Round(10 * time.Millisecond)
				fmt.Fprintf(os.Stderr, "%s: last %.3f, after %v\n", todo[i].Name, results[i].Last, took[i])
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
	for i, r := range results {
		fmt.Fprintf(t, "%s\t%d KiB\t%.2f\t%.3f\t%.3f\t%.3f\t%.3f\t%.3f\t%d\t%v", todo[i].Name, todo[i].Chunk>>10, r.Bound, r.First, r.Median,
			r.Last, r.Seed, r.Trunk, r.Duplicates, took[i])
		if r.Stuck > 0 {
			fmt.Fprintf(t, " %d STUCK", r.Stuck)
		}
		fmt.Fprintln(t)
	}
	t.Flush()
}
