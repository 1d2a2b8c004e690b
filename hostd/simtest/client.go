package simtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"time"

	"github.com/virtswarm/virtswarm/hostd"
	"github.com/virtswarm/virtswarm/internal/api"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk"
)

const (
	clientCount = 3
	nameCount   = 4
	maxThink    = 600 * time.Millisecond
)

// client is somebody at a keyboard: it asks one host after the other, one thing at a time.
type client struct {
	w         *world
	n         int
	rng       *rand.Rand
	over      <-chan struct{}
	published int
	pulled    int
}

// run does what comes to its mind until it is over.
func (c *client) run() {
	for {
		think := time.NewTimer(time.Duration(c.rng.Int64N(int64(maxThink))))
		select {
		case <-c.over:
			think.Stop()
			return
		case <-think.C:
		}
		m := c.w.machines[c.rng.IntN(len(c.w.machines))]
		name := fmt.Sprintf("f/%d", c.rng.IntN(nameCount))
		switch draw := c.rng.IntN(100); {
		case draw < 40:
			c.publish(m, name)
		case draw < 60:
			c.w.list(c.n, m)
		case draw < 68:
			c.remove(m, name)
		case draw < 88:
			c.pulled++
			c.w.pull(c.n, m, name, "", filepath.Join(outDir, fmt.Sprintf("%d-%d", c.n, c.pulled)))
		default:
			c.order(m, draw < 97)
		}
	}
}

func (c *client) publish(m *machine, name string) {
	if c.published == filesPerClient {
		return
	}
	path := c.w.o.Pool.paths[c.n][c.published]
	c.published++
	replicas := uint32(2)
	if c.rng.IntN(4) == 0 {
		replicas = 1
	}
	op := c.w.began(c.n, m, opPublish, name)
	id := c.w.o.Pool.ids[path]
	op.id = id.String()
	alive, err := m.call(func(ctx context.Context, h *hostd.Host) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		req := &v1.PublishRequest{Path: path, Name: name, Replicas: &replicas, ChunkSize: content.MinChunkSize, Guests: c.w.o.Pool.guests[id]}
		return h.API().Publish(ctx, req, func(p *v1.PublishProgress) error {
			if r := p.GetResult(); r != nil && ctx.Err() == nil {
				c.w.published(op, m, r.GetId(), int(p.GetCopiesMade()), p.GetPhase() == v1.PublishPhase_PUBLISH_PHASE_DONE)
			}
			return nil
		})
	})
	c.w.ended(op, alive, err)
}

func (c *client) remove(m *machine, name string) {
	op := c.w.began(c.n, m, opRemove, name)
	alive, err := m.call(func(ctx context.Context, h *hostd.Host) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		_, err := h.API().Remove(ctx, &v1.RemoveRequest{Name: name})
		return err
	})
	c.w.ended(op, alive, err)
}

// list reads the names at a machine. What a host says to be stale is no promise.
func (w *world) list(client int, m *machine) bool {
	op := w.began(client, m, opList, "")
	var seen map[string]listed
	alive, err := m.call(func(ctx context.Context, h *hostd.Host) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		r, err := h.API().List(ctx, &v1.ListRequest{})
		if err != nil {
			return err
		}
		if r.GetStaleness().GetStale() {
			return errStale
		}
		seen = map[string]listed{}
		for _, f := range r.GetFiles() {
			seen[f.GetName()] = listed{f.GetId(), int(f.GetVersions())}
		}
		return nil
	})
	op.seen = seen
	w.ended(op, alive, err)
	return alive && err == nil
}

var errStale = errors.New("the answer is stale")

// pull writes a version to a file and compares it.
func (w *world) pull(client int, m *machine, name, id, dest string) error {
	op := w.began(client, m, opPull, name)
	m.mu.Lock()
	m.out = append(m.out, dest)
	m.mu.Unlock()
	var got string
	alive, err := m.call(func(ctx context.Context, h *hostd.Host) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		err := h.API().Pull(ctx, &v1.PullRequest{Name: name, Id: id, Dest: dest}, func(p *v1.PullProgress) error {
			if r := p.GetResult(); r != nil {
				got = r.GetId()
			}
			return nil
		})
		if ctx.Err() != nil { // the daemon died: what it left is looked at then
			return err
		}
		if err == nil {
			w.compare(m, name, got, dest)
		}
		m.mu.Lock()
		m.out = slices.DeleteFunc(m.out, func(o string) bool { return o == dest })
		m.mu.Unlock()
		m.files.Remove(dest)
		return err
	})
	op.id = got
	w.ended(op, alive, err)
	return err
}

// compare looks at what a pull made.
func (w *world) compare(m *machine, name, id, dest string) {
	p, err := disk.ReadFile(m.files, dest, maxSize)
	switch digest, ok := w.o.Pool.id(p); {
	case err != nil:
		w.violation("host %s says it has written %s and has not: %v", m.name, name, err)
	case !ok || digest.String() != id:
		w.violation("host %s gave out wrong bytes of %s %.12s", m.name, name, id)
	}
}

// reasonOf says in a word why a call failed.
func reasonOf(err error) string {
	if errors.Is(err, errStale) {
		return "stale"
	}
	e := api.AsError(err)
	return fmt.Sprintf("%v (%v)", e.Reason, err)
}
