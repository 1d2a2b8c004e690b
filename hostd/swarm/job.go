package swarm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/wire"
)

// job fetches one file for all who want chunks of it. One loop owns its state: what happens is an event, applied in turn,
// after which the loop asks for whatever may be asked for. The loop never waits for a peer or for the disk: that is done
// by goroutines, one for each request and one for each peer being connected, which end by posting an event.
type job struct {
	swarm *Swarm
	file  File
	id    content.Digest
	m     *content.Manifest

	events chan event
	room   chan struct{} // the budget has room again; holds one
	done   chan struct{} // closed when the loop has ended: nobody hears events any more
	left   chan struct{} // closed when nothing of the job is left: another may begin
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup // requests and connects

	// The rest belongs to the loop.
	pick       *plan.Picker
	have       content.Bits // chunks that are here, and announced or about to be
	claims     map[*claim]struct{}
	candidates map[wire.PeerID]*candidate
	sources    map[wire.PeerID]*source // connected or connecting
	links      map[*link]*source
	shown      map[*plan.Source]*source // by what the picker calls them
	pace       plan.Pace                // of everything that comes in
	starved    bool                     // some sources are limited for want of budget
	news       []int                    // chunks to announce: those that no fellow in this rack had
	old        []int                    // and those that one has given
	looked     time.Time                // when the directory was asked
	lastUse    time.Time                // when the last claim went
	received   int64                    // bytes of chunks that have come, for whomever
	lastErr    error                    // of the last peer that could not be used
}

// event is something that happened, applied by the loop.
type event interface{ apply(j *job) }

// eventQueue is how many events wait for the loop before whoever posts one must wait.
const eventQueue = 256

func newJob(s *Swarm, file File) *job {
	m := file.Manifest()
	j := &job{
		swarm: s, file: file, id: file.ID(), m: m,
		events: make(chan event, eventQueue), room: make(chan struct{}, 1),
		done: make(chan struct{}), left: make(chan struct{}),
		pick:       plan.NewPicker(keyOf(s.self), s.placeOf(s.self), m.Size(), m.ChunkSize()),
		have:       file.Have(),
		claims:     map[*claim]struct{}{},
		candidates: map[wire.PeerID]*candidate{},
		sources:    map[wire.PeerID]*source{},
		links:      map[*link]*source{},
		shown:      map[*plan.Source]*source{},
		lastUse:    time.Now(),
	}
	j.ctx, j.cancel = context.WithCancel(s.ctx)
	return j
}

// keyOf is what a peer is to the picker. Host ids are heads of hashes, so any part of one is uniform.
func keyOf(id wire.PeerID) uint64 { return binary.LittleEndian.Uint64(id[:]) }

// serve gives a claim to the loop and waits for its result. ended says that the job was over before it heard of it, and
// is off the list by now.
func (j *job) serve(ctx context.Context, c *claim, progress func(Progress)) (err error, ended bool) {
	if !j.post(claimed{c}) {
		<-j.left
		return nil, true
	}
	for {
		select {
		case p := <-c.reports:
			progress(p)
		case err := <-c.result:
			select {
			case p := <-c.reports:
				progress(p) // the last one; else it was taken already
			default:
			}
			return err, false
		case <-ctx.Done():
			j.post(dropped{c})
			return ctx.Err(), false
		case <-j.done:
			select {
			case err := <-c.result:
				return err, false
			default:
				<-j.left
				return nil, true
			}
		}
	}
}

// post hands an event to the loop; false if the job has ended.
func (j *job) post(e event) bool {
	select {
	case j.events <- e:
		return true
	case <-j.done:
		return false
	}
}

// run is the loop.
func (j *job) run() {
	j.swarm.metrics.jobs.Inc()
	tick := time.NewTicker(tickTime)
	defer tick.Stop()
	for !j.over() {
		select {
		case e := <-j.events:
			e.apply(j)
			j.drain()
		case <-j.room:
			j.unlimit()
		case now := <-tick.C:
			j.tick(now)
		case <-j.ctx.Done():
			j.failAll(ErrClosed)
		}
		j.fill()
		j.announce()
	}
	j.end()
}

// drain applies what else has happened, so that one look at the picker answers several events.
func (j *job) drain() {
	for range eventQueue {
		select {
		case e := <-j.events:
			e.apply(j)
		default:
			return
		}
	}
}

// over says whether the loop should end: the swarm closes, or nobody wanted anything for a while.
func (j *job) over() bool {
	return j.ctx.Err() != nil || len(j.claims) == 0 && time.Since(j.lastUse) >= LingerTime
}

// end lets go of everything. Only then it is off the list: a new job must find the file closed on all sessions.
func (j *job) end() {
	j.cancel()
	j.failAll(ErrClosed)
	close(j.done)
	j.wg.Wait()
	for _, src := range j.sources {
		j.leave(src)
	}
	j.swarm.budget.forget(j)
	j.swarm.buffers.put(j.swarm.hot.forget(j.id)...)
	j.swarm.metrics.jobs.Dec()
	j.swarm.ended(j)
	close(j.left)
}

// tick is what is done now and then.
func (j *job) tick(now time.Time) {
	for _, src := range j.sources {
		src.measure(j, now)
		if src.stalls(now) {
			j.swarm.metrics.stalls.Inc()
			j.drop(src, fmt.Errorf("host %s: sent nothing for %v", src.cand.id, StallTime))
		}
	}
	if len(j.claims) == 0 {
		return
	}
	j.seek(now)
	rate := j.pace.Rate(now, j.m.ChunkSize())
	seeds, fetchers := j.connected()
	for c := range j.claims {
		c.tally.saw(rate)
		c.progress.Rate, c.progress.Seeds, c.progress.Fetchers = rate, seeds, fetchers
		c.report()
		j.checkStuck(c, now)
	}
}

// seek looks for peers to fetch from.
func (j *job) seek(now time.Time) {
	if now.Sub(j.looked) >= LookTime {
		j.looked = now
		j.list(j.swarm.holders(j.id))
	}
	j.connect(now)
}

// connected counts the sources that have everything and those that do not.
func (j *job) connected() (seeds, fetchers int) {
	for _, src := range j.sources {
		switch {
		case !src.open:
		case j.pick.Complete(src.pick):
			seeds++
		default:
			fetchers++
		}
	}
	return seeds, fetchers
}

// checkStuck fails a claim of which nobody has offered anything for PatienceTime.
func (j *job) checkStuck(c *claim, now time.Time) {
	switch {
	case j.offered(c):
		c.stuck = time.Time{}
	case c.stuck.IsZero():
		c.stuck = now
	case now.Sub(c.stuck) >= PatienceTime:
		j.finish(c, &NoHolderError{File: j.id, Missing: c.left, Hosts: len(j.candidates), Last: j.lastErr})
	}
}

// offered says whether anything that a claim lacks can be had, or a host has not been tried yet.
func (j *job) offered(c *claim) bool {
	for _, cand := range j.candidates {
		if !cand.tried {
			return true
		}
	}
	for i, ok := c.missing.NextSet(0); ok; i, ok = c.missing.NextSet(i + 1) {
		if j.pick.Holders(i) > 0 {
			return true
		}
	}
	return false
}

// announce tells all followers of the file what is new here.
func (j *job) announce() {
	j.swarm.announce(j.id, j.news, true)
	j.swarm.announce(j.id, j.old, false)
	j.news, j.old = j.news[:0], j.old[:0]
}

// claimed: somebody wants chunks.
type claimed struct{ *claim }

func (e claimed) apply(j *job) {
	c := e.claim
	// What was here may have been damaged since, and what the caller missed may have come.
	here := j.file.Have()
	j.have.And(here)
	for i, ok := c.missing.NextSet(0); ok; i, ok = c.missing.NextSet(i + 1) {
		if here.Has(i) {
			c.got(i, j.m.ChunkLen(i))
		} else {
			j.pick.Want(i, max(c.prio, j.pick.Wanted(i)))
		}
	}
	if c.left == 0 {
		c.finish(nil)
		return
	}
	c.tally.received = j.received
	j.claims[c] = struct{}{}
	if len(j.claims) == 1 {
		j.seek(time.Now())
	}
	if c.prio <= plan.Start { // the draws that wait for less may be for the same chunks, and would keep their place in the line
		for _, src := range j.sources {
			j.undraw(src, c.prio)
		}
	}
	c.report() // its caller may give up another claim on the same chunks now
}

// dropped: a caller has gone.
type dropped struct{ *claim }

func (e dropped) apply(j *job) {
	if _, ok := j.claims[e.claim]; ok {
		j.finish(e.claim, context.Canceled) // nobody reads it
	}
}

// finish ends a claim. What only it wanted is wanted no more, and not waited for.
func (j *job) finish(c *claim, err error) {
	delete(j.claims, c)
	j.lastUse = time.Now()
	for i, ok := c.missing.NextSet(0); ok; i, ok = c.missing.NextSet(i + 1) {
		prio := plan.Unwanted
		for o := range j.claims {
			if o.missing.Has(i) {
				prio = max(prio, o.prio)
			}
		}
		j.pick.Want(i, prio)
		if prio == plan.Unwanted {
			j.abandon(i)
		}
	}
	if len(j.claims) == 0 {
		for _, src := range j.sources {
			j.undraw(src, plan.AnyPriority)
		}
	}
	c.finish(err)
}

func (j *job) failAll(err error) {
	for c := range j.claims {
		j.finish(c, err)
	}
}

// arrived notes that chunk i is on this host's disk. It is news to the others if it came from a
// seed, or first of all into this rack.
func (j *job) arrived(i int, from wire.PeerID, news bool) {
	for _, s := range j.pick.Done(i) {
		j.shown[s].cancel(i)
	}
	n := j.m.ChunkLen(i)
	for c := range j.claims {
		if c.missing.Has(i) {
			c.tally.from(from)
		}
		if c.got(i, n) {
			j.stat(c)
			j.finish(c, nil)
		}
	}
	if j.have.Has(i) {
		return
	}
	j.have.Set(i)
	if news {
		j.news = append(j.news, i)
	} else {
		j.old = append(j.old, i)
	}
}

// fault: this host could not store what it received. All callers hear of it; it is nobody else's fault.
func (j *job) fault(i int, err error) {
	j.failAll(fmt.Errorf("store chunk %d of %s: %w", i, j.id.Short(), err))
}

// unfit says whether an error means that a chunk did not match its digest.
func unfit(err error) bool { return errors.Is(err, content.ErrMismatch) }
