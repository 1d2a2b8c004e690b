package control

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/virtswarm/virtswarm/hostd/virt"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

// Libvirt changes the metadata of domains of this host: *virt.Watcher.
type Libvirt interface {
	SetMetadata(ctx context.Context, uuid string, change func(virt.Metadata) (virt.Metadata, error)) error
}

// GuestChange is a change of a domain's metadata.
type GuestChange struct {
	Guest               string // name or UUID
	Add                 []placement.Need
	Remove              []string // names of needed files
	AddTags, RemoveTags []string
	Push                *placement.Push // nil: stays
	RemovePush          bool
	Shm                 *int64 // bytes; nil: stays
}

func (c *GuestChange) empty() bool {
	return len(c.Add)+len(c.Remove)+len(c.AddTags)+len(c.RemoveTags) == 0 && c.Push == nil && !c.RemovePush && c.Shm == nil
}

// SetGuest changes what a domain's metadata says, and returns the domain as it is then. It is carried out by the host
// where the domain is.
func (g *Guests) SetGuest(ctx context.Context, c GuestChange) (Guest, error) {
	g.fresh(ctx)
	v, err := g.guestNamed(c.Guest)
	if err != nil {
		return Guest{}, err
	}
	if err := c.check(); err != nil {
		return Guest{}, err
	}
	switch {
	case c.empty():
	case v.Manager != placement.ManagedByLibvirt:
		return Guest{}, reason.Wrap(reason.NoLibvirt, v.Name, errors.New("it is no domain of libvirt's, and has no metadata"))
	case v.Host != g.Self:
		host, err := g.host(v.Host)
		if err != nil {
			return Guest{}, reason.Explain(err, v.Name)
		}
		c.Guest = v.UUID
		return g.Peers.SetGuest(ctx, host, c)
	default:
		if v, err = g.setGuest(ctx, v, &c); err != nil {
			return Guest{}, reason.Explain(err, v.Name)
		}
	}
	return g.describe(v), nil
}

// check refuses what no metadata may say.
func (c *GuestChange) check() error {
	for _, n := range c.Add {
		if err := placement.ValidateName(n.Name); err != nil {
			return reason.Explain(err, n.Name)
		}
		if _, err := content.ParseDigest(n.ID); n.ID != "" && err != nil {
			return reason.Wrap(reason.Usage, n.ID, err)
		}
		if p := n.Path; p != "" && !strings.HasPrefix(p, "/") {
			return reason.Wrap(reason.Usage, p, errors.New("the path is not absolute"))
		}
	}
	for _, tag := range c.AddTags {
		if err := placement.ValidateTag(tag); err != nil {
			return reason.Wrap(reason.Usage, tag, err)
		}
	}
	if c.Push != nil && c.RemovePush {
		return reason.Wrap(reason.Usage, "push", errors.New("it is to be set and removed at once"))
	}
	var link virt.Metadata
	c.changeLink(&link)
	return reason.Explain(link.Validate(), c.Guest)
}

// changeLink changes what metadata says of a domain's guest link.
func (c *GuestChange) changeLink(m *virt.Metadata) {
	if p := c.Push; p != nil {
		m.Push = &placement.Push{Prefix: strings.TrimSuffix(p.Prefix, "/"), Quota: p.Quota, Guests: p.Guests}
	}
	if c.RemovePush {
		m.Push = nil
	}
	if c.Shm != nil {
		m.Shm = *c.Shm
	}
}

// setGuest changes a domain's metadata, and returns the domain as it is then.
func (g *Guests) setGuest(ctx context.Context, v placement.DomainView, c *GuestChange) (placement.DomainView, error) {
	if g.Libvirt == nil {
		return v, virt.ErrNoLibvirt
	}
	err := g.Libvirt.SetMetadata(ctx, v.UUID, func(m virt.Metadata) (virt.Metadata, error) {
		removed := slices.Clone(c.Remove)
		for _, n := range c.Add {
			removed = append(removed, n.Name) // it is replaced
		}
		m.Needs = slices.DeleteFunc(slices.Clone(m.Needs), func(n placement.Need) bool { return slices.Contains(removed, n.Name) })
		m.Needs = append(m.Needs, c.Add...)
		m.Tags = slices.DeleteFunc(slices.Clone(m.Tags), func(t string) bool { return slices.Contains(c.RemoveTags, t) })
		m.Tags = append(m.Tags, c.AddTags...)
		slices.Sort(m.Tags)
		m.Tags = slices.Compact(m.Tags)
		c.changeLink(&m)
		v.Needs, v.Tags, v.WantShm, v.Push = m.Needs, m.Tags, m.Shm, m.Push
		return m, nil
	})
	return v, err
}
