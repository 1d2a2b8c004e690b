package hostd

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/virtswarm/virtswarm/hostd/fetch"
	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/hostd/swarm"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/placement"

	"github.com/virtswarm/virtswarm/internal/reason"
)

const (
	// maxDamage bounds the files that the last event of a check lists.
	maxDamage = 1000
	// healPatience bounds the attempt to fetch the damaged chunks of one file. What is not healed by then is fetched
	// by the keeper once a holder is back.
	healPatience = time.Minute
	// scrubLook is how often it is checked whether a scrub is due.
	scrubLook = time.Minute
)

// Verify implements server.Host.
func (h *Host) Verify(ctx context.Context, req *v1.VerifyRequest, send func(*v1.CheckProgress) error) error {
	files := h.store.List()
	if req.GetName() != "" {
		var err error
		if files, err = h.filesNamed(ctx, req.GetName(), req.GetId()); err != nil {
			return err
		}
	}
	c := newCheck(h, files, send)
	for _, f := range files {
		if err := c.verify(ctx, f); err != nil {
			return reason.Explain(err, c.event.GetName())
		}
	}
	return c.end()
}

// filesNamed returns what this disk holds of a name's versions, or of one of them.
func (h *Host) filesNamed(ctx context.Context, name, id string) ([]*store.File, error) {
	v, err := h.lookup(ctx, name, id)
	if err != nil {
		return nil, err
	}
	ids := []content.Digest{v.ID}
	if id == "" {
		h.node.View(func(s *placement.State) {
			f, _ := s.File(name)
			ids = ids[:0]
			for _, v := range f.Versions {
				ids = append(ids, v.ID)
			}
		})
	}
	var files []*store.File
	for _, id := range ids {
		if f, ok := h.store.Get(id); ok {
			files = append(files, f)
		}
	}
	return files, nil
}

// Scrub implements server.Host.
func (h *Host) Scrub(ctx context.Context, req *v1.ScrubRequest, send func(*v1.CheckProgress) error) error {
	rate := int64(req.GetRate())
	if rate <= 0 {
		rate = int64(h.cfg.ScrubRate)
	}
	return reason.Explain(h.scrub(ctx, rate, send), "")
}

// scrub checks the whole store at a limited rate, heals what is damaged, and notes when that was.
func (h *Host) scrub(ctx context.Context, rate int64, send func(*v1.CheckProgress) error) error {
	c := newCheck(h, h.store.List(), send)
	var failed error
	err := h.store.Scrub(ctx, rate, func(f *store.File, bad []int, err error) {
		if err != nil && !errors.Is(err, store.ErrRemoved) {
			failed = errors.Join(failed, err)
		}
		failed = errors.Join(failed, c.checked(ctx, f, bad))
	})
	if err := errors.Join(err, failed); err != nil {
		return err
	}
	if err := h.noteScrub(); err != nil {
		h.log.Warn("cannot note the time of the scrub", "error", err)
	}
	return c.end()
}

// scrubMark is a file whose time of change is that of the last complete scrub.
func (h *Host) scrubMark() string { return filepath.Join(h.cfg.Data, "scrubbed") }

// noteScrub sets the time of the last scrub to now.
func (h *Host) noteScrub() error { return disk.WriteFile(h.fs, h.scrubMark(), nil, 0o600) }

// scrubNowAndThen scrubs whenever the last scrub is too long ago, until ctx ends. A new host begins to count at its
// first start.
func (h *Host) scrubNowAndThen(ctx context.Context) {
	if !exists(h.fs, h.scrubMark()) {
		if err := h.noteScrub(); err != nil {
			h.log.Error("cannot keep the time of scrubs: scrub by hand", "error", err)
			return
		}
	}
	look := time.NewTicker(scrubLook)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		fi, err := h.fs.Stat(h.scrubMark())
		if err != nil || time.Since(fi.ModTime()) < h.cfg.ScrubEvery {
			continue
		}
		h.log.Info("scrubbing the store", "rate", h.cfg.ScrubRate)
		silent := func(*v1.CheckProgress) error { return nil }
		if err := h.scrub(ctx, int64(h.cfg.ScrubRate), silent); err != nil && ctx.Err() == nil {
			h.log.Warn("the scrub did not end well", "error", err)
		}
	}
}

// check is one run of Verify or Scrub. Its methods are not safe for concurrent use.
type check struct {
	host  *Host
	send  func(*v1.CheckProgress) error
	event v1.CheckProgress
	base  int64 // bytes of the files that are done
	pace  *pace
}

func newCheck(h *Host, files []*store.File, send func(*v1.CheckProgress) error) *check {
	c := &check{host: h, send: send, pace: newPace()}
	for _, f := range files {
		c.event.Total += uint64(f.HeldBytes())
	}
	return c
}

// verify checks one file as fast as the disk allows, and heals it.
func (c *check) verify(ctx context.Context, f *store.File) error {
	c.name(f)
	bad, err := f.Verify(ctx, func(done, _ int64) {
		c.pace.tick(c.base+done, func(rate float64) {
			c.event.Phase, c.event.Done, c.event.Rate = v1.CheckPhase_CHECK_PHASE_CHECKING, uint64(c.base+done), rate
			c.send(&c.event) // if the caller is gone, ctx ends
		})
	})
	if err != nil && !errors.Is(err, store.ErrRemoved) {
		return err
	}
	return c.checked(ctx, f, bad)
}

// name puts the file's name into the events.
func (c *check) name(f *store.File) {
	c.event.Id, c.event.Name = f.ID().String(), ""
	c.host.node.View(func(s *placement.State) {
		if content, ok := s.Content(f.ID()); ok && len(content.Names) > 0 {
			c.event.Name = content.Names[0]
		}
	})
}

// checked counts a file as checked and heals what was damaged in it.
func (c *check) checked(ctx context.Context, f *store.File, bad []int) error {
	c.name(f)
	c.base += f.HeldBytes()
	for _, chunk := range bad { // not held any more
		c.base += int64(f.Manifest().ChunkLen(chunk))
	}
	c.event.Files++
	c.event.Done = uint64(c.base)
	if len(bad) == 0 {
		var err error
		c.pace.tick(c.base, func(rate float64) {
			c.event.Phase, c.event.Rate = v1.CheckPhase_CHECK_PHASE_CHECKING, rate
			err = c.send(&c.event)
		})
		return err
	}
	c.event.Phase = v1.CheckPhase_CHECK_PHASE_HEALING
	c.event.BadChunks += uint64(len(bad))
	if err := c.send(&c.event); err != nil {
		return err
	}
	healed := c.heal(ctx, f, bad)
	c.event.HealedChunks += uint64(healed)
	if len(c.event.Damage) < maxDamage {
		c.event.Damage = append(c.event.Damage, &v1.Damage{
			Name: c.event.Name, Id: c.event.Id, BadChunks: uint64(len(bad)), HealedChunks: uint64(healed),
		})
	}
	return ctx.Err()
}

// heal fetches damaged chunks again and says how many it got.
func (c *check) heal(ctx context.Context, f *store.File, bad []int) int {
	defer c.host.keeper.Recheck() // what was not healed may be a duty
	healing, cancel := context.WithTimeout(ctx, healPatience)
	defer cancel()
	if err := c.host.bring(healing, f.ID(), bad); err != nil {
		c.host.log.Warn("cannot heal a damaged file now", "id", f.ID(), "chunks", len(bad), "error", err)
	}
	healed := 0
	for _, chunk := range bad {
		if f.Has(chunk) {
			healed++
		}
	}
	return healed
}

// bring fetches chunks of a content.
func (h *Host) bring(ctx context.Context, id content.Digest, chunks []int) error {
	handle, err := h.fetch.Open(ctx, id, swarm.Distribute)
	if err != nil {
		return err
	}
	defer handle.Close()
	var ranges []fetch.Range
	for _, i := range chunks {
		ranges = append(ranges, fetch.Range{First: i, End: i + 1})
	}
	return handle.Wait(ctx, nil, ranges...)
}

// end sends the last event.
func (c *check) end() error {
	c.event.Phase, c.event.Name, c.event.Id, c.event.Rate = v1.CheckPhase_CHECK_PHASE_DONE, "", "", 0
	c.event.Done = c.event.Total
	return c.send(&c.event)
}
