// Package pair measures one host that fetches a file from another, beside its rivals and its limits.
//
// The holder and the fetcher are processes of their own for every tool, on loopback, with their files in memory
// (tmpfs), so that neither network nor disk hides what a tool costs. CPU is user and system time of all processes of
// that tool.
package pair

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/virtswarm/virtswarm/acceptance/bench/trial"
)

// sample is one run: wall-clock seconds and CPU seconds.
type sample struct{ wall, cpu float64 }

// row is one line of a table: what was measured, over how many bytes.
type row struct {
	name    string
	samples []sample
	note    string
}

// Run measures what the arguments ask for.
func Run(ctx context.Context, args []string) error {
	if len(args) > 0 {
		if role, ok := roles[args[0]]; ok { // a child of ours: one end of the raw TLS copy
			return role(args[1:])
		}
	}
	f := flag.NewFlagSet("pair", flag.ExitOnError)
	size := f.String("size", trial.EnvOr("SIZE", "1GiB"), "bytes of the file that is moved")
	runs := f.Int("runs", 3, "runs of each measurement; the median is shown")
	bin := f.String("bin", "../../bin", "directory of the virtswarm programs")
	dir := f.String("dir", "/dev/shm", "directory for the files, best in memory")
	out := f.String("out", trial.Results, "directory for the results as JSON")
	tools := f.String("tools", trial.EnvOr("TOOLS", "hash,file,nowhere,nginx,virtswarm"), "what to measure; the first to move the file is what others are compared with")
	if err := f.Parse(args); err != nil {
		return err
	}
	bytes, err := humanize.ParseBytes(*size)
	if err != nil {
		return err
	}
	result, figures := trial.Begin("pair"), trial.Figures{}
	err = bench(ctx, figures, *bin, *dir, int64(bytes), *runs, strings.Split(*tools, ","))
	return errors.Join(err, result.Save(*out, figures))
}

func bench(ctx context.Context, figures trial.Figures, bin, dir string, size int64, runs int, tools []string) error {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp(dir, "virtswarm-bench.")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if err := trial.Warm(filepath.Join(work, "warm"), copiesAtOnce*size); err != nil {
		return err
	}
	file := filepath.Join(work, "source")
	if err := trial.RandomFile(file, size); err != nil {
		return fmt.Errorf("make %s: %w", file, err)
	}
	fmt.Printf("%s of random bytes, median of %d runs\n", humanize.IBytes(uint64(size)), runs)

	if slices.Contains(tools, "hash") {
		hashing, err := measureHashing(ctx, file, size, runs)
		if err != nil {
			return fmt.Errorf("measure hashing: %w", err)
		}
		print(figures, "Cutting and hashing a file, against reading it", hashing, size)
	}
	for _, way := range []struct {
		title string
		apart bool
	}{
		{"One fetcher from one holder, each on a core of its own, as on two hosts", true},
		{"The same, sharing all cores of this machine", false},
	} {
		lab := &lab{work: work, bin: bin, file: file, size: size, apart: way.apart}
		rows, err := lab.measure(ctx, tools, runs)
		if err != nil {
			return err
		}
		if len(rows) > 0 {
			print(figures, way.title, rows, size)
		}
	}
	return nil
}

// measure runs each of the wanted tools, in turn so that all see the same moods of the machine.
func (l *lab) measure(ctx context.Context, tools []string, runs int) ([]row, error) {
	all := []struct {
		key, name, note string
		run             func(context.Context) (sample, error)
	}{
		{"file", "raw TLS copy to a file", "Go crypto/tls, not verified", l.rawToFile},
		{"nowhere", "raw TLS copy to nowhere", "Go crypto/tls, not verified, not stored", l.rawToNowhere},
		{"nginx", "nginx + curl over TLS", "not verified", l.nginxCurl},
		{"virtswarm", "virtswarm", "verified at both ends, stored", l.virtswarm},
	}
	var rows []row
	for run := range runs {
		i := 0
		for _, tool := range all {
			if !slices.Contains(tools, tool.key) {
				continue
			}
			if run == 0 {
				rows = append(rows, row{name: tool.name, note: tool.note})
			}
			s, err := tool.run(ctx)
			if err != nil {
				return nil, fmt.Errorf("measure %s: %w", tool.name, err)
			}
			rows[i].samples = append(rows[i].samples, s)
			i++
		}
	}
	return rows, nil
}

// print shows one table, and notes its figures; the first row is what the others are compared with.
func print(figures trial.Figures, title string, rows []row, size int64) {
	gib := float64(size) / (1 << 30)
	base := median(rows[0].samples, func(s sample) float64 { return s.wall })
	t := trial.NewTable(title, "MB/s", "speed ÷ first row", "CPU s per GiB", "note")
	for _, r := range rows {
		wall := median(r.samples, func(s sample) float64 { return s.wall })
		cpu := median(r.samples, func(s sample) float64 { return s.cpu })
		t.Line(r.name, trial.Num(float64(size)/1e6/wall, 0), trial.Num(base/wall, 2), trial.Num(cpu/gib, 2), r.note)
		for _, s := range r.samples {
			figures.Add(title+": "+r.name+", s", s.wall)
			figures.Add(title+": "+r.name+", CPU s", s.cpu)
		}
	}
	t.End()
}

func median(samples []sample, of func(sample) float64) float64 {
	v := make([]float64, len(samples))
	for i, s := range samples {
		v[i] = of(s)
	}
	return trial.Median(v)
}

// copiesAtOnce is how many copies of the file are there at a time, at most: the source, a holder's and a fetcher's.
const copiesAtOnce = 3

// timed runs one measurement; cpu says how much CPU time the tool's processes have used up to now.
func timed(cpu func() float64, f func() error) (sample, error) {
	before, start := cpu(), time.Now()
	err := f()
	return sample{wall: time.Since(start).Seconds(), cpu: cpu() - before}, err
}
