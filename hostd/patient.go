package hostd

import (
	"context"
	"errors"
	"time"

	"github.com/virtswarm/virtswarm/hostd/fetch"
	"github.com/virtswarm/virtswarm/hostd/swarm"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/raft"
)

const (
	// comingPatience is how long after its own start a host waits for holders that start as well: hosts that lost their
	// power together come back within that, or their guests wait for a man with a key.
	comingPatience = 30 * time.Second
	// comingRetry is the pause before they are tried again.
	comingRetry = 250 * time.Millisecond
)

// patient is the swarm as the read path sees it. In the first moments of this daemon a content whose holders do not
// answer is not given up, as long as the catalogue does not count all of them for lost: they may be starting as well.
type patient struct {
	fetch.Swarm
	self  placement.HostID
	node  *raft.Node
	until time.Time
}

// Manifest implements fetch.Swarm.
func (p patient) Manifest(ctx context.Context, id content.Digest) (m *content.Manifest, err error) {
	err = p.wait(ctx, id, func() error {
		m, err = p.Swarm.Manifest(ctx, id)
		return err
	})
	return m, err
}

// Fetch implements fetch.Swarm.
func (p patient) Fetch(ctx context.Context, file swarm.File, want content.Bits, prio swarm.Priority, progress func(swarm.Progress)) error {
	return p.wait(ctx, file.ID(), func() error { return p.Swarm.Fetch(ctx, file, want, prio, progress) })
}

// wait tries until it succeeds, or fails for another reason than that nobody has what is missing, or nobody is coming.
func (p patient) wait(ctx context.Context, id content.Digest, try func() error) error {
	for {
		err := try()
		if !errors.Is(err, swarm.ErrNoHolder) || ctx.Err() != nil || !time.Now().Before(p.until) || !p.coming(id) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(comingRetry):
		}
	}
}

// coming says whether the catalogue names another holder that may be back soon.
func (p patient) coming(id content.Digest) (coming bool) {
	p.node.View(func(s *placement.State) {
		for _, holder := range s.Holders(id) {
			h, ok := s.Host(holder.Host)
			coming = coming || ok && h.ID != p.self && h.State != placement.Lost
		}
	})
	return coming
}
