package hostd

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/virtswarm/virtswarm/hostd/fetch"
	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/hostd/swarm"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// Pull implements server.Host.
func (h *Host) Pull(ctx context.Context, req *v1.PullRequest, send func(*v1.PullProgress) error) error {
	if err := h.checkDestination(req.GetDest()); err != nil {
		return err
	}
	v, err := h.lookup(ctx, req.GetName(), req.GetId())
	if err != nil {
		return err
	}
	handle, err := h.fetch.Open(ctx, v.ID, swarm.Distribute)
	if err != nil {
		return reason.Explain(err, req.GetName())
	}
	defer handle.Close()
	h.keeper.Remember(handle.Stored())
	p := newPull(send, handle.Stored().HeldBytes())
	if err := handle.Wait(ctx, p.progress, handle.All()); err != nil {
		return reason.Explain(err, req.GetName())
	}
	h.cache.note(p.event.LocalBytes, p.event.RemoteBytes)
	if err := handle.Export(ctx, req.GetDest(), exportModes[req.GetMode()], p.progress); err != nil {
		return reason.Explain(err, req.GetDest())
	}
	m := handle.Manifest()
	p.event.Phase, p.event.Rate, p.event.Done, p.event.Total = v1.PullPhase_PULL_PHASE_DONE, 0, uint64(m.DataBytes()), uint64(m.DataBytes())
	p.event.Result = &v1.PullResult{
		Name: req.GetName(), Id: v.ID.String(), Size: uint64(m.Size()), DataBytes: uint64(m.DataBytes()), Dest: req.GetDest(),
	}
	return send(&p.event)
}

// exportModes are the API's modes in the store's words.
var exportModes = map[v1.ExportMode]store.ExportMode{
	v1.ExportMode_EXPORT_MODE_HARDLINK: store.HardLink,
	v1.ExportMode_EXPORT_MODE_COPY:     store.Copy,
}

// checkDestination refuses, before anything is fetched, a path at which nothing can be made.
func (h *Host) checkDestination(dest string) error {
	if !filepath.IsAbs(dest) {
		return reason.Wrap(reason.Usage, dest, errors.New("the destination is not an absolute path"))
	}
	if exists(h.fs, dest) {
		return reason.Wrap(reason.DestExists, dest, nil)
	}
	if fi, err := h.fs.Stat(filepath.Dir(dest)); err != nil || !fi.IsDir() {
		return reason.Wrap(reason.Usage, dest, fmt.Errorf("there is no directory %s", filepath.Dir(dest))).WithHint("make the directory first")
	}
	return nil
}

// pull tells the caller of Pull how it goes.
type pull struct {
	send  func(*v1.PullProgress) error
	event v1.PullProgress
	pace  *pace
}

func newPull(send func(*v1.PullProgress) error, local int64) *pull {
	return &pull{send: send, pace: newPace(), event: v1.PullProgress{Phase: v1.PullPhase_PULL_PHASE_FETCHING, LocalBytes: uint64(local)}}
}

// progress tells of fetching and of exporting, now and then.
func (p *pull) progress(now fetch.Progress) {
	phase := v1.PullPhase_PULL_PHASE_FETCHING
	if now.Exporting {
		phase = v1.PullPhase_PULL_PHASE_EXPORTING
	}
	if phase != p.event.Phase {
		p.event.Phase, p.pace = phase, newPace()
	}
	p.event.RemoteBytes, p.event.Sources = uint64(now.Fetched), uint32(now.Sources)
	p.event.Done, p.event.Total = uint64(now.Done), uint64(now.Total)
	p.pace.tick(now.Done, func(rate float64) {
		if p.event.Rate = now.Rate; now.Exporting {
			p.event.Rate = rate
		}
		p.send(&p.event) // if the caller is gone, ctx ends
	})
}
