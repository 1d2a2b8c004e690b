package swarm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/virtswarm/virtswarm/acceptance/bench/trial"
	"github.com/virtswarm/virtswarm/acceptance/netlab"
)

// sourceName is the file's name wherever a tool keeps it under the name of its source.
const sourceName = "source"

// run measures all that was asked for and prints a table for each rate and size. A run that fails is told and left out.
func (o *options) run(ctx context.Context) error {
	result := trial.Begin("swarm")
	var all []outcome
	var errs []error
	for _, rate := range o.rates {
		for _, size := range o.sizes {
			s := &series{options: o, rate: rate, size: size}
			var err error
			if len(o.scenarios) > 0 {
				err = s.disturb(ctx)
			} else {
				err = s.compare(ctx)
			}
			all = append(all, s.outcomes...)
			errs = append(errs, err, s.failed)
			if err != nil {
				return errors.Join(append(errs, result.Save(o.out, all))...)
			}
		}
	}
	return errors.Join(append(errs, result.Save(o.out, all))...)
}

// series is what is measured at one rate and size.
type series struct {
	*options
	rate     netlab.Rate
	size     int64
	outcomes []outcome
	failed   error // runs that failed, joined
}

func (s *series) String() string {
	return fmt.Sprintf("%s, %d Mbit/s, %d receivers", humanize.IBytes(uint64(s.size)), s.rate/1e6, receivers)
}

// place is a lab with the source in it.
type place struct {
	*series
	lab    *netlab.Lab
	source string
}

func (s *series) place(in scenario) (*place, error) {
	lab, err := in.labFor(s.rate, s.trunk)
	if err != nil {
		return nil, err
	}
	p := &place{series: s, lab: lab, source: filepath.Join(lab.Dir, sourceName)}
	warm := filepath.Join(lab.Dir, "warm")
	if err := errors.Join(trial.RandomFile(p.source, s.size), trial.Warm(warm, (receivers+1)*s.size)); err != nil {
		return nil, errors.Join(err, lab.Close())
	}
	return p, nil
}

// try makes one trial and notes its outcome, or that it failed.
func (p *place) try(ctx context.Context, run int, o outcome, to []*netlab.Host, measure func(context.Context, *attempt) (outcome, error)) (outcome, bool) {
	t := &attempt{lab: p.lab, opts: p.options, seed: p.lab.Hosts[0], to: to, size: p.size, rate: p.rate}
	t.name = strings.NewReplacer("/", "-", " ", "").Replace(fmt.Sprintf("%s%s-%d-%s-%d", o.Tool, o.Scenario, p.rate/1e6, humanize.IBytes(uint64(p.size)), run))
	t.file = t.seed.Path(sourceName)
	ctx, cancel := context.WithTimeout(ctx, patience(p.size, p.rate))
	defer cancel()
	err := os.Link(p.source, t.file)
	var measured outcome
	if err == nil {
		measured, err = measure(ctx, t)
	}
	if err = errors.Join(err, t.close()); err != nil {
		err = fmt.Errorf("%s, run %d of %s%s: %w", p, run, o.Tool, o.Scenario, err)
		fmt.Fprintln(os.Stderr, err)
		p.failed = errors.Join(p.failed, err)
		return measured, false
	}
	measured.Tool, measured.Scenario, measured.Rate, measured.Run = o.Tool, o.Scenario, int64(p.rate), run
	p.outcomes = append(p.outcomes, measured)
	fmt.Printf("%s, run %d: %s%s %.2f / %.2f / %.2f s, publisher sent %.3f files, %.2f CPU s per GiB%s\n", p, run, o.Tool, o.Scenario,
		measured.first(), measured.middle(), measured.last(), measured.Sent, measured.CPU, figures(measured))
	return measured, true
}

// compare measures the tools in turn, so that all see the same moods of the machine.
func (s *series) compare(ctx context.Context) error {
	p, err := s.place(scenario{key: "comparison"})
	if err != nil {
		return err
	}
	tools := slices.DeleteFunc(slices.Clone(s.tools), func(t tool) bool { return t.key == plain.key })
	tools = append([]tool{plain}, tools...)
	for run := 1; run <= s.runs && ctx.Err() == nil; run++ {
		for _, t := range tools {
			if t.runs > 0 && run > t.runs && len(tools) > 2 {
				continue
			}
			to := p.lab.Hosts[1:]
			if t.key == plain.key {
				to = to[:1]
			}
			p.try(ctx, run, outcome{Tool: t.key}, to, t.run)
		}
	}
	s.table(tools)
	return errors.Join(ctx.Err(), p.lab.Close())
}

// disturb measures virtswarm undisturbed, and then in each of the scenarios.
func (s *series) disturb(ctx context.Context) error {
	base := -1.0
	for _, sc := range append([]scenario{undisturbed}, s.scenarios...) {
		p, err := s.place(sc)
		if err != nil {
			return err
		}
		against := base
		if sc.racks != nil {
			if far, ok := p.try(ctx, 1, outcome{Tool: plain.key}, p.lab.Hosts[receivers:], plain.run); ok {
				against = far.last()
			}
		}
		for run := 1; run <= s.runs && ctx.Err() == nil; run++ {
			p.try(ctx, run, outcome{Tool: "virtswarm", Scenario: "/" + sc.key}, p.lab.Hosts[1:], func(ctx context.Context, t *attempt) (outcome, error) {
				c, err := startCluster(ctx, t)
				if err != nil {
					return outcome{}, err
				}
				return sc.run(ctx, c, against)
			})
		}
		if err := errors.Join(ctx.Err(), p.lab.Close()); err != nil {
			return err
		}
		if sc.key == undisturbed.key {
			if base = s.median("virtswarm", "/"+sc.key, outcome.last); base < 0 {
				return errors.New("no run without a disturbance succeeded")
			}
		}
	}
	s.scenarioTable()
	return nil
}
