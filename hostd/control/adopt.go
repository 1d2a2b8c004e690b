package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

// minDigits is how many digits of a digest name a stray.
const minDigits = 8

// Adoption is a request to give strays their names back.
type Adoption struct {
	Which    []string // names, digests, or the first digits of digests
	All      bool     // all that have names
	As       string   // another name for the one that is meant; empty: its own
	Replicas *int     // as for Publication; nil: as they were
	Force    bool     // also those of which nobody has all
}

// Adopted is what became of an entry.
type Adopted struct {
	Ref
	Shards, MissingShards int
	Refused               error // nil if it is in the catalogue now
}

// Adoptions is what became of an order to enter something.
type Adoptions struct {
	Entries          []Adopted
	Entered, Refused int
	Silent           []string // hosts that did not answer
}

// Adopt enters strays in the catalogue under the names that they had, or under another.
func (t *Strays) Adopt(ctx context.Context, req Adoption) (r Adoptions, err error) {
	if err := req.check(); err != nil {
		return r, err
	}
	strays, silent, err := t.all(ctx, true)
	if err != nil {
		return r, err
	}
	lost := gatherLost(strays)
	chosen, err := choose(req, lost)
	if err != nil {
		return r, t.explainChoice(err, silent)
	}
	entries := t.entriesOf(req, chosen)
	if !req.Force {
		refuseIncomplete(entries, lost, silent)
	}
	if err := t.enter(ctx, entries); err != nil {
		return r, err
	}
	t.awaitTold(ctx, entries, lost)
	r = outcome(entries)
	r.Silent = silent
	return r, nil
}

// check checks a request as far as that can be done without the strays.
func (req *Adoption) check() error {
	switch {
	case req.All && (len(req.Which) > 0 || req.As != ""):
		return reason.Wrap(reason.Usage, "`all`", errors.New("it goes with no NAME or ID, and not with `as`"))
	case !req.All && len(req.Which) == 0:
		return reason.Wrap(reason.Usage, "adopt", errors.New("nothing is named")).
			WithHint("name strays, or give `all`; list them with: virtswarm strays `all`")
	case req.Replicas != nil && *req.Replicas > placement.MaxReplicas:
		return reason.Wrap(reason.Usage, "`replicas`", fmt.Errorf("%d is more than %d; take 'all' for every host", *req.Replicas, placement.MaxReplicas))
	}
	if req.As == "" {
		return nil
	}
	return reason.Explain(placement.ValidateName(req.As), fmt.Sprintf("%.200q", req.As))
}

// errNoStray is wrapped by the error about what names no stray.
var errNoStray = errors.New("no host that answers has such a stray")

// choose finds the strays that a request means, ordered by id.
func choose(req Adoption, lost map[content.Digest]*lostContent) ([]*lostContent, error) {
	meant := map[content.Digest]*lostContent{}
	if req.All {
		for id, l := range lost {
			if len(l.names) > 0 {
				meant[id] = l
			}
		}
	}
	for _, which := range req.Which {
		found := false
		for id, l := range lost {
			if l.isMeant(which) {
				meant[id], found = l, true
			}
		}
		if !found {
			return nil, reason.Wrap(reason.NotFound, which, errNoStray)
		}
	}
	var list []*lostContent
	for _, l := range meant {
		list = append(list, l)
	}
	slices.SortFunc(list, func(a, b *lostContent) int { return slices.Compare(a.like.ID[:], b.like.ID[:]) })
	if req.As != "" && len(list) != 1 {
		return nil, reason.Wrap(reason.Usage, req.As, fmt.Errorf("`as` gives a name to one stray, and %d are meant", len(list))).
			WithHint("name it by its id; see: virtswarm strays `all`")
	}
	return list, nil
}

// isMeant says whether an operator means a stray: by one of its names, by its digest or the first digits of it, or by
// both.
func (l *lostContent) isMeant(which string) bool {
	if l.named(which) {
		return true
	}
	name, digits, both := "", which, false
	if i := strings.LastIndex(which, "@b3:"); i >= 0 {
		name, digits, both = which[:i], which[i+1:], true
	}
	digits, ok := strings.CutPrefix(strings.ToLower(digits), "b3:")
	return ok && len(digits) >= minDigits && strings.HasPrefix(l.like.ID.Hex(), digits) && (!both || l.named(name))
}

// explainChoice says what else may be the cause if nothing is there to adopt.
func (t *Strays) explainChoice(err error, silent []string) error {
	e := reason.As(err, "")
	if !errors.Is(err, errNoStray) {
		return err
	}
	hint := "list the strays with: virtswarm strays `all`"
	t.Node.View(func(s *placement.State) {
		if _, ok := s.File(e.Subject); ok {
			hint = "the catalogue has a file of this name; see: virtswarm show NAME"
		}
	})
	if len(silent) > 0 {
		hint = fmt.Sprintf("bring back %s, which did not answer, or %s", strings.Join(silent, ", "), hint)
	}
	return e.WithHint(hint)
}

// entriesOf makes an entry of each name of each stray, the oldest version of each name first.
func (t *Strays) entriesOf(req Adoption, chosen []*lostContent) []*entry {
	var entries []*entry
	for _, l := range chosen {
		missing := l.missing().Count(l.like.Shards)
		for _, n := range l.namesFor(req.As) {
			e := &entry{cmd: placement.Adopt{Publish: l.like}, index: n.Index, missing: missing}
			e.cmd.Name, e.cmd.Replicas, e.cmd.Guests, e.cmd.At = n.Name, n.Replicas, n.Guests, n.At
			e.cmd.Publisher = n.Publisher
			if !e.cmd.Publisher.Valid() {
				e.cmd.Publisher = t.Self
			}
			if req.Replicas != nil {
				e.cmd.Replicas = *req.Replicas
			}
			entries = append(entries, e)
		}
	}
	t.Node.View(func(s *placement.State) {
		for _, versions := range byName(entries) {
			sortVersions(versions, chosen)
			inOrder(versions)
			if _, taken := s.File(versions[0].cmd.Name); taken {
				continue
			}
			for _, e := range versions { // whatever its publishers are, there is nothing to hide but one another
				e.cmd.Rank = placement.RankByTime
			}
		}
	})
	slices.SortStableFunc(entries, func(a, b *entry) int {
		return cmp.Or(cmp.Compare(a.cmd.Name, b.cmd.Name), cmp.Compare(a.cmd.At, b.cmd.At), cmp.Compare(a.index, b.index))
	})
	return entries
}

// namesFor returns the names that a stray is entered under: its own, or the one that the operator gives.
func (l *lostContent) namesFor(as string) []StrayName {
	if as == "" {
		return l.names
	}
	n := StrayName{Replicas: DefaultReplicas, At: time.Now().Unix()}
	if len(l.names) > 0 {
		n = l.names[0]
	}
	n.Name = as
	return []StrayName{n}
}

// sortVersions puts the versions of a name in order: that of their catalogue's log if all come from one, else that of
// their times.
func sortVersions(versions []*entry, chosen []*lostContent) {
	clusters := map[string]bool{}
	for _, l := range chosen {
		clusters[l.cluster] = true
	}
	slices.SortStableFunc(versions, func(a, b *entry) int {
		byIndex, byTime := cmp.Compare(a.index, b.index), cmp.Compare(a.cmd.At, b.cmd.At)
		if len(clusters) == 1 {
			return cmp.Or(byIndex, byTime)
		}
		return cmp.Or(byTime, byIndex)
	})
}

// refuseIncomplete refuses the contents of which nobody who answers has all shards.
func refuseIncomplete(entries []*entry, lost map[content.Digest]*lostContent, silent []string) {
	hint := "wait for a host that has them to come back, or enter what is there with `force`"
	if len(silent) > 0 {
		hint = fmt.Sprintf("bring back %s, which did not answer, or enter what is there with `force`", strings.Join(silent, ", "))
	}
	for _, e := range entries {
		if e.missing == 0 {
			continue
		}
		shards := lost[e.cmd.ID].missing()
		e.refused = reason.Wrap(reason.NoHolder, e.cmd.Name, fmt.Errorf("no host that answers has shards %s of %d", shards, e.cmd.Shards)).WithHint(hint)
	}
}
