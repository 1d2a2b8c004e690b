// Command bench measures virtswarm beside its rivals and its limits, in one run, and prints ratios: machines differ and
// are noisy, ratios within a run less so. Every figure is a median. Run it with 'make bench'.
//
// The holder and the fetcher are processes of their own for every tool, on loopback, with their files in memory
// (tmpfs), so that neither network nor disk hides what a tool costs. CPU is user and system time of all processes of
// that tool.
package main

import (
	"context"
	"crypto/rand"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
)

// sample is one run: wall-clock seconds and CPU seconds.
type sample struct{ wall, cpu float64 }

// row is one line of a table: what was measured, over how many bytes.
type row struct {
	name    string
	samples []sample
	note    string
}

func main() {
	if len(os.Args) > 1 {
		if role, ok := roles[os.Args[1]]; ok { // a child of ours: one end of the raw TLS copy
			exitOn(role(os.Args[2:]))
			return
		}
	}
	size := flag.String("size", envOr("SIZE", "1GiB"), "bytes of the file that is moved")
	runs := flag.Int("runs", 3, "runs of each measurement; the median is shown")
	bin := flag.String("bin", "bin", "directory of the virtswarm programs")
	dir := flag.String("dir", "/dev/shm", "directory for the files, best in memory")
	tools := flag.String("tools", envOr("TOOLS", "hash,file,nowhere,nginx,virtswarm"), "what to measure; the first to move the file is what others are compared with")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	bytes, err := humanize.ParseBytes(*size)
	exitOn(err)
	exitOn(bench(ctx, *bin, *dir, int64(bytes), *runs, strings.Split(*tools, ",")))
}

func bench(ctx context.Context, bin, dir string, size int64, runs int, tools []string) error {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp(dir, "virtswarm-bench.")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if err := warm(work, copiesAtOnce*size); err != nil {
		return err
	}
	file := filepath.Join(work, "source")
	if err := randomFile(file, size); err != nil {
		return fmt.Errorf("make %s: %w", file, err)
	}
	fmt.Printf("%s of random bytes, median of %d runs\n", humanize.IBytes(uint64(size)), runs)

	if slices.Contains(tools, "hash") {
		hashing, err := measureHashing(ctx, file, size, runs)
		if err != nil {
			return fmt.Errorf("measure hashing: %w", err)
		}
		print("Cutting and hashing a file, against reading it", hashing, size)
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
			print(way.title, rows, size)
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

// print shows one table; the first row is what the others are compared with.
func print(title string, rows []row, size int64) {
	gib := float64(size) / (1 << 30)
	base := median(rows[0].samples, func(s sample) float64 { return s.wall })
	fmt.Printf("\n%s\n", title)
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "\tMB/s\tspeed ÷ first row\tCPU s per GiB\tnote\n")
	for _, r := range rows {
		wall := median(r.samples, func(s sample) float64 { return s.wall })
		cpu := median(r.samples, func(s sample) float64 { return s.cpu })
		fmt.Fprintf(w, "%s\t%.0f\t%.2f\t%.2f\t%s\n", r.name, float64(size)/1e6/wall, base/wall, cpu/gib, r.note)
	}
	w.Flush()
}

func median(samples []sample, of func(sample) float64) float64 {
	v := make([]float64, len(samples))
	for i, s := range samples {
		v[i] = of(s)
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// copiesAtOnce is how many copies of the file are there at a time, at most: the source, a holder's and a fetcher's.
const copiesAtOnce = 3

// warm touches as much memory as will be used. On a virtual machine memory that is used for the first time costs page
// faults in the machine's own hypervisor, and the tool that happens to touch it would pay.
func warm(dir string, size int64) error {
	path := filepath.Join(dir, "warm")
	defer os.Remove(path)
	return randomFile(path, size)
}

func randomFile(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := io.CopyN(f, rand.Reader, size); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// timed runs one measurement; cpu says how much CPU time the tool's processes have used up to now.
func timed(cpu func() float64, f func() error) (sample, error) {
	before, start := cpu(), time.Now()
	err := f()
	return sample{wall: time.Since(start).Seconds(), cpu: cpu() - before}, err
}

func envOr(key, def string) string {
	if v := os.Getenv(key); v != "" {
		return v
	}
	return def
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}
