package keeper

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/placement"
)

const (
	// roomPatience bounds how long a writer waits for room: an election, and some syncs of a busy disk.
	roomPatience = 20 * time.Second
	// barrenTime is how long nothing is tried after nothing could be evicted: what could change that is news of the
	// catalogue, which does not come every millisecond, while a full disk refuses a chunk every millisecond.
	barrenTime = time.Second
	// maxBatch bounds the files that are evicted in one go, between two looks at the catalogue.
	maxBatch = 256
	// forgetAfter is how long a file of which nothing is left stays known, for who has just found it in the store.
	forgetAfter = time.Minute
)

// ErrNothingToEvict says that all that is on this disk must stay.
var ErrNothingToEvict = errors.New("nothing here may be evicted")

// Reporter tells the catalogue what Withdrawn.Told says of contents. It is called concurrently.
type Reporter interface {
	// Report returns nil once the catalogue has what Told said of these contents after the call began.
	Report(ctx context.Context, ids []content.Digest) error
	// Touch has them reported some time. It does not block.
	Touch(id content.Digest)
}

// evictor makes room, one round after the other.
type evictor struct {
	keeper  *Keeper
	crowded chan struct{} // the store is above its high watermark, or its quota changed; holds one
	asks    chan ask
	ended   chan struct{} // closed when nobody listens any more

	base   context.Context // that of run
	barren time.Time       // when nothing was found to evict
	why    error           // and why
}

// ask is one wish for room.
type ask struct {
	need int64
	done chan<- error // has room for the answer
}

func newEvictor(k *Keeper) *evictor {
	return &evictor{keeper: k, crowded: make(chan struct{}, 1), asks: make(chan ask), ended: make(chan struct{})}
}

// Crowded implements store.Evictor.
func (k *Keeper) Crowded() {
	select {
	case k.evictor.crowded <- struct{}{}:
	default:
	}
}

// MakeRoom implements store.Evictor. It works while Run does.
func (k *Keeper) MakeRoom(ctx context.Context, need int64) error {
	ctx, cancel := context.WithTimeoutCause(ctx, roomPatience, errors.New("making room took too long"))
	defer cancel()
	done := make(chan error, 1)
	select {
	case k.evictor.asks <- ask{need, done}:
	case <-k.evictor.ended:
		return ErrNothingToEvict
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run evicts whenever that is asked for, until ctx ends.
func (e *evictor) run(ctx context.Context) {
	defer close(e.ended)
	e.base = ctx
	anyway := time.NewTicker(lookAnyway)
	defer anyway.Stop()
	for {
		var asks []ask
		select {
		case <-ctx.Done():
			return
		case <-e.crowded:
		case <-anyway.C:
			e.forgetEmpty()
		case a := <-e.asks:
			asks = append(asks, a)
		}
		asks = e.gather(asks)
		err := e.serve(ctx, asks)
		for _, a := range asks {
			a.done <- err
		}
	}
}

// gather adds the asks that wait already.
func (e *evictor) gather(asks []ask) []ask {
	for {
		select {
		case a := <-e.asks:
			asks = append(asks, a)
		default:
			return asks
		}
	}
}

// shortage is how many bytes a round is to free.
type shortage struct {
	// must is what somebody asks for, or what is over the quota: for that strays go, before all else.
	must int64
	// want, at least must, reaches down to the low watermark: for the rest of it only what is safe elsewhere goes.
	want int64
}

// wanted says how much room the asks need, and the watermarks.
func (e *evictor) wanted(asks []ask) (r shortage) {
	u := e.keeper.cfg.Store.Usage()
	have := u.Bytes + u.Arriving
	if u.Quota > 0 {
		r.must = have - u.Quota
	}
	if len(asks) > 0 {
		r.must = have - u.Budget
	}
	for _, a := range asks {
		r.must += a.need
	}
	r.want = max(u.Excess(), r.must)
	return r
}

// serve evicts what the asks need, or down to the low watermark if that is more.
func (e *evictor) serve(ctx context.Context, asks []ask) error {
	r := e.wanted(asks)
	if r.want <= 0 {
		e.keeper.roomAgain()
		return nil
	}
	if since := time.Since(e.barren); since < barrenTime {
		return e.why
	}
	freed, err := e.evict(ctx, r)
	if freed > 0 {
		e.keeper.log.Info("evicted what was used least recently", "bytes", freed, "wanted", r.want)
		e.keeper.roomAgain()
		return nil
	}
	if err == nil {
		err = ErrNothingToEvict
	}
	e.barren, e.why = time.Now(), err
	return err
}

// evict frees as much as is wanted if it can, strays first, and says how much it has freed.
func (e *evictor) evict(ctx context.Context, r shortage) (freed int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, roomPatience)
	defer cancel()
	freed, err = e.evictThose(ctx, r.must, e.keeper.mayGo)
	if err != nil || freed >= r.want {
		return freed, err
	}
	more, err := e.evictThose(ctx, r.want-freed, e.keeper.evictable)
	return freed + more, err
}

// evictThose frees want bytes, if it can, of the shards that may go. See the package's comment for the order of its
// steps.
func (e *evictor) evictThose(ctx context.Context, want int64, may shardsOf) (freed int64, err error) {
	spared := map[content.Digest]bool{}
	for freed < want {
		if err := e.keeper.cfg.Catalogue.ReadIndex(ctx); err != nil {
			return freed, fmt.Errorf("what may be evicted cannot be known: %w", err)
		}
		batch := e.choose(want-freed, spared, may)
		if len(batch) == 0 {
			return freed, nil
		}
		n, err := e.evictBatch(ctx, batch, may)
		freed += n
		if err != nil {
			return freed, err
		}
		for _, v := range batch {
			spared[v.file.ID()] = true // what it could give, it has given
		}
	}
	return freed, nil
}

// evictBatch drops what was withdrawn and says how many bytes that has freed.
func (e *evictor) evictBatch(ctx context.Context, batch []victim, may shardsOf) (freed int64, err error) {
	k := e.keeper
	ids := make([]content.Digest, len(batch))
	for i, v := range batch {
		ids[i] = v.file.ID()
	}
	defer e.restore(ids)
	if err := k.cfg.Reporter.Report(ctx, ids); err != nil {
		return 0, fmt.Errorf("cannot tell the catalogue what is to be evicted: %w", err)
	}
	if err := k.cfg.Catalogue.ReadIndex(ctx); err != nil {
		return 0, fmt.Errorf("what may be evicted cannot be known: %w", err)
	}
	for _, v := range batch {
		n, err := e.drop(ctx, v, may)
		freed += n
		if err != nil {
			k.log.Debug("a file is spared", "id", v.file.ID(), "why", err)
		}
	}
	return freed, nil
}

// drop drops what is still safe elsewhere of what was withdrawn.
func (e *evictor) drop(ctx context.Context, v victim, may shardsOf) (int64, error) {
	k, m, before := e.keeper, v.file.Manifest(), v.file.HeldBytes()
	k.mu.Lock()
	safe := may(v.file.ID(), m.Shards())
	k.mu.Unlock()
	safe.And(v.shards)
	err := v.file.Drop(ctx, placement.ShardsIn(safe).Chunks(m))
	freed := max(0, before-v.file.HeldBytes())
	if errors.Is(err, store.ErrLinked) && v.bytes == before && safe.Equal(v.shards) && !v.file.InUse() {
		// It cannot be punched, but nothing of it has to stay.
		if err = k.cfg.Store.Remove(v.file.ID()); err == nil {
			freed = before
		}
	}
	k.evicted.Add(freed)
	return freed, err
}

// restore ends a withdrawal: what was not dropped is told again, and what has become a duty meanwhile is fetched.
func (e *evictor) restore(ids []content.Digest) {
	k := e.keeper
	defer func() {
		for _, id := range ids {
			k.cfg.Reporter.Touch(id)
		}
	}()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, id := range ids {
		k.cfg.Withdrawn.remove(id)
		if must, _ := k.duty(id); k.running[id] == nil && k.lacks(placement.Duty{ID: id, Shards: must}) {
			k.start(e.base, id)
		}
	}
}

// forgetEmpty removes the files of which nothing is left and nothing is wanted.
func (e *evictor) forgetEmpty() {
	k := e.keeper
	for _, f := range k.cfg.Store.List() {
		if f.HeldBytes() > 0 || f.Manifest().DataBytes() == 0 || time.Since(f.LastUse()) < forgetAfter {
			continue
		}
		k.mu.Lock()
		must, _ := k.duty(f.ID())
		if must.Empty() && k.pins[f.ID()] == nil && k.running[f.ID()] == nil && !f.InUse() {
			if err := k.cfg.Store.Remove(f.ID()); err != nil {
				k.log.Warn("cannot forget a file of which nothing is left", "id", f.ID(), "error", err)
			}
		}
		k.mu.Unlock()
	}
}
