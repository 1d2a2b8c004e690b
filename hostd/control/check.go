package control

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/virtswarm/virtswarm/hostd/fetch"
	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/hostd/swarm"
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

// CheckPhase says what a check is doing.
type CheckPhase int

// The phases of a check. The API's enum CheckPhase has the same numbers.
const (
	Checking CheckPhase = iota + 1
	Healing
	CheckDone
)

// CheckProgress says how far a check is, and what it has found.
type CheckProgress struct {
	Phase       CheckPhase
	Ref                 // of the file that is checked now; the name is empty if the catalogue has none
	Done, Total int64   // bytes that are held
	Rate        float64 // bytes a second
	Files       int     // that were checked
	BadChunks   int
	Healed      int // of them
	Damage      []Damage
}

// Damage is what was found of one file.
type Damage struct {
	Ref
	BadChunks int
	Healed    int // of them
}

// Verify reads what this disk holds of a name, of one version of it, or, if the name is empty, of everything, compares
// it with its digests and heals what is damaged.
func (f *Files) Verify(ctx context.Context, ref Ref, report func(CheckProgress) error) error {
	files := f.Store.List()
	if ref.Name != "" {
		var err error
		if files, err = f.filesNamed(ctx, ref); err != nil {
			return err
		}
	}
	c := newCheck(f, files, report)
	for _, file := range files {
		if err := c.verify(ctx, file); err != nil {
			return reason.Explain(err, c.event.Name)
		}
	}
	return c.end()
}

// filesNamed returns what this disk holds of a name's versions, or of one of them.
func (f *Files) filesNamed(ctx context.Context, ref Ref) ([]*store.File, error) {
	v, err := f.lookup(ctx, ref)
	if err != nil {
		return nil, err
	}
	ids := []content.Digest{v.ID}
	if ref.ID.IsZero() {
		f.Node.View(func(s *placement.State) {
			named, _ := s.File(ref.Name)
			ids = ids[:0]
			for _, v := range named.Versions {
				ids = append(ids, v.ID)
			}
		})
	}
	var files []*store.File
	for _, id := range ids {
		if file, ok := f.Store.Get(id); ok {
			files = append(files, file)
		}
	}
	return files, nil
}

// Scrub checks the whole store at a limited rate, in bytes a second, heals what is damaged, and notes when that was.
func (f *Files) Scrub(ctx context.Context, rate int64, report func(CheckProgress) error) error {
	c := newCheck(f, f.Store.List(), report)
	var failed error
	err := f.Store.Scrub(ctx, rate, func(file *store.File, bad []int, err error) {
		if err != nil && !errors.Is(err, store.ErrRemoved) {
			failed = errors.Join(failed, err)
		}
		failed = errors.Join(failed, c.checked(ctx, file, bad))
	})
	if err := errors.Join(err, failed); err != nil {
		return reason.Explain(err, "")
	}
	if err := f.noteScrub(); err != nil {
		f.Logger.Warn("cannot note the time of the scrub", "error", err)
	}
	return c.end()
}

// scrubMark is a file whose time of change is that of the last complete scrub.
func (f *Files) scrubMark() string { return filepath.Join(f.Data, "scrubbed") }

// noteScrub sets the time of the last scrub to now.
func (f *Files) noteScrub() error { return disk.WriteFile(f.FS, f.scrubMark(), nil, 0o600) }

// ScrubEvery scrubs at a rate whenever the last scrub is longer ago than every, until ctx ends. A new host begins to
// count at its first start.
func (f *Files) ScrubEvery(ctx context.Context, every time.Duration, rate int64) {
	if _, err := f.FS.Lstat(f.scrubMark()); errors.Is(err, fs.ErrNotExist) {
		if err := f.noteScrub(); err != nil {
			f.Logger.Error("cannot keep the time of scrubs: scrub by hand", "error", err)
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
		fi, err := f.FS.Stat(f.scrubMark())
		if err != nil || time.Since(fi.ModTime()) < every {
			continue
		}
		f.Logger.Info("scrubbing the store", "rate", rate)
		silent := func(CheckProgress) error { return nil }
		if err := f.Scrub(ctx, rate, silent); err != nil && ctx.Err() == nil {
			f.Logger.Warn("the scrub did not end well", "error", err)
		}
	}
}

// check is one run of Verify or Scrub. Its methods are not safe for concurrent use.
type check struct {
	*Files
	report func(CheckProgress) error
	event  CheckProgress
	base   int64 // bytes of the files that are done
	pace   *pace
}

func newCheck(f *Files, files []*store.File, report func(CheckProgress) error) *check {
	c := &check{Files: f, report: report, pace: newPace()}
	for _, file := range files {
		c.event.Total += file.HeldBytes()
	}
	return c
}

// verify checks one file as fast as the disk allows, and heals it.
func (c *check) verify(ctx context.Context, f *store.File) error {
	c.name(f)
	bad, err := f.Verify(ctx, func(done, _ int64) {
		c.pace.tick(c.base+done, func(rate float64) {
			c.event.Phase, c.event.Done, c.event.Rate = Checking, c.base+done, rate
			c.report(c.event) // if the caller is gone, ctx ends
		})
	})
	if err != nil && !errors.Is(err, store.ErrRemoved) {
		return err
	}
	return c.checked(ctx, f, bad)
}

// name puts the file's name into the events.
func (c *check) name(f *store.File) {
	c.event.Ref = Ref{ID: f.ID()}
	c.Node.View(func(s *placement.State) {
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
	c.event.Done = c.base
	if len(bad) == 0 {
		var err error
		c.pace.tick(c.base, func(rate float64) {
			c.event.Phase, c.event.Rate = Checking, rate
			err = c.report(c.event)
		})
		return err
	}
	c.event.Phase = Healing
	c.event.BadChunks += len(bad)
	if err := c.report(c.event); err != nil {
		return err
	}
	healed := c.heal(ctx, f, bad)
	c.event.Healed += healed
	if len(c.event.Damage) < maxDamage {
		c.event.Damage = append(c.event.Damage, Damage{Ref: c.event.Ref, BadChunks: len(bad), Healed: healed})
	}
	return ctx.Err()
}

// heal fetches damaged chunks again and says how many it got.
func (c *check) heal(ctx context.Context, f *store.File, bad []int) int {
	defer c.Keeper.Recheck() // what was not healed may be a duty
	healing, cancel := context.WithTimeout(ctx, healPatience)
	defer cancel()
	if err := c.bring(healing, f.ID(), bad); err != nil {
		c.Logger.Warn("cannot heal a damaged file now", "id", f.ID(), "chunks", len(bad), "error", err)
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
func (f *Files) bring(ctx context.Context, id content.Digest, chunks []int) error {
	handle, err := f.Fetch.Open(ctx, id, swarm.Distribute)
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
	c.event.Phase, c.event.Ref, c.event.Rate = CheckDone, Ref{}, 0
	c.event.Done = c.event.Total
	return c.report(c.event)
}
