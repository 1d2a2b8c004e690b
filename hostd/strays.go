package hostd

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/virtswarm/virtswarm/hostd/keeper"
	"github.com/virtswarm/virtswarm/internal/api"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

const (
	// strayPatience bounds the wait for what one host tells of its strays.
	strayPatience = 10 * time.Second
	// strayPage bounds a page of strays, in bytes; maxStrays, how many one host is asked for.
	strayPage = api.MaxMessage / 4
	maxStrays = 1 << 17
	// listRoom is the room in an answer for a list of strays, or of what became of them, in bytes.
	listRoom = api.MaxMessage * 3 / 4
)

// StraysHere implements server.Host.
func (h *Host) StraysHere(ctx context.Context, req *v1.StraysHereRequest) (*v1.StraysHereResponse, error) {
	all, err := h.straysHere(ctx, req.GetHold())
	if err != nil {
		return nil, err
	}
	first, found := slices.BinarySearchFunc(all, req.GetAfter(), func(s *v1.StrayHere, after string) int {
		return cmp.Compare(s.GetStray().GetId(), after)
	})
	if found {
		first++
	}
	r := &v1.StraysHereResponse{}
	size := 0
	for _, s := range all[first:] {
		if size += proto.Size(s); size > strayPage && len(r.Strays) > 0 {
			r.More = true
			break
		}
		r.Strays = append(r.Strays, s)
	}
	return r, nil
}

// straysHere describes the strays of this host, ordered by id.
func (h *Host) straysHere(ctx context.Context, hold bool) ([]*v1.StrayHere, error) {
	wait, cancel := context.WithTimeout(ctx, strayPatience)
	defer cancel()
	if err := h.keeper.Settled(wait); err != nil {
		return nil, reason.Wrap(reason.NoLeader, h.cfg.Name, fmt.Errorf("which contents of its store the catalogue names is not known yet: %w", err))
	}
	var all []*v1.StrayHere
	for _, s := range h.keeper.Strays(hold) {
		all = append(all, h.describeStray(s))
	}
	return all, nil
}

// describeStray gives a stray of this host in the API's words.
func (h *Host) describeStray(s keeper.Stray) *v1.StrayHere {
	m, held, note := s.File.Manifest(), keeper.Held(s.File), s.File.Note()
	shards := max(1, m.Shards())
	d := &v1.StrayHere{
		Stray: &v1.Stray{
			HostId: string(h.self), Host: h.cfg.Name, Id: s.File.ID().String(), Size: uint64(m.Size()), DataBytes: uint64(m.DataBytes()),
			Shards: uint32(shards), HeldShards: uint32(held.Count(shards)), HeldBytes: uint64(s.File.HeldBytes()),
			Cluster: note.Cluster, Since: s.Since.Unix(), Until: s.Until.Unix(),
		},
		ChunkSize: uint32(m.ChunkSize()), Held: held.String(), Seen: note.Seen,
	}
	for _, n := range note.Names {
		d.Stray.Names = append(d.Stray.Names, n.Name)
		d.Names = append(d.Names, &v1.StrayName{
			Name: n.Name, Replicas: uint32(n.Replicas), Guests: n.Guests, Publisher: n.Publisher, At: n.At, Index: n.Index,
		})
	}
	return d
}

// Strays implements server.Host.
func (h *Host) Strays(ctx context.Context, req *v1.StraysRequest) (*v1.StraysResponse, error) {
	r := &v1.StraysResponse{}
	var all []*v1.StrayHere
	var err error
	if req.GetAll() {
		all, r.Silent, err = h.allStrays(ctx, false)
	} else {
		all, err = h.straysHere(ctx, false)
	}
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(all, func(a, b *v1.StrayHere) int {
		x, y := a.GetStray(), b.GetStray()
		return cmp.Or(cmp.Compare(x.GetHost(), y.GetHost()), slices.Compare(x.GetNames(), y.GetNames()), cmp.Compare(x.GetId(), y.GetId()))
	})
	size := 0
	for _, s := range all {
		if size += proto.Size(s.GetStray()); size > listRoom {
			r.LeftOut++
			continue
		}
		r.Strays = append(r.Strays, s.GetStray())
	}
	return r, nil
}

// allStrays asks all hosts for their strays, and names those that did not answer. A host may tell of what the catalogue
// has named meanwhile: that is left out.
func (h *Host) allStrays(ctx context.Context, hold bool) (all []*v1.StrayHere, silent []string, err error) {
	if err := h.node.ReadIndex(ctx); err != nil {
		return nil, nil, reason.Explain(err, "")
	}
	var hosts []placement.Host
	h.node.View(func(s *placement.State) { hosts = s.Hosts() })
	lists, errs := make([][]*v1.StrayHere, len(hosts)), make([]error, len(hosts))
	free := make(chan struct{}, maxReports)
	var asking sync.WaitGroup
	for i, host := range hosts {
		free <- struct{}{}
		asking.Go(func() {
			defer func() { <-free }()
			if host.ID == h.self {
				lists[i], errs[i] = h.straysHere(ctx, hold)
			} else {
				lists[i], errs[i] = h.peers.strays(ctx, host, hold)
			}
		})
	}
	asking.Wait()
	for i, host := range hosts {
		if errs[i] != nil {
			h.log.Debug("a host does not tell its strays", "host", host.Name, "error", errs[i])
			silent = append(silent, host.Name)
		}
	}
	h.node.View(func(s *placement.State) {
		for _, stray := range slices.Concat(lists...) {
			id, err := content.ParseDigest(stray.GetStray().GetId())
			if _, named := s.Content(id); err == nil && !named {
				all = append(all, stray)
			}
		}
	})
	return all, silent, ctx.Err()
}

// strays asks a host for its strays.
func (p *peers) strays(ctx context.Context, host placement.Host, hold bool) ([]*v1.StrayHere, error) {
	if !host.State.Serves() {
		return nil, fmt.Errorf("the host is %s", host.State)
	}
	ctx, cancel := context.WithTimeout(ctx, strayPatience)
	defer cancel()
	var all []*v1.StrayHere
	req := &v1.StraysHereRequest{Hold: hold}
	for {
		page, err := p.client(host.ID, host.Addr).Cluster.StraysHere(ctx, req)
		if err != nil {
			return nil, err
		}
		for _, s := range page.GetStrays() {
			if s.GetStray() == nil || s.GetStray().GetId() <= req.After {
				return nil, fmt.Errorf("host %s tells its strays out of order", host.Name)
			}
			s.Stray.HostId, s.Stray.Host = string(host.ID), host.Name // whatever it calls itself
			req.After = s.GetStray().GetId()
			all = append(all, s)
		}
		if !page.GetMore() || len(page.GetStrays()) == 0 || len(all) >= maxStrays {
			return all, nil
		}
	}
}
