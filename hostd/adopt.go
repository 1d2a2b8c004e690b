package hostd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/virtswarm/virtswarm/internal/api"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

// minDigits is how many digits of a digest name a stray.
const minDigits = 8

// Adopt implements server.Host.
func (h *Host) Adopt(ctx context.Context, req *v1.AdoptRequest) (*v1.AdoptResponse, error) {
	if err := checkAdopt(req); err != nil {
		return nil, err
	}
	strays, silent, err := h.allStrays(ctx, true)
	if err != nil {
		return nil, err
	}
	lost := gatherLost(strays)
	chosen, err := choose(req, lost)
	if err != nil {
		return nil, h.explainChoice(err, silent)
	}
	entries := h.entriesOf(req, chosen)
	if !req.GetForce() {
		refuseIncomplete(entries, lost, silent)
	}
	if err := h.enter(ctx, entries); err != nil {
		return nil, err
	}
	h.awaitTold(ctx, entries, lost)
	r := &v1.AdoptResponse{Silent: silent}
	r.Adopted, r.Entered, r.Refused = outcome(entries)
	return r, nil
}

// checkAdopt checks a request as far as that can be done without the strays.
func checkAdopt(req *v1.AdoptRequest) error {
	switch {
	case req.GetAll() && (len(req.GetWhich()) > 0 || req.GetAs() != ""):
		return reason.Wrap(reason.Usage, "--all", errors.New("it goes with no NAME or ID, and not with --as"))
	case !req.GetAll() && len(req.GetWhich()) == 0:
		return reason.Wrap(reason.Usage, "adopt", errors.New("nothing is named")).WithHint("name strays, or give --all; list them with: virtswarm strays --all")
	case int64(req.GetReplicas()) > placement.MaxReplicas:
		return reason.Wrap(reason.Usage, "--replicas", fmt.Errorf("%d is more than %d; take 'all' for every host", req.GetReplicas(), placement.MaxReplicas))
	}
	if req.GetAs() == "" {
		return nil
	}
	return reason.Explain(placement.ValidateName(req.GetAs()), fmt.Sprintf("%.200q", req.GetAs()))
}

// errNoStray is wrapped by the error about what names no stray.
var errNoStray = errors.New("no host that answers has such a stray")

// choose finds the strays that a request means, ordered by id.
func choose(req *v1.AdoptRequest, lost map[content.Digest]*lostContent) ([]*lostContent, error) {
	meant := map[content.Digest]*lostContent{}
	if req.GetAll() {
		for id, l := range lost {
			if len(l.names) > 0 {
				meant[id] = l
			}
		}
	}
	for _, which := range req.GetWhich() {
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
	if req.GetAs() != "" && len(list) != 1 {
		return nil, reason.Wrap(reason.Usage, req.GetAs(), fmt.Errorf("--as gives a name to one stray, and %d are meant", len(list))).
			WithHint("name it by its id; see: virtswarm strays --all")
	}
	return list, nil
}

// isMeant says whether an operator means a stray: by one of its names, by its digest or the first digits of it, or by both.
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
func (h *Host) explainChoice(err error, silent []string) error {
	e := api.AsError(err)
	if !errors.Is(err, errNoStray) {
		return err
	}
	hint := "list the strays with: virtswarm strays --all"
	h.node.View(func(s *placement.State) {
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
func (h *Host) entriesOf(req *v1.AdoptRequest, chosen []*lostContent) []*entry {
	var entries []*entry
	for _, l := range chosen {
		missing := l.missing().Count(l.like.Shards)
		for _, n := range l.namesFor(req.GetAs()) {
			e := &entry{cmd: placement.Adopt{Publish: l.like}, index: n.GetIndex(), missing: missing}
			e.cmd.Name, e.cmd.Replicas, e.cmd.Guests, e.cmd.At = n.GetName(), int(n.GetReplicas()), n.GetGuests(), n.GetAt()
			e.cmd.Publisher = placement.HostID(n.GetPublisher())
			if !e.cmd.Publisher.Valid() {
				e.cmd.Publisher = h.self
			}
			if req.Replicas != nil {
				e.cmd.Replicas = int(req.GetReplicas())
			}
			entries = append(entries, e)
		}
	}
	h.node.View(func(s *placement.State) {
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
func (l *lostContent) namesFor(as string) []*v1.StrayName {
	if as == "" {
		return l.names
	}
	n := &v1.StrayName{Replicas: DefaultReplicas, At: time.Now().Unix()}
	if len(l.names) > 0 {
		old := l.names[0]
		n = &v1.StrayName{Replicas: old.GetReplicas(), Guests: old.GetGuests(), Publisher: old.GetPublisher(), At: old.GetAt(), Index: old.GetIndex()}
	}
	n.Name = as
	return []*v1.StrayName{n}
}

// sortVersions puts the versions of a name in order: that of their catalogue's log if all come from one, else that of their
// times.
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
	hint := "wait for a host that has them to come back, or enter what is there with --force"
	if len(silent) > 0 {
		hint = fmt.Sprintf("bring back %s, which did not answer, or enter what is there with --force", strings.Join(silent, ", "))
	}
	for _, e := range entries {
		if e.missing == 0 {
			continue
		}
		shards := lost[e.cmd.ID].missing()
		e.refused = reason.Wrap(reason.NoHolder, e.cmd.Name, fmt.Errorf("no host that answers has shards %s of %d", shards, e.cmd.Shards)).WithHint(hint)
	}
}
