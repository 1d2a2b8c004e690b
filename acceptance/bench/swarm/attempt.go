package swarm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/virtswarm/virtswarm/acceptance/bench/trial"
	"github.com/virtswarm/virtswarm/acceptance/netlab"
)

// outcome is what one run showed. Seconds are those of each receiver, in order of their end.
type outcome struct {
	Tool     string    `json:"tool"`
	Scenario string    `json:"scenario,omitempty"`
	Rate     int64     `json:"rate"` // bits a second
	Size     int64     `json:"size"`
	Run      int       `json:"run"`
	Seconds  []float64 `json:"seconds"`
	// Sent is what left the publisher, in files.
	Sent float64 `json:"sent_files"`
	// CPU is seconds for each GiB that a receiver got.
	CPU float64 `json:"cpu_per_gib"`
	// Figures are those of a scenario.
	Figures map[string]float64 `json:"figures,omitempty"`
}

func (o outcome) first() float64  { return o.Seconds[0] }
func (o outcome) middle() float64 { return trial.Median(o.Seconds) }
func (o outcome) last() float64   { return o.Seconds[len(o.Seconds)-1] }

// attempt is one run of one tool: processes on the hosts of a lab, a clock, and the counters around it.
type attempt struct {
	lab  *netlab.Lab
	opts *options
	name string // of its files, if it leaves any
	file string // the source, in the publisher's own directory
	size int64
	rate netlab.Rate
	// seed is the publisher, to the others.
	seed *netlab.Host
	to   []*netlab.Host

	procs []*netlab.Process
	began time.Time
	sent  netlab.Traffic
	cpu   float64
}

// start starts a program on a host, to be ended with the trial; what it prints on standard error is shown.
func (t *attempt) start(cmd *exec.Cmd) (*netlab.Process, error) {
	if cmd.Stderr == nil {
		cmd.Stderr = os.Stderr
	}
	p, err := netlab.Start(cmd)
	if err == nil {
		t.procs = append(t.procs, p)
	}
	return p, err
}

// begin starts the clock and the counters.
func (t *attempt) begin() (err error) {
	t.cpu = t.used()
	t.sent, err = t.seed.Traffic()
	t.began = time.Now()
	return err
}

// used is the CPU time of all processes so far, in seconds.
func (t *attempt) used() float64 {
	total := 0.0
	for _, p := range t.procs {
		total += p.CPU()
	}
	return total
}

// end reads the counters, given when each receiver had the whole file.
func (t *attempt) end(at []time.Time) (outcome, error) {
	o := outcome{Size: t.size}
	cpu := t.used() - t.cpu
	sent, err := t.seed.Traffic()
	if err != nil {
		return o, err
	}
	for _, a := range at {
		o.Seconds = append(o.Seconds, a.Sub(t.began).Seconds())
	}
	slices.Sort(o.Seconds)
	o.Sent = float64(sent.Sub(t.sent).Sent) / float64(t.size)
	o.CPU = cpu / (float64(len(at)) * float64(t.size) / (1 << 30))
	return o, nil
}

// close ends all processes and removes what the hosts wrote, except the source.
func (t *attempt) close() error {
	for _, p := range t.procs {
		p.Kill()
	}
	var errs []error
	for _, h := range append([]*netlab.Host{t.seed}, t.to...) {
		errs = append(errs, os.RemoveAll(h.Path("")))
	}
	return errors.Join(errs...)
}

// ends waits until every process has ended well, and says when each did.
func ends(ctx context.Context, procs []*netlab.Process) ([]time.Time, error) {
	var at []time.Time
	for _, p := range procs {
		when, err := p.Wait(ctx)
		if err != nil {
			return nil, err
		}
		at = append(at, when)
	}
	return at, nil
}

// lines stamps the lines that a program prints. It is an io.Writer for one goroutine.
type lines struct {
	part []byte
	want func(line []byte) bool
	seen chan time.Time // gets the time of each wanted line; a few fit
}

// awaiting makes a writer that waits for lines.
func awaiting(want func(line []byte) bool) *lines {
	return &lines{want: want, seen: make(chan time.Time, 16)}
}

// containing wants lines with a text in them.
func containing(text string) func([]byte) bool {
	return func(line []byte) bool { return bytes.Contains(line, []byte(text)) }
}

func (l *lines) Write(p []byte) (int, error) {
	now := time.Now()
	l.part = append(l.part, p...)
	for {
		line, rest, ok := bytes.Cut(l.part, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		if l.want(line) {
			select {
			case l.seen <- now:
			default:
			}
		}
		l.part = rest
	}
}

// wait waits for the next wanted line of a process.
func (l *lines) wait(ctx context.Context, p *netlab.Process) (time.Time, error) {
	select {
	case at := <-l.seen:
		return at, nil
	case <-p.Ended():
		select {
		case at := <-l.seen: // it said so, and ended
			return at, nil
		default:
		}
		_, err := p.Wait(ctx)
		return time.Time{}, fmt.Errorf("ended before its time: %w", err)
	case <-ctx.Done():
		return time.Time{}, ctx.Err()
	}
}

// same wants a receiver's output to be the source, byte by byte.
func (t *attempt) same(path string) error {
	a, err := os.Open(t.file)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := os.Open(path)
	if err != nil {
		return err
	}
	defer b.Close()
	pa, pb := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); ; {
		n, errA := io.ReadFull(a, pa)
		m, errB := io.ReadFull(b, pb)
		if n != m || !bytes.Equal(pa[:n], pb[:m]) {
			return fmt.Errorf("%s differs from its source after byte %d", filepath.Base(path), off)
		}
		if errA != nil || errB != nil {
			if errors.Is(errA, io.ErrUnexpectedEOF) || errors.Is(errA, io.EOF) {
				return nil
			}
			return errors.Join(errA, errB)
		}
		off += int64(n)
	}
}
