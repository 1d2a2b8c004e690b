package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/virtswarm/virtswarm/hostd/fetch"
	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/hostd/swarm"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// PullPhase says what a pull is doing.
type PullPhase int

// The phases, in their order. The API's enum PullPhase has the same numbers.
const (
	PullFetching PullPhase = iota + 1
	PullExporting
	PullDone
)

// PullProgress says how far a pull is.
type PullProgress struct {
	Phase       PullPhase
	Done, Total int64   // bytes of data
	Rate        float64 // bytes a second
	Sources     int     // hosts that give now
	RemoteBytes int64   // that came from other hosts
	LocalBytes  int64   // that were here before
	Result      *Pulled // with PullDone
}

// Pulled is what a pull made.
type Pulled struct {
	Ref
	Size, DataBytes int64
	Dest            string
}

// Pull makes a version of a file at dest, an absolute path at which nothing is, and reports how it goes.
func (f *Files) Pull(ctx context.Context, ref Ref, dest string, mode store.ExportMode, report func(PullProgress) error) error {
	if err := f.checkDestination(dest); err != nil {
		return err
	}
	v, err := f.lookup(ctx, ref)
	if err != nil {
		return err
	}
	handle, err := f.Fetch.Open(ctx, v.ID, swarm.Distribute)
	if err != nil {
		return reason.Explain(err, ref.Name)
	}
	defer handle.Close()
	f.Keeper.Remember(handle.Stored())
	p := newPull(report, handle.Stored().HeldBytes())
	if err := handle.Wait(ctx, p.progress, handle.All()); err != nil {
		return reason.Explain(err, ref.Name)
	}
	f.Pulls.note(p.event.LocalBytes, p.event.RemoteBytes)
	if err := handle.Export(ctx, dest, mode, p.progress); err != nil {
		return reason.Explain(err, dest)
	}
	m := handle.Manifest()
	p.event.Phase, p.event.Rate, p.event.Done, p.event.Total = PullDone, 0, m.DataBytes(), m.DataBytes()
	p.event.Result = &Pulled{Ref: Ref{ref.Name, v.ID}, Size: m.Size(), DataBytes: m.DataBytes(), Dest: dest}
	return report(p.event)
}

// checkDestination refuses, before anything is fetched, a path at which nothing can be made.
func (f *Files) checkDestination(dest string) error {
	if !filepath.IsAbs(dest) {
		return reason.Wrap(reason.Usage, dest, errors.New("the destination is not an absolute path"))
	}
	if _, err := f.FS.Lstat(dest); !errors.Is(err, fs.ErrNotExist) {
		return reason.Wrap(reason.DestExists, dest, nil)
	}
	if fi, err := f.FS.Stat(filepath.Dir(dest)); err != nil || !fi.IsDir() {
		return reason.Wrap(reason.Usage, dest, fmt.Errorf("there is no directory %s", filepath.Dir(dest))).WithHint("make the directory first")
	}
	return nil
}

// pull tells the caller of Pull how it goes.
type pull struct {
	report func(PullProgress) error
	event  PullProgress
	pace   *pace
}

func newPull(report func(PullProgress) error, local int64) *pull {
	return &pull{report: report, pace: newPace(), event: PullProgress{Phase: PullFetching, LocalBytes: local}}
}

// progress tells of fetching and of exporting, now and then.
func (p *pull) progress(now fetch.Progress) {
	phase := PullFetching
	if now.Exporting {
		phase = PullExporting
	}
	if phase != p.event.Phase {
		p.event.Phase, p.pace = phase, newPace()
	}
	p.event.RemoteBytes, p.event.Sources = now.Fetched, now.Sources
	p.event.Done, p.event.Total = now.Done, now.Total
	p.pace.tick(now.Done, func(rate float64) {
		if p.event.Rate = now.Rate; now.Exporting {
			p.event.Rate = rate
		}
		p.report(p.event) // if the caller is gone, ctx ends
	})
}

// PullMetrics tells how much of what was pulled on this host was here already. It is safe for concurrent use.
type PullMetrics struct{ hits, misses atomic.Int64 }

// NewPullMetrics makes PullMetrics and registers them.
func NewPullMetrics(r prometheus.Registerer) *PullMetrics {
	m := &PullMetrics{}
	counter := func(name, help string, n *atomic.Int64) {
		r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: "virtswarm", Subsystem: "cache", Name: name, Help: help,
		}, func() float64 { return float64(n.Load()) }))
	}
	counter("hit_bytes_total", "Bytes that pulls wanted and were here already.", &m.hits)
	counter("miss_bytes_total", "Bytes that pulls wanted and had to be fetched.", &m.misses)
	return m
}

func (m *PullMetrics) note(hit, miss int64) {
	m.hits.Add(hit)
	m.misses.Add(miss)
}
