package keeper

import (
	"context"
	"iter"
	"maps"
	"time"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/placement"
)

// settle decides on what an earlier run or a failed publication left behind, once the catalogue's newest state is
// known: what that does not name is a stray, or is dropped if this run began it. It drops the strays whose time has
// come.
func (k *Keeper) settle(ctx context.Context) {
	if !k.unsettled() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lastRetry)
	defer cancel()
	if k.cfg.Catalogue.ReadIndex(ctx) != nil {
		return // no leader: they wait
	}
	k.mu.Lock()
	var cluster string
	named := map[content.Digest]bool{}
	k.cfg.Catalogue.View(func(s *placement.State) {
		cluster = s.ClusterID()
		for _, ids := range []iter.Seq[content.Digest]{maps.Keys(k.found), maps.Keys(k.failed), maps.Keys(k.strays)} {
			for id := range ids {
				_, named[id] = s.Content(id)
			}
		}
	})
	k.settleFound(named)
	k.closeSettle()
	k.dropFailed(named)
	old := k.old(named)
	k.mu.Unlock()
	for _, id := range old {
		k.dropOld(id)
	}
	k.noteStrays()
	k.stamp(cluster)
}

// stamp puts the name of the cluster on the store.
func (k *Keeper) stamp(cluster string) {
	if cluster == "" {
		return
	}
	err := k.cfg.Store.SetCluster(cluster)
	if err != nil {
		k.log.Warn("cannot stamp the store with its cluster, will try again", "in", lookAnyway, "error", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stampAfter = time.Now().Add(lookAnyway)
}

// unsettled says whether there is anything to ask the catalogue for.
func (k *Keeper) unsettled() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.found)+len(k.failed) > 0 || !k.isSettled() || !k.stamped() && time.Now().After(k.stampAfter) {
		return true
	}
	for _, s := range k.strays {
		if k.due(s) {
			return true
		}
	}
	return false
}

// Settled waits until it is clear which of the contents that were in the store at the start the catalogue names.
func (k *Keeper) Settled(ctx context.Context) error {
	select {
	case <-k.settled:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (k *Keeper) isSettled() bool {
	select {
	case <-k.settled:
		return true
	default:
		return false
	}
}

// stamped says whether the store bears the name of the cluster, as far as that is known.
func (k *Keeper) stamped() (ok bool) {
	k.cfg.Catalogue.View(func(s *placement.State) { ok = s.ClusterID() == "" || s.ClusterID() == k.cfg.Store.Cluster() })
	return ok
}

// settleFound makes strays of the files that were in the store when this run began and that the catalogue does not
// name.
func (k *Keeper) settleFound(named map[content.Digest]bool) {
	var strays, size int64
	for id := range k.found {
		if f, ok := k.cfg.Store.Get(id); ok && !named[id] {
			k.strays[id] = &stray{since: firstSeen(f)}
			strays++
			size += f.HeldBytes()
		}
	}
	clear(k.found) // what the catalogue names is among known by now, or will be
	if strays > 0 {
		k.log.Warn("the catalogue does not name some contents of the store; they are kept for a time: see 'virtswarm strays', and keep them with 'virtswarm adopt'",
			"contents", strays, "bytes", size, "keep_strays", k.cfg.KeepStrays, "store_of_cluster", k.cfg.Store.Cluster())
	}
}

// dropFailed drops what publications of this run left behind.
func (k *Keeper) dropFailed(named map[content.Digest]bool) {
	for id := range k.failed {
		if !named[id] { // a pinned one stays, and is put back here when it is unpinned
			k.drop(id)
		}
	}
	clear(k.failed)
}

// old returns the strays whose time has come, and forgets those that were adopted or published again.
func (k *Keeper) old(named map[content.Digest]bool) (ids []content.Digest) {
	for id, s := range k.strays {
		switch {
		case named[id]:
			delete(k.strays, id)
		case k.due(s):
			ids = append(ids, id)
		}
	}
	return ids
}

// dropOld drops a stray whose time has come, unless it was given a name a moment ago. It takes the lock for this one
// alone: the time of many comes at once.
func (k *Keeper) dropOld(id content.Digest) {
	k.mu.Lock()
	defer k.mu.Unlock()
	named := false
	k.cfg.Catalogue.View(func(s *placement.State) { _, named = s.Content(id) })
	if s := k.strays[id]; s != nil && k.due(s) && !named {
		k.drop(id)
	}
}
