package keeper

import (
	"context"
	"errors"
	"time"

	"github.com/virtswarm/virtswarm/hostd/swarm"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/placement"
)

// freshTime is how long after its publication somebody may wait for a content's copies: within it they are made at
// the priority of what an operator asked for, later at that of a repair.
const freshTime = 15 * time.Minute

// job brings one content to this disk. It ends when nothing of the duty is missing.
type job struct {
	cancel context.CancelFunc
	retry  chan struct{} // the catalogue changed: another try is worth it at once; holds one
}

// again ends the job's wait after a failure.
func (j *job) again() {
	select {
	case j.retry <- struct{}{}:
	default:
	}
}

// start starts a job. It is called with mu held.
func (k *Keeper) start(ctx context.Context, id content.Digest) {
	ctx, cancel := context.WithCancel(ctx)
	j := &job{cancel: cancel, retry: make(chan struct{}, 1)}
	k.running[id] = j
	k.jobs.Go(func() {
		defer cancel()
		for !k.ended(id, j, k.bring(ctx, id, j)) {
		}
	})
}

// ended removes a job and says true, unless the duty grew after the job's last look at it: then it has to look again.
func (k *Keeper) ended(id content.Digest, j *job, err error) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.running[id] != j { // dropped
		return true
	}
	must, _ := k.duty(id)
	if err == nil && k.lacks(placement.Duty{ID: id, Shards: must}) {
		return false
	}
	delete(k.running, id)
	return true
}

// duty returns what this host must hold of a content now, and how urgently.
func (k *Keeper) duty(id content.Digest) (must placement.ShardSet, prio swarm.Priority) {
	prio = swarm.Repair
	k.cfg.Catalogue.View(func(s *placement.State) {
		must = s.HomeShards(k.cfg.Self, id)
		c, _ := s.Content(id)
		for _, name := range c.Names {
			v, err := s.Lookup(name, id)
			if err == nil && time.Since(time.Unix(v.At, 0)) < freshTime {
				prio = swarm.Distribute
			}
		}
		if c.Targets.All || len(c.Targets.Hosts) > 0 {
			prio = swarm.Distribute
		}
	})
	return must, prio
}

// bring fetches until the duty is fulfilled, which is nil, or until ctx ends.
func (k *Keeper) bring(ctx context.Context, id content.Digest, j *job) error {
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		select {
		case k.free <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		err := k.fetch(ctx, id)
		<-k.free
		if err == nil || ctx.Err() != nil {
			return err
		}
		level := k.log.Warn
		if errors.Is(err, swarm.ErrNoHolder) {
			level = k.log.Info // a holder may be on its way back
		}
		level("cannot fetch a content this host must hold, will try again", "id", id, "in", wait, "error", err)
		select {
		case <-time.After(wait):
		case <-j.retry:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// fetch tries once to fulfil the duty for a content and to make it durable.
func (k *Keeper) fetch(ctx context.Context, id content.Digest) error {
	must, prio := k.duty(id)
	if must.Empty() {
		return nil
	}
	f, err := k.cfg.Fetch.File(ctx, id)
	if err != nil {
		return err
	}
	lack, start := missing(f, must), time.Now()
	if !lack.Empty() {
		if err := k.cfg.Fetch.Ensure(ctx, id, lack.Chunks(f.Manifest()), prio, nil); err != nil {
			return err
		}
	}
	if err := f.Sync(ctx); err != nil {
		return err
	}
	k.log.Info("brought a content", "id", id, "chunks", lack.Chunks(f.Manifest()).Count(), "took", time.Since(start))
	return nil
}
