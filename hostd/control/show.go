package control

import (
	"context"
	"slices"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

// Holding is what a host holds, or must hold, of a content.
type Holding struct {
	Host       placement.Host
	Shards     int   // that it holds
	Bytes      int64 // of them, estimated
	HomeShards int   // that it is a home of
	Target     bool  // it was told to hold all
}

// Details tell of one version, and who holds it.
type Details struct {
	File     File
	Versions []File // all of the name, the newest first
	Holdings []Holding
}

// Show tells of a version.
func (f *Files) Show(ctx context.Context, ref Ref) (d Details, now Staleness, err error) {
	now = f.fresh(ctx)
	f.Node.View(func(s *placement.State) {
		var v placement.Version
		if v, err = s.Lookup(ref.Name, ref.ID); err != nil {
			return
		}
		file, _ := s.File(ref.Name)
		for _, w := range slices.Backward(file.Versions) {
			d.Versions = append(d.Versions, describe(s, file, w))
		}
		d.File = describe(s, file, v)
		d.Holdings = holdings(s, v.ID)
	})
	return d, now, reason.Explain(err, ref.Name)
}

// holdings tells who holds, or must hold, what of a content, ordered by the hosts' names.
func holdings(s *placement.State, id content.Digest) (all []Holding) {
	c, _ := s.Content(id)
	for _, host := range s.Hosts() {
		held, must := s.Held(host.ID, id), s.HomeShards(host.ID, id)
		target := c.Targets.All || slices.Contains(c.Targets.Hosts, host.ID) || slices.Contains(c.Follows, host.ID)
		if held.Empty() && must.Empty() && !target {
			continue
		}
		all = append(all, Holding{
			Host: host, Shards: held.Count(c.Shards), Bytes: heldOf(c, held), HomeShards: homes(s, host.ID, c), Target: target,
		})
	}
	return all
}

// homes counts the shards of a content that a host is a home of, without those that it holds as a target.
func homes(s *placement.State, host placement.HostID, c placement.Content) (n int) {
	for shard := range c.Shards {
		if slices.Contains(s.Homes(c.ID, shard), host) {
			n++
		}
	}
	return n
}

// heldOf estimates the bytes of data in a set of a content's shards: the catalogue knows the data of the whole only.
func heldOf(c placement.Content, shards placement.ShardSet) int64 {
	return int64(float64(c.DataBytes) * float64(shards.Count(c.Shards)) / float64(c.Shards))
}
