package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

// down stops a host, once that costs nobody the majority, and waits until the others call it down.
func (c *cluster) down(name string) error {
	h, err := c.named(name)
	if err != nil {
		return err
	}
	if err := c.settled(); err != nil {
		return err
	}
	if err := h.stop(); err != nil {
		return err
	}
	return c.state(name, v1.HostState_HOST_STATE_DOWN)
}

// up starts a host again and waits until the others call it alive.
func (c *cluster) up(name string) error {
	h, err := c.named(name)
	if err != nil {
		return err
	}
	if err := c.start(h); err != nil {
		return err
	}
	return c.state(name, v1.HostState_HOST_STATE_ALIVE)
}

// anew makes the hosts a new cluster, which has nothing of the old one but the stores.
func (c *cluster) anew() error {
	for _, h := range c.hosts {
		if err := h.stop(); err != nil {
			return err
		}
		for _, dir := range []string{"raft", "pki"} {
			if err := os.RemoveAll(filepath.Join(h.cfg.Data, dir)); err != nil {
				return err
			}
		}
	}
	return c.form(len(c.hosts))
}

// cut parts the first host from the others, once all have their votes, and waits until it knows no leader; or takes
// that back, and waits until it knows one.
func (c *cluster) cut(cut bool) error {
	if cut {
		if err := c.settled(); err != nil {
			return err
		}
	}
	first := c.hosts[0]
	for _, h := range c.hosts[1:] {
		c.fabric.Cut(first.cfg.Name, h.cfg.Name, cut)
		c.fabric.Cut(h.cfg.Name, first.cfg.Name, cut)
		c.fabric.Break(first.cfg.Name, h.cfg.Name) // what is sent meanwhile must not arrive afterwards
	}
	return eventually(fmt.Sprintf("%s has a leader: %v", first.cfg.Name, !cut), func(ctx context.Context) (bool, error) {
		s, err := first.client.Control.Status(ctx, &v1.StatusRequest{})
		return (s.GetLeader() == nil) == cut && s.GetStaleness().GetStale() == cut, err
	})
}

// stall has a host's disk hang until resume.
func (c *cluster) stall(name string) error {
	h, err := c.named(name)
	if err == nil {
		c.stalled, c.reached = h, h.disk.stall()
	}
	return err
}

// resume lets the disk that hangs go on.
func (c *cluster) resume() {
	if c.stalled != nil {
		c.stalled.disk.resume()
		c.stalled, c.reached = nil, nil
	}
}

// damage flips the first byte of what a host has stored of a name.
func (c *cluster) damage(host, name string) error {
	h, err := c.named(host)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := h.client.Control.Show(ctx, &v1.ShowRequest{Name: name})
	if err != nil {
		return err
	}
	id := r.GetFile().GetId()
	f, err := os.OpenFile(filepath.Join(h.cfg.Data, "store", "files", id[len("b3:"):], "data"), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	var b [1]byte
	_, err = f.ReadAt(b[:], 0)
	if err == nil {
		b[0] ^= 1
		_, err = f.WriteAt(b[:], 0)
	}
	return errors.Join(err, f.Close())
}
