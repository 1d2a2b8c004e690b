package control

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

const (
	// enterAtOnce bounds the names that are entered in the catalogue at a time: enough that the log writes many at
	// once.
	enterAtOnce = 16
	// tellPatience bounds the wait until hosts have told the catalogue what they hold of contents that were entered.
	tellPatience = 10 * time.Second
)

// entry is a version of an earlier catalogue on its way into this one.
type entry struct {
	cmd     placement.Adopt
	index   uint64 // of its publication in the earlier catalogue
	missing int    // shards that nobody who answered holds
	changed bool   // it was entered, and was not there before
	refused error
}

// enter enters versions in the catalogue, the oldest of each name first, and notes with each what became of it. An
// error means that it could not go on; what was entered until then stays.
func (t *Strays) enter(ctx context.Context, entries []*entry) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	free := make(chan struct{}, enterAtOnce)
	var entering sync.WaitGroup
	for _, versions := range byName(entries) {
		free <- struct{}{}
		entering.Go(func() {
			defer func() { <-free }()
			for _, e := range versions {
				if err := t.enterOne(ctx, e); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	entering.Wait()
	err := context.Cause(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return reason.Wrap(reason.TimedOut, "", err).WithHint("repeat the command: it goes on where it stopped")
	}
	return err
}

// enterOne enters a version. A refusal is noted with it and is no error.
func (t *Strays) enterOne(ctx context.Context, e *entry) error {
	if e.refused != nil {
		return nil
	}
	r, err := t.write(ctx, placement.Command{Adopt: &e.cmd}, e.cmd.Name)
	if _, refused := placement.ErrorCode(err); refused && !errors.Is(err, placement.ErrOutcomeUnknown) {
		e.refused = err
		return nil
	}
	e.changed = r.Changed
	return err
}

// byName groups entries by their names, in the order of names. Within a name the order stays.
func byName(entries []*entry) (groups [][]*entry) {
	sorted := slices.Clone(entries)
	slices.SortStableFunc(sorted, func(a, b *entry) int { return cmp.Compare(a.cmd.Name, b.cmd.Name) })
	for i, e := range sorted {
		if i == 0 || e.cmd.Name != sorted[i-1].cmd.Name {
			groups = append(groups, nil)
		}
		last := len(groups) - 1
		groups[last] = append(groups[last], e)
	}
	return groups
}

// inOrder makes the times of a name's versions, which are in order, ascend: the catalogue keeps versions in the order
// of their times, and a publisher's clock may have been wrong.
func inOrder(versions []*entry) {
	for i, e := range versions {
		if i > 0 {
			e.cmd.At = max(e.cmd.At, versions[i-1].cmd.At)
		}
	}
}

// awaitTold waits until the catalogue has been told what hosts hold of the contents that were entered, so that who
// pulls next finds them. It gives up in silence: the hosts go on by themselves.
func (t *Strays) awaitTold(ctx context.Context, entries []*entry, lost map[content.Digest]*lostContent) {
	ctx, cancel := context.WithTimeout(ctx, tellPatience)
	defer cancel()
	for {
		changed := t.Node.Changed()
		told := true
		t.Node.View(func(s *placement.State) {
			for _, e := range entries {
				told = told && (!e.changed || lost[e.cmd.ID].told(s))
			}
		})
		if told {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// told says whether the catalogue has all that hosts told of a content. There is nothing to tell of nil.
func (l *lostContent) told(s *placement.State) bool {
	if l == nil {
		return true
	}
	for host, held := range l.holders {
		lack := held.Bits(l.like.Shards)
		lack.AndNot(s.Held(host, l.like.ID).Bits(l.like.Shards))
		if lack.Count() > 0 {
			return false
		}
	}
	return true
}

// outcome says what became of entries.
func outcome(entries []*entry) (r Adoptions) {
	for _, e := range entries {
		if e.refused != nil {
			r.Refused++
		} else {
			r.Entered++
		}
		r.Entries = append(r.Entries, Adopted{
			Ref: Ref{e.cmd.Name, e.cmd.ID}, Shards: max(1, e.cmd.Shards), MissingShards: e.missing, Refused: e.refused,
		})
	}
	return r
}
