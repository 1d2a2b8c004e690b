package simtest

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
)

var (
	seedFlag  = flag.Int64("seed", -1, "run this seed alone, and tell what the hosts log with -v")
	seedsFlag = flag.Uint64("seeds", seeds, "how many seeds TestSeeds runs")
	fromFlag  = flag.Uint64("from", 0, "the first seed of TestSeeds")
)

// TestSeeds runs the mixed faults of many seeds.
func TestSeeds(t *testing.T) {
	pool, err := NewPool(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if *seedFlag >= 0 {
		run(t, pool, uint64(*seedFlag))
		return
	}
	for seed := *fromFlag; seed < *fromFlag+*seedsFlag; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			run(t, pool, seed)
		})
	}
}

func run(t *testing.T, pool *Pool, seed uint64) {
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
}

// String tells all that is known of a run.
func (r *Report) String() string {
	return fmt.Sprintf("seed %d, %d hosts: go test ./hostd/simtest -run TestSeeds -seed=%d\n%s\n\nfaults:\n%s\n\nhistory:\n%s\n",
		r.Seed, r.Hosts, r.Seed, strings.Join(r.Violations, "\n"), strings.Join(r.Schedule, "\n"), strings.Join(r.History, "\n"))
}
