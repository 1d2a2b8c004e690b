package simtest

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"
)

var (
	seedFlag   = flag.Int64("seed", -1, "run this seed alone, and tell what the hosts log with -v")
	seedsFlag  = flag.Uint64("seeds", seeds, "how many seeds TestSeeds runs")
	fromFlag   = flag.Uint64("from", 0, "the first seed of TestSeeds")
	strideFlag = flag.Uint64("stride", 0, "run each n-th of the seeds in this process: TestSeeds calls itself so")
)

// TestSeeds runs the mixed faults of many seeds, in as many processes as there are processors.
func TestSeeds(t *testing.T) {
	switch workers := uint64(runtime.GOMAXPROCS(0)); {
	case *seedFlag >= 0:
		run(t, newPool(t), uint64(*seedFlag))
	case *strideFlag > 0:
		for what, times := range runSeeds(t, *strideFlag) {
			fmt.Printf("%s%d %s\n", seenMark, times, what)
		}
	case workers == 1 || *seedsFlag < 2*workers:
		checkSeen(t, runSeeds(t, 1))
	default:
		var working sync.WaitGroup
		var mu sync.Mutex
		seen := map[string]int{}
		for n := range workers {
			working.Go(func() {
				text := runElsewhere(t, *fromFlag+n, workers)
				mu.Lock()
				defer mu.Unlock()
				addSeen(seen, text)
			})
		}
		working.Wait()
		checkSeen(t, seen)
	}
}

const (
	// seenMark begins a line in which a process says how often something was done or looked at.
	seenMark = "seen "
	// seedsToSee are so many that everything happens in some of them.
	seedsToSee = 100
)

// looks are the checks that may have had nothing to look at.
var looks = []string{
	"a guest read a file", "an image was in use", "an order was looked at in the end", "another disk was lost",
	"a drained host was destroyed", "a removed host called",
}

// addSeen adds what a process says.
func addSeen(seen map[string]int, text string) {
	for line := range strings.Lines(text) {
		line, ok := strings.CutPrefix(line, seenMark)
		number, what, _ := strings.Cut(strings.TrimSpace(line), " ")
		if times, err := strconv.Atoi(number); ok && err == nil {
			seen[what] += times
		}
	}
}

// checkSeen fails if many seeds left a fault undone, or a check without anything to look at.
func checkSeen(t *testing.T, seen map[string]int) {
	for _, what := range slices.Sorted(maps.Keys(seen)) {
		t.Logf("%6d times: %s", seen[what], what)
	}
	if *seedsFlag < seedsToSee {
		return
	}
	wanted := slices.Clone(looks)
	for _, k := range kinds {
		wanted = append(wanted, k.name)
	}
	for _, what := range wanted {
		if seen[what] == 0 {
			t.Errorf("in %d seeds it never happened: %s", *seedsFlag, what)
		}
	}
}

func newPool(t *testing.T) *Pool {
	pool, err := NewPool(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return pool
}

// runSeeds runs each n-th seed, one after the other.
func runSeeds(t *testing.T, n uint64) (seen map[string]int) {
	pool := newPool(t)
	seen = map[string]int{}
	for seed := *fromFlag; seed < *fromFlag+*seedsFlag; seed += n {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			for what, times := range run(t, pool, seed).Seen {
				seen[what] += times
			}
		})
		forgetBubble()
	}
	return seen
}

// runElsewhere runs each n-th of the seeds from one on in another process, and returns what that printed.
func runElsewhere(t *testing.T, from, n uint64) string {
	end := *fromFlag + *seedsFlag
	cmd := exec.Command(os.Args[0], "-test.run=^TestSeeds$", "-test.timeout=0",
		fmt.Sprint("-from=", from), fmt.Sprint("-seeds=", end-from), fmt.Sprint("-stride=", n))
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("seeds %d, %d, … to %d: %v\n%s", from, from+n, end-1, err, out)
	}
	return string(out)
}

// forgetBubble empties the pools of package sync: a timer of one bubble that yamux has put into one must not be used in
// the next. What is in a pool is gone after two collections.
func forgetBubble() {
	runtime.GC()
	runtime.GC()
}

func run(t *testing.T, pool *Pool, seed uint64) *Report {
	o := Options{Seed: seed, Pool: pool}
	if *seedFlag >= 0 && testing.Verbose() {
		o.Logger = hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: os.Stderr})
	}
	r := Run(t, o)
	if len(r.Violations) > 0 {
		t.Errorf("%s", r)
	} else if *seedFlag >= 0 {
		t.Logf("%s", r)
	}
	return r
}

// String tells all that is known of a run.
func (r *Report) String() string {
	return fmt.Sprintf("seed %d, %d hosts: go test ./hostd/simtest -run TestSeeds -seed=%d\n%s\n\nfaults:\n%s\n\nhistory:\n%s\n",
		r.Seed, r.Hosts, r.Seed, strings.Join(r.Violations, "\n"), strings.Join(r.Schedule, "\n"), strings.Join(r.History, "\n"))
}
