package main

import (
	"context"
	"os"
	"slices"
	"sync"

	"github.com/virtswarm/virtswarm/hostd/virt"
	"github.com/virtswarm/virtswarm/placement"
)

// domains stand in for the libvirt of a host: domains that a script defines, whose metadata and memory change at a
// word. It is a hostd.Libvirt, safe for concurrent use.
type domains struct {
	mu      sync.Mutex
	list    []placement.Domain
	changed chan struct{}
}

func newDomains() *domains { return &domains{changed: make(chan struct{})} }

// define adds a domain.
func (d *domains) define(domain placement.Domain) {
	d.change(func() { d.list = append(d.list, domain) })
}

// change does something with the list, and tells those who follow it.
func (d *domains) change(do func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	do()
	close(d.changed)
	d.changed = make(chan struct{})
}

// edit changes the domain of a UUID.
func (d *domains) edit(uuid string, edit func(*placement.Domain) error) (err error) {
	d.change(func() {
		i := slices.IndexFunc(d.list, func(x placement.Domain) bool { return x.UUID == uuid })
		if i < 0 {
			err = virt.ErrNoDomain
			return
		}
		list := slices.Clone(d.list) // somebody may be reading the old one
		if err = edit(&list[i]); err == nil {
			d.list = list
		}
	})
	return err
}

func (d *domains) Domains() ([]placement.Domain, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.list), true
}

func (d *domains) Changed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.changed
}

func (d *domains) SetMetadata(_ context.Context, uuid string, change func(virt.Metadata) (virt.Metadata, error)) error {
	return d.edit(uuid, func(x *placement.Domain) error {
		m, err := change(virt.Metadata{Needs: x.Needs, Tags: x.Tags, Shm: x.WantShm, Push: x.Push})
		x.Needs, x.Tags, x.WantShm, x.Push = m.Needs, m.Tags, m.Shm, m.Push
		return err
	})
}

func (d *domains) PlugMemory(_ context.Context, uuid, _ string, size int64) error {
	return d.edit(uuid, func(x *placement.Domain) error { x.Shm = size; return nil })
}

func (d *domains) UnplugMemory(_ context.Context, uuid, _ string) error {
	return d.edit(uuid, func(x *placement.Domain) error { x.Shm = 0; return nil })
}

func (d *domains) Owner(context.Context, string) (uid, gid int, err error) {
	return os.Getuid(), os.Getgid(), nil
}
