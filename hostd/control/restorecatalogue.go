package control

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

// maxLeftOut bounds the lines that say what is not brought back.
const maxLeftOut = 100

// Restoration is what became of a saved catalogue.
type Restoration struct {
	Adoptions
	Cluster  string   // of the saved catalogue
	Index    uint64   // of its last entry
	Names    int      // in it
	Versions int      // in it
	Present  int      // versions that were in the catalogue before
	LeftOut  []string // what is not brought back, a line each
}

// RestoreCatalogue enters what a saved catalogue names and this one does not. path is absolute, on this machine. A dry
// run only says what would be entered.
func (t *Strays) RestoreCatalogue(ctx context.Context, path string, dryRun bool) (Restoration, error) {
	saved, err := readCatalogue(path)
	if err != nil {
		return Restoration{}, err
	}
	strays, silent, err := t.all(ctx, !dryRun)
	if err != nil {
		return Restoration{}, err
	}
	r := &restore{Strays: t, saved: saved, lost: gatherLost(strays), answer: Restoration{
		Cluster: saved.ClusterID(), Index: saved.Applied(), Names: saved.Files(),
	}}
	r.compare()
	if !dryRun {
		if err := t.enter(ctx, r.entries); err != nil {
			return Restoration{}, err
		}
		if err := r.order(ctx); err != nil {
			return Restoration{}, err
		}
		t.awaitTold(ctx, r.entries, r.lost)
	}
	r.leaveOut()
	r.answer.Adoptions = outcome(r.entries)
	r.answer.Silent = silent
	return r.answer, nil
}

// readCatalogue reads a saved catalogue, all of it before anything is believed.
func readCatalogue(path string) (*placement.State, error) {
	if !filepath.IsAbs(path) {
		return nil, reason.Wrap(reason.Usage, path, errors.New("the path of a saved catalogue is not absolute"))
	}
	f, err := openSource(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s, err := placement.Restore(f)
	if err == nil && s.ClusterID() == "" {
		err = fmt.Errorf("%w: it is of no cluster", placement.ErrBadSnapshot)
	}
	if err != nil {
		return nil, reason.Wrap(reason.DamagedData, path, err).
			WithHint("nothing was entered; take another copy, or a newer virtswarm if it was saved by one; what hosts still hold, 'virtswarm adopt `all`' enters without it")
	}
	return s, nil
}

// restore is one call of RestoreCatalogue.
type restore struct {
	*Strays
	saved   *placement.State
	lost    map[content.Digest]*lostContent
	entries []*entry
	answer  Restoration
}

// compare makes an entry of each saved version that the catalogue lacks.
func (r *restore) compare() {
	r.Node.View(func(s *placement.State) {
		for _, f := range r.saved.Names("") {
			versions := r.versions(s, f)
			inOrder(versions)
			for _, e := range versions {
				r.answer.Versions++
				changed, err := s.Admits(e.cmd)
				if !changed && err == nil {
					r.answer.Present++
					continue
				}
				e.refused = reason.Explain(err, f.Name)
				e.missing = r.missing(s, e.cmd)
				r.entries = append(r.entries, e)
			}
		}
	})
}

// versions makes an entry of each version of a saved name, the oldest first.
func (r *restore) versions(s *placement.State, f placement.File) (entries []*entry) {
	rank := placement.RankOlder // what was published in another cluster hides nothing that was in this
	if r.saved.ClusterID() == s.ClusterID() {
		rank = placement.RankByTime
	}
	for _, v := range f.Versions {
		c, _ := r.saved.Content(v.ID)
		entries = append(entries, &entry{index: v.Index, cmd: placement.Adopt{Rank: rank, Publish: placement.Publish{
			Name: f.Name, ID: v.ID, Size: c.Size, DataBytes: c.DataBytes, ChunkSize: c.ChunkSize, Shards: c.Shards,
			Replicas: v.Replicas, Guests: v.Guests, Publisher: v.Publisher, At: v.At,
		}}})
	}
	return entries
}

// missing counts the shards of a content that nobody is known to hold.
func (r *restore) missing(s *placement.State, c placement.Adopt) int {
	held := content.NewBits(c.Shards)
	if l := r.lost[c.ID]; l != nil && l.like.Shards == c.Shards {
		held.Or(l.held)
	}
	for _, holder := range s.Holders(c.ID) {
		held.Or(holder.Shards.Bits(c.Shards))
	}
	return c.Shards - held.Count()
}

// order repeats the orders to hold what was entered now, as far as those who got them are members here.
func (r *restore) order(ctx context.Context) error {
	for _, e := range r.entries {
		if !e.changed {
			continue
		}
		c, _ := r.saved.Content(e.cmd.ID)
		d := &placement.Distribute{Name: e.cmd.Name, ID: e.cmd.ID, All: c.Targets.All}
		if !d.All {
			d.Hosts, _ = r.membersOf(c.Targets)
			d.Tags = c.Targets.Tags
		}
		if !d.All && len(d.Hosts)+len(d.Tags) == 0 {
			continue
		}
		if _, err := r.write(ctx, placement.Command{Distribute: d}, d.Name); err != nil {
			return err
		}
	}
	return nil
}

// membersOf finds the hosts of saved targets among the members, by their names, and names the others.
func (r *restore) membersOf(t placement.Targets) (ids []placement.HostID, others []string) {
	r.Node.View(func(s *placement.State) {
		for _, id := range t.Hosts {
			old, _ := r.saved.Host(id)
			if now, ok := s.HostByName(old.Name); ok {
				ids = append(ids, now.ID)
			} else {
				others = append(others, old.Name)
			}
		}
	})
	return ids, others
}

// leaveOut says what a saved catalogue has and is not brought back.
func (r *restore) leaveOut() {
	say := func(format string, args ...any) {
		r.answer.LeftOut = append(r.answer.LeftOut, fmt.Sprintf(format, args...))
	}
	var absent []string
	r.Node.View(func(s *placement.State) {
		for _, h := range r.saved.Hosts() {
			if _, ok := s.HostByName(h.Name); !ok {
				absent = append(absent, h.Name)
			}
		}
	})
	if n := len(absent); n > 0 {
		say("hosts that are no members, which join by a token: %s", some(absent))
	}
	if n := len(r.saved.Domains()); n > 0 {
		say("domains (%d), of which their hosts tell", n)
	}
	if n := len(r.saved.Tokens()); n > 0 {
		say("join tokens (%d), in whose place new ones are made", n)
	}
	for _, e := range r.entries {
		c, _ := r.saved.Content(e.cmd.ID)
		if _, others := r.membersOf(c.Targets); len(others) > 0 && e.refused == nil && len(r.answer.LeftOut) < maxLeftOut {
			say("the order that %s holds %s: no member has that name", some(others), e.cmd.Name)
		}
	}
}

// some joins names, the first of them if they are many.
func some(names []string) string {
	const most = 10
	if n := len(names); n > most {
		return fmt.Sprintf("%s and %d more", strings.Join(slices.Clone(names[:most]), ", "), n-most)
	}
	return strings.Join(names, ", ")
}
