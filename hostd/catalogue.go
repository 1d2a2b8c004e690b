package hostd

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/raft"
)

const (
	// readPatience is how long a read waits for the leader's word before it answers from this host's own copy.
	readPatience = 3 * time.Second
	// maxPage is how many names a List answers with at most.
	maxPage = 1000
)

// fresh brings this host's view of the catalogue up to date if a leader can be asked, and says whether it could.
func (h *Host) fresh(ctx context.Context) *v1.Staleness {
	ctx, cancel := context.WithTimeout(ctx, readPatience)
	defer cancel()
	err := h.node.ReadIndex(ctx)
	s := &v1.Staleness{Index: h.node.AppliedIndex()}
	if err != nil {
		s.Stale = true
		silence := h.node.Status().LastContact
		if silence < 0 {
			silence = time.Since(h.started)
		}
		s.SecondsWithoutLeader = silence.Seconds()
	}
	return s
}

// lookup finds the version of a name that a caller means, in the newest state that can be had.
func (h *Host) lookup(ctx context.Context, name, id string) (placement.Version, error) {
	digest, err := parseID(id)
	if err != nil {
		return placement.Version{}, err
	}
	h.fresh(ctx)
	var v placement.Version
	h.node.View(func(s *placement.State) { v, err = s.Lookup(name, digest) })
	return v, reason.Explain(err, name)
}

// parseID reads a version's digest; none gives the zero digest, which means the newest version.
func parseID(id string) (content.Digest, error) {
	if id == "" {
		return content.Digest{}, nil
	}
	d, err := content.ParseDigest(id)
	if err != nil {
		return d, reason.Wrap(reason.Usage, id, err)
	}
	return d, nil
}

// List implements server.Host.
func (h *Host) List(ctx context.Context, req *v1.ListRequest) (*v1.ListResponse, error) {
	r := &v1.ListResponse{Staleness: h.fresh(ctx)}
	limit := int(req.GetLimit())
	if limit == 0 || limit > maxPage {
		limit = maxPage
	}
	h.node.View(func(s *placement.State) {
		files := s.Names(req.GetPrefix())
		first, found := slices.BinarySearchFunc(files, req.GetAfter(), func(f placement.File, after string) int {
			return strings.Compare(f.Name, after)
		})
		if found {
			first++
		}
		files = files[first:]
		if r.More = len(files) > limit; r.More {
			files = files[:limit]
		}
		for _, f := range files {
			r.Files = append(r.Files, describe(s, f, f.Newest()))
		}
	})
	return r, nil
}

// Show implements server.Host.
func (h *Host) Show(ctx context.Context, req *v1.ShowRequest) (*v1.ShowResponse, error) {
	id, err := parseID(req.GetId())
	if err != nil {
		return nil, err
	}
	r := &v1.ShowResponse{Staleness: h.fresh(ctx)}
	h.node.View(func(s *placement.State) {
		var v placement.Version
		if v, err = s.Lookup(req.GetName(), id); err != nil {
			return
		}
		f, _ := s.File(req.GetName())
		for _, w := range slices.Backward(f.Versions) {
			r.Versions = append(r.Versions, describe(s, f, w))
		}
		r.File = describe(s, f, v)
		r.Holdings = holdings(s, v.ID)
	})
	if err != nil {
		return nil, reason.Explain(err, req.GetName())
	}
	return r, nil
}

// Remove implements server.Host.
func (h *Host) Remove(ctx context.Context, req *v1.RemoveRequest) (*v1.RemoveResponse, error) {
	id, err := parseID(req.GetId())
	if err != nil {
		return nil, err
	}
	h.fresh(ctx)
	r := &v1.RemoveResponse{}
	h.node.View(func(s *placement.State) {
		f, ok := s.File(req.GetName())
		if !ok {
			return // the command says so
		}
		for _, v := range slices.Backward(f.Versions) {
			if id.IsZero() || v.ID == id {
				r.Removed = append(r.Removed, describe(s, f, v))
			}
		}
	})
	done, err := h.write(ctx, placement.Command{RemoveFile: &placement.RemoveFile{Name: req.GetName(), ID: id}}, req.GetName())
	if err != nil {
		return nil, err
	}
	r.Index = done.Index
	return r, nil
}

// Hosts implements server.Host.
func (h *Host) Hosts(ctx context.Context, _ *v1.HostsRequest) (*v1.HostsResponse, error) {
	r := &v1.HostsResponse{Staleness: h.fresh(ctx)}
	status := h.node.Status()
	h.node.View(func(s *placement.State) {
		held := heldByHost(s)
		for _, host := range s.Hosts() {
			d := h.describeHost(host, status)
			d.Files, d.HeldBytes = held[host.ID].files, held[host.ID].bytes
			r.Hosts = append(r.Hosts, d)
		}
	})
	return r, nil
}

// heldSum is what a host holds of everything.
type heldSum struct{ files, bytes uint64 }

func heldByHost(s *placement.State) map[placement.HostID]heldSum {
	sums := map[placement.HostID]heldSum{}
	for _, id := range s.ChangedSince(0).Contents {
		c, _ := s.Content(id)
		for _, holder := range s.Holders(id) {
			sum := sums[holder.Host]
			sum.files++
			sum.bytes += heldOf(c, holder.Shards)
			sums[holder.Host] = sum
		}
	}
	return sums
}

// heldOf estimates the data bytes in a set of a content's shards: the catalogue knows the data of the whole only.
func heldOf(c placement.Content, shards placement.ShardSet) uint64 {
	return uint64(float64(c.DataBytes) * float64(shards.Count(c.Shards)) / float64(c.Shards))
}

func (h *Host) describeHost(host placement.Host, status raft.Status) *v1.Host {
	return &v1.Host{
		Id: string(host.ID), Name: host.Name, Address: host.Addr, Weight: host.Weight, Labels: host.Labels,
		State: hostStates[host.State], Self: host.ID == h.self,
		Voter: slices.Contains(status.Voters, host.ID), Leader: host.ID == status.Leader,
		Limits: describeLimits(host.Limits), StateSince: host.At,
	}
}

// limitsOf is the inverse of describeLimits; what does not fit is negative, which the catalogue refuses.
func limitsOf(l *v1.HostLimits) placement.Limits {
	return placement.Limits{
		Up: int64(l.GetUp()), Down: int64(l.GetDown()), Quota: int64(l.GetQuota()), High: int(l.GetHigh()), Low: int(l.GetLow()),
	}
}

func describeLimits(l placement.Limits) *v1.HostLimits {
	high, low := l.Watermarks()
	return &v1.HostLimits{Up: uint64(l.Up), Down: uint64(l.Down), Quota: uint64(l.Quota), High: uint32(high), Low: uint32(low)}
}

var hostStates = map[placement.HostState]v1.HostState{
	placement.Alive:   v1.HostState_HOST_STATE_ALIVE,
	placement.Down:    v1.HostState_HOST_STATE_DOWN,
	placement.Leaving: v1.HostState_HOST_STATE_LEAVING,
	placement.Lost:    v1.HostState_HOST_STATE_LOST,
}

// describe gives a version of a file in the API's words.
func describe(s *placement.State, f placement.File, v placement.Version) *v1.File {
	c, _ := s.Content(v.ID)
	r, _ := s.Replication(v.ID)
	publisher := string(v.Publisher)
	if host, ok := s.Host(v.Publisher); ok {
		publisher = host.Name
	}
	return &v1.File{
		Name: f.Name, Id: v.ID.String(), Size: uint64(v.Size), DataBytes: uint64(c.DataBytes), ChunkSize: uint32(c.ChunkSize),
		Shards: uint32(c.Shards), Replicas: uint32(v.Replicas), CopiesWanted: uint32(r.Wanted), CopiesMade: uint32(r.MinCopies),
		ShardsMissingCopies: uint32(r.UnderReplicated), Guests: v.Guests, Publisher: publisher, PublishedAt: v.At, Index: v.Index,
		Versions: uint32(len(f.Versions)),
	}
}

// holdings tells who holds, or must hold, what of a content, ordered by the hosts' names.
func holdings(s *placement.State, id content.Digest) []*v1.Holding {
	c, _ := s.Content(id)
	var all []*v1.Holding
	for _, host := range s.Hosts() {
		held, must := s.Held(host.ID, id), s.HomeShards(host.ID, id)
		target := c.Targets.All || slices.Contains(c.Targets.Hosts, host.ID) || slices.Contains(c.Follows, host.ID)
		if held.Empty() && must.Empty() && !target {
			continue
		}
		all = append(all, &v1.Holding{
			HostId: string(host.ID), Host: host.Name, State: hostStates[host.State], Shards: uint32(held.Count(c.Shards)),
			Bytes: heldOf(c, held), HomeShards: uint32(homes(s, host.ID, c)), Target: target,
		})
	}
	return all
}

// homes counts the shards of a content that a host is a home of, without those it holds as a target.
func homes(s *placement.State, host placement.HostID, c placement.Content) (n int) {
	for shard := range c.Shards {
		if slices.Contains(s.Homes(c.ID, shard), host) {
			n++
		}
	}
	return n
}

// hostNamed finds a host by name or id; no name means this one.
func (h *Host) hostNamed(name string) (placement.Host, error) {
	var host placement.Host
	var ok bool
	if name == "" {
		name = string(h.self)
	}
	h.node.View(func(s *placement.State) { host, ok = s.HostByName(name) })
	if !ok {
		return host, reason.Wrap(reason.NoSuchHost, fmt.Sprintf("%.200q", name), nil)
	}
	return host, nil
}
