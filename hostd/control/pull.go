package control

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/virtswarm/virtswarm/hostd/fetch"
	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/hostd/swarm"
	"github.com/virtswarm/virtswarm/internal/content"
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

// Pull makes a version of a file at dest, an absolute path at which nothing is unless it says otherwise, and reports
// how it goes.
func (f *Files) Pull(ctx context.Context, ref Ref, dest string, o store.ExportOptions, report func(PullProgress) error) error {
	if err := f.checkDestination(dest, o); err != nil {
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
	if !handle.Stored().Complete() { // what is wrong with dest is said before hours of fetching
		if err := handle.Stored().Export(ctx, dest, o, nil); err != nil && !errors.Is(err, store.ErrMissing) {
			return f.exportError(err, dest, o)
		}
	}
	p := newPull(report, handle.Stored().HeldBytes())
	if err := handle.Wait(ctx, p.progress, handle.All()); err != nil {
		return reason.Explain(err, ref.Name)
	}
	f.Pulls.note(p.event.LocalBytes, p.event.RemoteBytes)
	if o.Overwrite { // somebody may have come meanwhile
		if err := f.checkDevice(dest); err != nil {
			return err
		}
	}
	if err := handle.Export(ctx, dest, o, p.progress); err != nil {
		return f.exportError(err, dest, o)
	}
	m := handle.Manifest()
	p.event.Phase, p.event.Rate, p.event.Done, p.event.Total = PullDone, 0, m.DataBytes(), m.DataBytes()
	p.event.Result = &Pulled{Ref: Ref{ref.Name, v.ID}, Size: m.Size(), DataBytes: m.DataBytes(), Dest: dest}
	return report(p.event)
}

// Read brings a version of a file to this host and hands out its bytes in order: some, then so many zeros. first is
// called before, with what it is.
func (f *Files) Read(ctx context.Context, ref Ref, first func(id content.Digest, size int64) error, each func(p []byte, zeros int64) error) error {
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
	if err := first(v.ID, handle.Manifest().Size()); err != nil {
		return err
	}
	p := newPull(func(PullProgress) error { return nil }, handle.Stored().HeldBytes())
	if err := handle.Wait(ctx, p.progress, handle.All()); err != nil {
		return reason.Explain(err, ref.Name)
	}
	f.Pulls.note(p.event.LocalBytes, p.event.RemoteBytes)
	m := handle.Manifest()
	buf := make([]byte, min(int64(m.ChunkSize()), m.Size()))
	var zeros int64
	for i := range m.Chunks() {
		n := m.ChunkLen(i)
		if m.IsHole(i) {
			zeros += int64(n)
			continue
		}
		if zeros > 0 {
			if err := each(nil, zeros); err != nil {
				return err
			}
			zeros = 0
		}
		if _, err := handle.ReadAt(ctx, buf[:n], m.Offset(i)); err != nil {
			return reason.Explain(err, ref.Name)
		}
		if err := each(buf[:n], 0); err != nil {
			return err
		}
	}
	if zeros > 0 {
		return each(nil, zeros)
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
