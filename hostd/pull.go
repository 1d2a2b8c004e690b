package hostd

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/hostd/swarm"
	"github.com/virtswarm/virtswarm/internal/api"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/content"
)

// maxHeals bounds how often a pull fetches again what its export found damaged: a disk that damages what was written
// a moment ago is beyond help.
const maxHeals = 3

// Pull implements server.Host.
func (h *Host) Pull(ctx context.Context, req *v1.PullRequest, send func(*v1.PullProgress) error) error {
	if err := h.checkDestination(req.GetDest()); err != nil {
		return err
	}
	v, err := h.lookup(ctx, req.GetName(), req.GetId())
	if err != nil {
		return err
	}
	unpin := h.keeper.Pin(v.ID)
	defer unpin()
	p := &pull{host: h, send: send, event: v1.PullProgress{Phase: v1.PullPhase_PULL_PHASE_FETCHING}}
	file, err := h.fetches.File(ctx, v.ID)
	if err != nil {
		return Explain(err, req.GetName())
	}
	h.keeper.Remember(file)
	if err := h.store.MakeRoom(ctx, file.Manifest().DataBytes()-file.HeldBytes()); err != nil {
		return Explain(err, req.GetName())
	}
	p.event.LocalBytes = uint64(file.HeldBytes())
	if err := p.fetch(ctx, file, content.Bits{}); err != nil {
		return Explain(err, req.GetName())
	}
	h.cache.note(p.event.LocalBytes, p.event.RemoteBytes)
	if err := p.export(ctx, file, req.GetDest(), exportModes[req.GetMode()]); err != nil {
		return Explain(err, req.GetDest())
	}
	m := file.Manifest()
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
		return api.NewError(api.Usage, dest, errors.New("the destination is not an absolute path"))
	}
	if exists(h.fs, dest) {
		return api.NewError(api.DestExists, dest, nil)
	}
	if fi, err := h.fs.Stat(filepath.Dir(dest)); err != nil || !fi.IsDir() {
		return api.NewError(api.Usage, dest, fmt.Errorf("there is no directory %s", filepath.Dir(dest))).WithHint("make the directory first")
	}
	return nil
}

// pull is one call of Pull.
type pull struct {
	host  *Host
	send  func(*v1.PullProgress) error
	event v1.PullProgress
}

// fetch brings the wanted chunks to this disk, the zero Bits meaning all.
func (p *pull) fetch(ctx context.Context, file *store.File, want content.Bits) error {
	pace := newPace()
	remote, held := int64(p.event.RemoteBytes), heldBytes(file, want)
	return p.host.fetches.Ensure(ctx, file.ID(), want, swarm.Distribute, func(s swarm.Progress) {
		p.event.RemoteBytes = uint64(remote + s.Done - held)
		p.event.Done, p.event.Total, p.event.Rate, p.event.Sources = uint64(s.Done), uint64(s.Total), s.Rate, uint32(s.Sources())
		pace.tick(s.Done, func(float64) { p.send(&p.event) }) // if the caller is gone, ctx ends
	})
}

// export writes the file to its destination, and heals what it finds damaged on the way.
func (p *pull) export(ctx context.Context, file *store.File, dest string, mode store.ExportMode) error {
	for heals := 0; ; heals++ {
		pace := newPace()
		err := file.Export(ctx, dest, mode, func(done, total int64) {
			pace.tick(done, func(rate float64) {
				p.event.Phase, p.event.Sources = v1.PullPhase_PULL_PHASE_EXPORTING, 0
				p.event.Done, p.event.Total, p.event.Rate = uint64(done), uint64(total), rate
				p.send(&p.event)
			})
		})
		damage, ok := errors.AsType[*store.CorruptError](err)
		if !ok || heals == maxHeals {
			return err
		}
		p.host.log.Warn("a stored file is damaged, fetching the damaged chunks again", "id", file.ID(), "chunks", len(damage.Chunks))
		p.event.Phase = v1.PullPhase_PULL_PHASE_FETCHING
		if err := p.fetch(ctx, file, bitsOf(file, damage.Chunks)); err != nil {
			return errors.Join(damage, err)
		}
	}
}

// heldBytes is how many bytes of data of the wanted chunks (the zero Bits: all) can be read already.
func heldBytes(file *store.File, want content.Bits) (bytes int64) {
	m, have := file.Manifest(), file.Have()
	for c, ok := have.NextSet(0); ok; c, ok = have.NextSet(c + 1) {
		if !m.IsHole(c) && (want.Len() == 0 || want.Has(c)) {
			bytes += int64(m.ChunkLen(c))
		}
	}
	return bytes
}

// bitsOf makes a set of a file's chunks.
func bitsOf(file *store.File, chunks []int) content.Bits {
	b := content.NewBits(file.Manifest().Chunks())
	for _, c := range chunks {
		b.Set(c)
	}
	return b
}
