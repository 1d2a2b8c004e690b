package hostd

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
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

// Distribute implements server.Host.
func (h *Host) Distribute(ctx context.Context, req *v1.DistributeRequest, send func(*v1.DistributeProgress) error) error {
	v, err := h.lookup(ctx, req.GetName(), req.GetId())
	if err != nil {
		return err
	}
	targets, tags, err := h.meant("--to", req.GetAll(), req.GetHosts())
	if err != nil {
		return err
	}
	w := &watch{
		host: h, name: req.GetName(), id: v.ID, all: req.GetAll(), targets: targets, tags: tags, begun: time.Now(), took: map[placement.HostID]float64{},
		asked: map[placement.HostID]*v1.ProgressResponse{},
	}
	w.noteComplete()
	w.sent, _ = h.moved()
	_, err = h.write(ctx, placement.Command{Distribute: &placement.Distribute{
		Name: req.GetName(), ID: v.ID, All: req.GetAll(), Hosts: targets, Tags: tags,
	}}, req.GetName())
	if err != nil {
		return err
	}
	if !req.GetWatch() {
		event, _, err := w.event()
		if err != nil {
			return err
		}
		event.Done = true
		return send(event)
	}
	return w.run(ctx, send)
}

// Unpin implements server.Host.
func (h *Host) Unpin(ctx context.Context, req *v1.UnpinRequest) (*v1.UnpinResponse, error) {
	v, err := h.lookup(ctx, req.GetName(), req.GetId())
	if err != nil {
		return nil, err
	}
	hosts, tags, err := h.meant("--from", req.GetAll(), req.GetHosts())
	if err != nil {
		return nil, err
	}
	r := &v1.UnpinResponse{Name: req.GetName(), Id: v.ID.String()}
	h.node.View(func(s *placement.State) {
		c, _ := s.Content(v.ID)
		tagged := s.HostsOfTags(tags)
		if req.GetAll() {
			tagged = c.Follows
		}
		for _, host := range s.Hosts() {
			pinned := c.Targets.All || slices.Contains(c.Targets.Hosts, host.ID)
			if pinned && (req.GetAll() || slices.Contains(hosts, host.ID)) || slices.Contains(c.Follows, host.ID) && slices.Contains(tagged, host.ID) {
				r.Hosts = append(r.Hosts, host.Name)
			}
		}
	})
	done, err := h.write(ctx, placement.Command{Unpin: &placement.Unpin{
		Name: req.GetName(), ID: v.ID, All: req.GetAll(), Hosts: hosts, Tags: tags,
	}}, req.GetName())
	r.Index = done.Index
	return r, err
}

// meant finds the hosts and tags that a request names, in the state that lookup has brought up to date: a host that has just joined
// is known elsewhere first.
func (h *Host) meant(flag string, all bool, names []string) (ids []placement.HostID, tags []string, err error) {
	if all == (len(names) > 0) {
		return nil, nil, reason.Wrap(reason.Usage, flag, errors.New("name hosts, tags as tag:NAME, or 'all'"))
	}
	for _, name := range names {
		if tag, ok := strings.CutPrefix(name, "tag:"); ok {
			if err := placement.ValidateTag(tag); err != nil {
				return nil, nil, reason.Wrap(reason.Usage, flag, err)
			}
			tags = append(tags, tag)
			continue
		}
		host, err := h.hostNamed(name)
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
	host    *Host
	name    string
	id      content.Digest
	all     bool
	targets []placement.HostID
	tags    []string
	begun   time.Time
	sent    uint64                                    // bytes that this host had sent to others then
	took    map[placement.HostID]float64              // seconds until a host was complete; 0 if it was so before
	asked   map[placement.HostID]*v1.ProgressResponse // what hosts last said themselves
}

// noteComplete notes who is complete before the order.
func (w *watch) noteComplete() {
	w.host.node.View(func(s *placement.State) {
		c, _ := s.Content(w.id)
		for _, holder := range s.Holders(w.id) {
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
func (w *watch) run(ctx context.Context, send func(*v1.DistributeProgress) error) error {
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	pace := newPace()
	for {
		changed := w.host.node.Changed()
		event, missing, err := w.event()
		if err != nil {
			return err
		}
		if len(missing) == 0 {
			sent, _ := w.host.moved()
			event.Done, event.SentBytes = true, sent-w.sent
			return send(event)
		}
		pace.tick(0, func(float64) { err = send(event) })
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
func (w *watch) event() (*v1.DistributeProgress, []placement.HostID, error) {
	e := &v1.DistributeProgress{Name: w.name, Id: w.id.String()}
	var missing []placement.HostID
	var err error
	w.host.node.View(func(s *placement.State) {
		c, ok := s.Content(w.id)
		if !ok {
			err = reason.Wrap(reason.NotFound, w.name, errors.New("it was removed meanwhile"))
			return
		}
		e.Size = uint64(c.Size)
		tagged := s.HostsOfTags(w.tags)
		for _, host := range s.Hosts() {
			if !w.all && !slices.Contains(w.targets, host.ID) && !slices.Contains(tagged, host.ID) {
				continue
			}
			p := w.hostProgress(c, host, s.Held(host.ID, w.id))
			if p.State == v1.HoldState_HOLD_STATE_WAITING || p.State == v1.HoldState_HOLD_STATE_FETCHING {
				missing = append(missing, host.ID)
			}
			e.Hosts = append(e.Hosts, p)
		}
	})
	return e, missing, err
}

// hostProgress is what the catalogue knows of a host, and what the host said itself if that is more.
func (w *watch) hostProgress(c placement.Content, host placement.Host, held placement.ShardSet) *v1.HostProgress {
	p := &v1.HostProgress{
		HostId: string(host.ID), Host: host.Name, TotalBytes: uint64(c.DataBytes), HeldBytes: heldOf(c, held),
		State: v1.HoldState_HOLD_STATE_WAITING,
	}
	said := w.asked[host.ID]
	switch {
	case held.Full(c.Shards):
		p.State, p.Seconds = v1.HoldState_HOLD_STATE_COMPLETE, w.secondsOf(host.ID)
	case !host.State.Serves():
		p.State = v1.HoldState_HOLD_STATE_DOWN
	case said.GetKnown():
		p.State = v1.HoldState_HOLD_STATE_FETCHING
		p.HeldBytes, p.Rate = max(p.HeldBytes, said.GetHeldBytes()), said.GetRate()
	}
	return p
}

// ask asks hosts how far they are. One that does not answer keeps what it said before.
func (w *watch) ask(ctx context.Context, hosts []placement.HostID) {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, host := range hosts[:min(len(hosts), maxAsked)] {
		asking.Go(func() {
			var answer *v1.ProgressResponse
			var err error
			if host == w.host.self {
				answer = w.host.progressOf(w.id)
			} else {
				answer, err = w.host.peers.progress(ctx, host, w.id)
			}
			if err == nil {
				mu.Lock()
				w.asked[host] = answer
				mu.Unlock()
			}
		})
	}
	asking.Wait()
}

// Progress implements server.Host.
func (h *Host) Progress(_ context.Context, req *v1.ProgressRequest) (*v1.ProgressResponse, error) {
	id, err := parseID(req.GetId())
	if err != nil {
		return nil, err
	}
	return h.progressOf(id), nil
}

func (h *Host) progressOf(id content.Digest) *v1.ProgressResponse {
	file, ok := h.store.Get(id)
	if !ok {
		return &v1.ProgressResponse{}
	}
	p, fetching := h.fetch.UnderWay()[id]
	return &v1.ProgressResponse{
		Known: true, HeldBytes: uint64(file.HeldBytes()), TotalBytes: uint64(file.Manifest().DataBytes()),
		Fetching: fetching, Rate: p.Rate, Sources: uint32(p.Sources),
	}
}

// Forward implements server.Host.
func (h *Host) Forward(ctx context.Context, req *v1.ForwardRequest) (*v1.ForwardResponse, error) {
	result, err := h.node.HandleForward(ctx, req.GetOp(), req.GetPayload())
	if err != nil {
		return nil, reason.Explain(err, "")
	}
	return &v1.ForwardResponse{Result: result}, nil
}
