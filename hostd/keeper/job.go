package keeper

import (
	"context"
	"errors"
	"time"

	"github.com/virtswarm/virtswarm/hostd/fetch"
	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/hostd/swarm"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/placement"
)

// freshTime is how long after its publication somebody may wait for a content's copies: within it they are made at
// the priority of what an operator asked for, later at that of a repair.
const freshTime = 15 * time.Minute

// errMoreUrgent ends a try that goes on at a higher priority.
var errMoreUrgent = errors.New("somebody waits for it now")

// job brings one content to this disk. It ends when nothing of the duty is missing.
type job struct {
	cancel context.CancelFunc
	retry  chan struct{} // the catalogue changed, or there is room: another try is worth it at once; holds one

	// Guarded by the keeper's mu.
	prio   swarm.Priority          // of the try that runs
	stop   context.CancelCauseFunc // ends that; nil if none runs
	rate   float64                 // bytes a second that it brings
	noRoom bool                    // the last one failed for lack of room
}

// again ends the job's wait after a failure.
func (j *job) again() {
	select {
	case j.retry <- struct{}{}:
	default:
	}
}

// news has a job look at its duty again, because the catalogue changed. It is called with mu held.
func (k *Keeper) news(id content.Digest, j *job) {
	j.again()
	if _, prio := k.duty(id); j.stop != nil && prio > j.prio {
		j.stop(errMoreUrgent)
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
		if !c.Targets.IsZero() {
			prio = swarm.Distribute
		}
	})
	return must, prio
}

// bring fetches until the duty is fulfilled, which is nil, or until ctx ends.
func (k *Keeper) bring(ctx context.Context, id content.Digest, j *job) error {
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		err := k.try(ctx, id, j)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if errors.Is(err, errMoreUrgent) {
			wait = firstRetry / 2
			continue
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

// try waits for its turn and tries once to fulfil the duty for a content.
func (k *Keeper) try(ctx context.Context, id content.Digest, j *job) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	k.mu.Lock()
	must, prio := k.duty(id)
	j.prio, j.stop = prio, stop
	k.mu.Unlock()
	var err error
	select {
	case k.free[prio] <- struct{}{}:
		err = k.fetch(ctx, id, j, must, prio)
		<-k.free[prio]
	case <-ctx.Done():
		err = ctx.Err()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	j.stop, j.rate, j.noRoom = nil, 0, errors.Is(err, store.ErrNoSpace)
	if err != nil && errors.Is(context.Cause(ctx), errMoreUrgent) {
		return errMoreUrgent
	}
	return err
}

// roomAgain has the jobs tried again that lacked room.
func (k *Keeper) roomAgain() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, j := range k.running {
		if j.noRoom {
			j.again()
		}
	}
}

// fitting returns as many of a file's shards as there is room for, or can be made: a shard counts when it is whole, and
// a full disk with a part of each would keep nothing. full says why it is not all of them.
func (k *Keeper) fitting(ctx context.Context, f *store.File, lack placement.ShardSet) (fits placement.ShardSet, full error) {
	m, have := f.Manifest(), f.Have()
	shards := lack.Bits(m.Shards())
	var need int64
	for s, ok := shards.NextSet(0); ok; s, ok = shards.NextSet(s + 1) {
		need += lackingBytes(m, have, s)
	}
	if full = k.cfg.Store.MakeRoom(ctx, need); full == nil {
		return lack, nil
	}
	left := k.cfg.Store.Usage().Left()
	for s, ok := shards.NextSet(0); ok; s, ok = shards.NextSet(s + 1) {
		if left -= lackingBytes(m, have, s); left < 0 {
			shards.Clear(s)
			left += lackingBytes(m, have, s)
		}
	}
	return placement.ShardsIn(shards), full
}

// fetch brings what a duty says, and makes it durable.
func (k *Keeper) fetch(ctx context.Context, id content.Digest, j *job, must placement.ShardSet, prio swarm.Priority) error {
	if must.Empty() {
		return nil
	}
	h, err := k.cfg.Fetch.Open(ctx, id, prio)
	if err != nil {
		return err
	}
	defer h.Close()
	f := h.Stored()
	k.Remember(f) // before anybody counts on what is here
	lack, start := missing(f, must), time.Now()
	lack, full := k.fitting(ctx, f, lack)
	if !lack.Empty() {
		err := h.Wait(ctx, func(p fetch.Progress) {
			k.mu.Lock()
			j.rate = p.Rate
			k.mu.Unlock()
		}, fetch.Ranges(lack.Chunks(f.Manifest()))...)
		if err != nil {
			return err
		}
	}
	if err := f.Sync(ctx); err != nil {
		return err
	}
	if full != nil {
		return full
	}
	k.log.Info("brought a content", "id", id, "chunks", lack.Chunks(f.Manifest()).Count(), "took", time.Since(start))
	return nil
}
