// Package guest measures what goes between a host and its guests beside its rivals. It is for root.
//
// Two parts stand side by side. Natively, the guest is a process of this machine: what shared memory and a verified
// delivery cost themselves. In a guest that QEMU emulates (TCG, one processor), beside what else brings a file into a
// guest: there every instruction of the guest costs about ten, hashing more, so that ratios to other ways of the same
// guest say something, and MB/s little. virtio-vsock is not measured: the machine's own AF_VSOCK may lead to its
// hypervisor, and vhost-vsock only works nested here, two emulations deep.
//
// All of it runs in a network namespace (package netlab) with files in memory; nothing of the machine's network is
// touched.
package guest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/virtswarm/virtswarm/acceptance/bench/trial"
)

// options are what a run of this program was asked for.
type options struct {
	tools []string
	size  int64 // of the file that goes to the guest
	runs  int
	cpus  int // of the guest
	long  time.Duration
	bin   string
	out   string
	keep  bool
}

// Beside the size of the guest's file, those of the others.
const (
	nativeTimes = 4  // of the file that is delivered natively
	bulkTimes   = 40 // of what is delivered while control is measured
)

// allTools is what there is to measure.
var allTools = []string{"channel", "idle", "native", "control", "raw", "hash", "shm", "nginx", "checked", "scp", "virtiofs", "9p", "qga"}

// inGuest says which of them need one.
var inGuest = allTools[4:]

// Run measures what the arguments ask for.
func Run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	return o.run(ctx)
}

func parse(args []string) (*options, error) {
	f := flag.NewFlagSet("guest", flag.ExitOnError)
	o := &options{}
	tools := f.String("tools", trial.EnvOr("TOOLS", strings.Join(allTools, ",")), "what to measure")
	size := f.String("size", trial.EnvOr("SIZE", "256MiB"), "of the file that goes to the guest; natively four times as much, and while control is measured forty times")
	runs := f.String("runs", trial.EnvOr("RUNS", "3"), "runs of each measurement; the median is shown")
	f.IntVar(&o.cpus, "cpus", 1, "processors of the guest")
	f.DurationVar(&o.long, "long", time.Second, "how long bytes are moved over a bare channel")
	f.StringVar(&o.bin, "bin", "../../bin", "directory of the virtswarm programs")
	f.StringVar(&o.out, "out", trial.Results, "directory for the results as JSON, and with -keep for logs")
	f.BoolVar(&o.keep, "keep", false, "keep the logs of daemon and guest")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	bytes, err := humanize.ParseBytes(*size)
	if err != nil {
		return nil, err
	}
	o.size, o.tools = int64(bytes), strings.FieldsFunc(*tools, func(r rune) bool { return r == ',' || r == ' ' })
	if o.runs, err = strconv.Atoi(*runs); err != nil {
		return nil, err
	}
	for _, t := range o.tools {
		if !slices.Contains(allTools, t) {
			return nil, fmt.Errorf("no tool %q: there is only %s", t, strings.Join(allTools, ","))
		}
	}
	if o.bin, err = filepath.Abs(o.bin); err != nil {
		return nil, err
	}
	if o.runs < 1 || o.size < 1<<20 || o.size > 4<<30 || o.cpus < 1 || o.long <= 0 || len(o.tools) == 0 || f.NArg() > 0 {
		return nil, errors.New("at least 1 run, 1 MiB (at most 4 GiB), 1 processor, one tool; everything is said by flags or variables")
	}
	return o, nil
}

func (o *options) wants(tools ...string) bool {
	return slices.ContainsFunc(tools, func(t string) bool { return slices.Contains(o.tools, t) })
}

// run measures all that was asked for.
func (o *options) run(ctx context.Context) (err error) {
	l, err := newLab(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	result := trial.Begin("guest")
	parts := []struct {
		tools []string
		run   func(context.Context) error
	}{
		{[]string{"channel"}, l.channels},
		{[]string{"idle"}, l.idle},
		{[]string{"native", "control"}, l.natively},
		{inGuest, l.inGuest},
	}
	for _, p := range parts {
		if o.wants(p.tools...) {
			if err := p.run(ctx); err != nil {
				return fmt.Errorf("measure %s: %w", strings.Join(p.tools, ", "), err)
			}
		}
	}
	return result.Save(o.out, l.figures)
}
