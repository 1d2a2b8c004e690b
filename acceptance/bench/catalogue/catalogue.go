// Package catalogue measures the catalogue at the size of a large cluster: real Raft nodes, each with its directory on
// a real disk, over loopback TCP, in one process. It prints a table of what an operator feels (how long a publication
// takes, a listing, a restart) and of what it costs (bytes of log and snapshot, memory).
package catalogue

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/virtswarm/virtswarm/acceptance/bench/trial"
)

// Run measures what the arguments ask for.
func Run(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("catalogue", flag.ExitOnError)
	var o options
	f.IntVar(&o.hosts, "hosts", 50, "hosts of the cluster, each a Raft node")
	f.IntVar(&o.files, "files", 10_000, "files to publish")
	f.IntVar(&o.shards, "shards", 16, "shards of each file, of 64 MiB")
	f.IntVar(&o.replicas, "replicas", 3, "copies of each shard")
	f.IntVar(&o.clients, "clients", 64, "publications at a time when the throughput is measured")
	f.IntVar(&o.gather, "gather", 50, "files that a host's report names")
	dir := f.String("dir", "", "where the hosts' directories go; default a temporary one")
	out := f.String("out", trial.Results, "directory for the results as JSON")
	if err := f.Parse(args); err != nil {
		return err
	}
	result := trial.Begin("catalogue")
	rows, err := run(ctx, o, *dir)
	return errors.Join(err, result.Save(*out, rows))
}

// options are the size of what is measured.
type options struct{ hosts, files, shards, replicas, clients, gather int }

func run(ctx context.Context, o options, dir string) (rows map[string]string, err error) {
	if dir == "" {
		if dir, err = os.MkdirTemp("", "virtswarm-bench"); err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
	}
	b := &bench{o: o, dir: dir, rows: map[string]string{}, out: tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)}
	defer b.close()
	fmt.Printf("%d hosts, %d files of %s, %d copies each\n\n", o.hosts, o.files, humanize.IBytes(uint64(o.shards)<<26), o.replicas)
	for _, step := range []func(context.Context) error{
		b.grow, b.publish, b.report, b.read, b.lose, b.snapshot, b.restart, b.join,
	} {
		if err := step(ctx); err != nil {
			return b.rows, err
		}
		b.out.Flush()
	}
	return b.rows, nil
}

// row prints and notes a figure.
func (b *bench) row(what, format string, a ...any) {
	b.rows[what] = fmt.Sprintf(format, a...)
	fmt.Fprintf(b.out, "%s\t%s\n", what, b.rows[what])
}

// timed prints how long something takes.
func (b *bench) timed(what string, f func() error) error {
	begin := time.Now()
	err := f()
	b.row(what, "%s", round(time.Since(begin)))
	return err
}

func round(d time.Duration) time.Duration {
	switch {
	case d > time.Second:
		return d.Round(10 * time.Millisecond)
	case d > time.Millisecond:
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(10 * time.Nanosecond)
}
