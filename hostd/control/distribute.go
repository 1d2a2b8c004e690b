package control

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

const (
	// maxAsked bounds the hosts that one watcher asks for their progress at a time; of the others it tells what the
	// catalogue knows.
	maxAsked = 64
	// askPatience bounds the wait for a host's answer.
	askPatience = 2 * time.Second
)

// Distribution is an order that hosts hold a version of a file: all hosts, or those that are named.
type Distribution struct {
	Ref
	All   bool
	Hosts []string // names, ids, or tag:NAME for the hosts of the domains with that tag
	Watch bool     // the caller waits until all that are up hold it
}

// HoldState says how far a host is.
type HoldState int

// What a host that was told to hold a file may be doing. The API's enum HoldState has the same numbers.
const (
	HoldWaiting HoldState = iota + 1
	HoldFetching
	HoldComplete
	HoldDown
)

// HostProgress says how far one host is.
type HostProgress struct {
	ID                    placement.HostID
	Host                  string
	State                 HoldState
	HeldBytes, TotalBytes int64
	Rate                  float64 // bytes a second
	Seconds               float64 // until it was complete; 0 if it was so before
}

// DistributeProgress says how far a distribution is.
type DistributeProgress struct {
	Ref
	Size      int64
	Hosts     []HostProgress
	Done      bool
	SentBytes int64 // that this host sent to others meanwhile; with Done
}

// Distribute orders hosts to hold a version, and reports how they come to it if the caller watches.
func (f *Files) Distribute(ctx context.Context, d Distribution, report func(DistributeProgress) error) error {
	v, err := f.lookup(ctx, d.Ref)
	if err != nil {
		return err
	}
	targets, tags, err := f.meant(d.All, d.Hosts)
	if err != nil {
		return err
	}
	w := &watch{
		Files: f, ref: Ref{d.Name, v.ID}, all: d.All, targets: targets, tags: tags, begun: time.Now(),
		took: map[placement.HostID]float64{}, asked: map[placement.HostID]Progress{},
	}
	w.noteComplete()
	w.sent, _ = f.Swarm.Moved()
	_, err = f.write(ctx, placement.Command{Distribute: &placement.Distribute{
		Name: d.Name, ID: v.ID, All: d.All, Hosts: targets, Tags: tags,
	}}, d.Name)
	if err != nil {
		return err
	}
	if !d.Watch {
		event, _, err := w.event()
		if err != nil {
			return err
		}
		event.Done = true
		return report(event)
	}
	return w.run(ctx, report)
}

// meant finds the hosts and tags that a request names, in the state that lookup has brought up to date: a host that has
// just joined is known elsewhere first.
func (f *Files) meant(all bool, names []string) (ids []placement.HostID, tags []string, err error) {
	if all == (len(names) > 0) {
		return nil, nil, reason.Wrap(reason.Usage, "hosts", errors.New("name hosts, tags as tag:NAME, or 'all'"))
	}
	for _, name := range names {
		if tag, ok := strings.CutPrefix(name, "tag:"); ok {
			if err := placement.ValidateTag(tag); err != nil {
				return nil, nil, reason.Wrap(reason.Usage, "hosts", err)
			}
			tags = append(tags, tag)
			continue
		}
		host, err := f.hostNamed(name)
		if err != nil {
			return nil, nil, err
		}
		ids = append(ids, host.ID)
	}
	slices.Sort(ids)
	slices.Sort(tags)
	return slices.Compact(ids), slices.Compact(tags), nil
}

// watch follows one distribution.
type watch struct {
	*Files
	ref     Ref
	all     bool
	targets []placement.HostID
	tags    []string
	begun   time.Time
	sent    int64                         // bytes that this host had sent to others then
	took    map[placement.HostID]float64  // seconds until a host was complete; 0 if it was so before
	asked   map[placement.HostID]Progress // what hosts last said themselves
}

// noteComplete notes who is complete before the order.
func (w *watch) noteComplete() {
	w.Node.View(func(s *placement.State) {
		c, _ := s.Content(w.ref.ID)
		for _, holder := range s.Holders(w.ref.ID) {
			if holder.Shards.Full(c.Shards) {
				w.took[holder.Host] = 0
			}
		}
	})
}

// secondsOf notes that a host is complete now, if that is news, and returns in how many seconds it became so.
func (w *watch) secondsOf(host placement.HostID) float64 {
	took, known := w.took[host]
	if !known {
		took = time.Since(w.begun).Seconds()
		w.took[host] = took
	}
	return took
}

// run reports until every live host that is meant holds the file.
func (w *watch) run(ctx context.Context, report func(DistributeProgress) error) error {
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	pace := newPace()
	for {
		changed := w.Node.Changed()
		event, missing, err := w.event()
		if err != nil {
			return err
		}
		if len(missing) == 0 {
			sent, _ := w.Swarm.Moved()
			event.Done, event.SentBytes = true, sent-w.sent
			return report(event)
		}
		pace.tick(0, func(float64) { err = report(event) })
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-poll.C:
			w.ask(ctx, missing)
		}
	}
}

// event says how far each host is, and which live ones are not done.
func (w *watch) event() (DistributeProgress, []placement.HostID, error) {
	e := DistributeProgress{Ref: w.ref}
	var missing []placement.HostID
	var err error
	w.Node.View(func(s *placement.State) {
		c, ok := s.Content(w.ref.ID)
		if !ok {
			err = reason.Wrap(reason.NotFound, w.ref.Name, errMeanwhile)
			return
		}
		e.Size = c.Size
		tagged := s.HostsOfTags(w.tags)
		for _, host := range s.Hosts() {
			if !w.all && !slices.Contains(w.targets, host.ID) && !slices.Contains(tagged, host.ID) {
				continue
			}
			p := w.hostProgress(c, host, s.Held(host.ID, w.ref.ID))
			if p.State == HoldWaiting || p.State == HoldFetching {
				missing = append(missing, host.ID)
			}
			e.Hosts = append(e.Hosts, p)
		}
	})
	return e, missing, err
}

// hostProgress is what the catalogue knows of a host, and what the host said itself if that is more.
func (w *watch) hostProgress(c placement.Content, host placement.Host, held placement.ShardSet) HostProgress {
	p := HostProgress{ID: host.ID, Host: host.Name, TotalBytes: c.DataBytes, HeldBytes: heldOf(c, held), State: HoldWaiting}
	said := w.asked[host.ID]
	switch {
	case held.Full(c.Shards):
		p.State, p.Seconds = HoldComplete, w.secondsOf(host.ID)
	case !host.State.Serves():
		p.State = HoldDown
	case said.Known:
		p.State = HoldFetching
		p.HeldBytes, p.Rate = max(p.HeldBytes, said.HeldBytes), said.Rate
	}
	return p
}

// ask asks hosts how far they are. One that does not answer keeps what it said before.
func (w *watch) ask(ctx context.Context, hosts []placement.HostID) {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, id := range hosts[:min(len(hosts), maxAsked)] {
		asking.Go(func() {
			if answer, err := w.progressAt(ctx, id); err == nil {
				mu.Lock()
				w.asked[id] = answer
				mu.Unlock()
			}
		})
	}
	asking.Wait()
}

func (w *watch) progressAt(ctx context.Context, id placement.HostID) (Progress, error) {
	if id == w.Self {
		return w.Progress(w.ref.ID), nil
	}
	host, err := w.host(id)
	if err != nil {
		return Progress{}, err
	}
	return w.Peers.Progress(ctx, host, w.ref.ID)
}

// Progress says what a host holds of a content at this moment.
type Progress struct {
	Known                 bool // its store knows the content
	HeldBytes, TotalBytes int64
	Fetching              bool
	Rate                  float64 // bytes a second
	Sources               int     // hosts that give now
}

// Progress says what this host holds of a content.
func (f *Files) Progress(id content.Digest) Progress {
	file, ok := f.Store.Get(id)
	if !ok {
		return Progress{}
	}
	p, fetching := f.Fetch.UnderWay()[id]
	return Progress{
		Known: true, HeldBytes: file.HeldBytes(), TotalBytes: file.Manifest().DataBytes(),
		Fetching: fetching, Rate: p.Rate, Sources: p.Sources,
	}
}
