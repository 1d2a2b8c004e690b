// Package swarm measures how long one host needs to bring a file to eight others, for virtswarm and its rivals, in
// a lab of network namespaces with limited links (package netlab). It is for root.
//
// All receivers start together and write to memory. Whatever a tool keeps running anyway runs before the clock starts;
// for a receiver the clock ends when it has the whole file. Every output is compared with its source afterwards. Bytes
// are those of the publisher's network interface, CPU is user and system time of all processes of the tool on all
// hosts, and the yardstick is one plain TCP transfer of the file in the same lab.
package swarm

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/virtswarm/virtswarm/acceptance/bench/trial"
	"github.com/virtswarm/virtswarm/acceptance/netlab"
)

// receivers is the number of hosts that the file goes to.
const receivers = 8

// options are what a run of this program was asked for.
type options struct {
	tools     []tool
	scenarios []scenario
	rates     []netlab.Rate
	sizes     []int64
	runs      int
	trunk     netlab.Rate // 0: half of a host's
	bin       string
	out       string
	trace     bool
}

// Run measures what the arguments ask for.
func Run(ctx context.Context, args []string) error {
	if len(args) == 2 && args[0] == "tracker" { // a child of ours, on a host of the lab
		return track(args[1])
	}
	o, err := parse(args)
	if err != nil {
		return err
	}
	return o.run(ctx)
}

func parse(args []string) (*options, error) {
	f := flag.NewFlagSet("swarm", flag.ExitOnError)
	o := &options{}
	all, every := names(allTools, tool.String), names(allScenarios, scenario.String)
	tools := f.String("tools", trial.EnvOr("TOOLS", all), "tools to measure")
	scenarios := f.String("scenario", os.Getenv("SCENARIO"), "what to do to virtswarm, instead of comparing it: "+every)
	rates := f.String("rate", trial.EnvOr("RATE", "100,200"), "rates of the hosts' links each way, Mbit/s")
	sizes := f.String("size", trial.EnvOr("SIZE", "128MiB,512MiB"), "sizes of the file")
	runs := f.String("runs", trial.EnvOr("RUNS", "3"), "runs of each measurement; the median is shown")
	trunk := f.String("trunk", trial.EnvOr("TRUNK", "0"), "rate between racks, Mbit/s; 0 is half of a host's")
	f.StringVar(&o.bin, "bin", "../../bin", "directory of the virtswarm programs")
	f.StringVar(&o.out, "out", trial.Results, "directory for the results as JSON, and for traces")
	f.BoolVar(&o.trace, "trace", false, "keep virtswarm's logs, and what each host has received four times a second")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	mbits := func(s string) (netlab.Rate, error) {
		n, err := strconv.ParseFloat(s, 64)
		return netlab.Rate(n * 1e6), err
	}
	bytes := func(s string) (int64, error) {
		n, err := humanize.ParseBytes(s)
		return int64(n), err
	}
	var errs [7]error
	o.tools, errs[0] = list(*tools, named(allTools))
	o.scenarios, errs[1] = list(*scenarios, named(allScenarios))
	o.rates, errs[2] = list(*rates, mbits)
	o.sizes, errs[3] = list(*sizes, bytes)
	o.runs, errs[4] = strconv.Atoi(*runs)
	o.trunk, errs[5] = mbits(*trunk)
	o.bin, errs[6] = filepath.Abs(o.bin)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	if o.runs < 1 || f.NArg() > 0 || slices.Min(o.rates) < 1e6 || slices.Min(o.sizes) < 1<<20 {
		return nil, errors.New("at least 1 run, 1 Mbit/s and 1 MiB; everything is said by flags or variables")
	}
	return o, nil
}

// list reads the parts of a comma-separated list.
func list[T any](s string, read func(string) (T, error)) (parts []T, err error) {
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		v, err := read(part)
		if err != nil {
			return nil, fmt.Errorf("read %q: %w", part, err)
		}
		parts = append(parts, v)
	}
	return parts, nil
}

// named finds one of a set by its name.
func named[T fmt.Stringer](all []T) func(string) (T, error) {
	return func(name string) (found T, err error) {
		i := slices.IndexFunc(all, func(v T) bool { return v.String() == name })
		if i < 0 {
			return found, fmt.Errorf("there is only %s", names(all, T.String))
		}
		return all[i], nil
	}
}

func names[T any](all []T, name func(T) string) string {
	var s []string
	for _, v := range all {
		s = append(s, name(v))
	}
	return strings.Join(s, ",")
}
