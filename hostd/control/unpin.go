package control

import (
	"context"
	"slices"

	"github.com/virtswarm/virtswarm/placement"
)

// Unpinned is what the end of an order to hold a file means.
type Unpinned struct {
	Ref
	Hosts []string // the names of those that need not hold it any more because of the order
	Index uint64   // of the catalogue's entry
}

// Unpin takes back the order that hosts hold a version: all hosts, or those that are named as for Distribute.
func (f *Files) Unpin(ctx context.Context, ref Ref, all bool, names []string) (u Unpinned, err error) {
	v, err := f.lookup(ctx, ref)
	if err != nil {
		return u, err
	}
	hosts, tags, err := f.meant(all, names)
	if err != nil {
		return u, err
	}
	u.Ref = Ref{ref.Name, v.ID}
	f.Node.View(func(s *placement.State) {
		c, _ := s.Content(v.ID)
		tagged := s.HostsOfTags(tags)
		if all {
			tagged = c.Follows
		}
		for _, host := range s.Hosts() {
			pinned := c.Targets.All || slices.Contains(c.Targets.Hosts, host.ID)
			followed := slices.Contains(c.Follows, host.ID) && slices.Contains(tagged, host.ID)
			if pinned && (all || slices.Contains(hosts, host.ID)) || followed {
				u.Hosts = append(u.Hosts, host.Name)
			}
		}
	})
	done, err := f.write(ctx, placement.Command{Unpin: &placement.Unpin{
		Name: ref.Name, ID: v.ID, All: all, Hosts: hosts, Tags: tags,
	}}, ref.Name)
	u.Index = done.Index
	return u, err
}
