package swarm

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/wire"
)

// job drives the plan.Job of one file, for all who want chunks of it. One loop owns its state: what happens is an
// event, told to the plan in turn, after which the loop carries out the actions that the plan decides on. The loop
// never waits for a peer or for the disk: that is done by goroutines, one for each request and one for each peer being
// connected, which end by posting an event.
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
	plan    *plan.Job
	claims  []*claim
	links   map[*link]*source
	lastErr error // of the last peer that could not be used
	fault   error // of this host's disk
}

// event is something that happened, told to the plan by the loop.
type event interface{ apply(j *job, now time.Time) }

// eventQueue is how many events wait for the loop before whoever posts one must wait.
const eventQueue = 256

func newJob(s *Swarm, file File) *job {
	m := file.Manifest()
	j := &job{
		swarm: s, file: file, id: file.ID(), m: m,
		events: make(chan event, eventQueue), room: make(chan struct{}, 1),
		done: make(chan struct{}), left: make(chan struct{}),
		links: map[*link]*source{},
	}
	j.plan = plan.NewJob(time.Now(), plan.JobConfig{Self: plan.Host(s.self), Size: m.Size(), Chunk: m.ChunkSize(),
		Have: file.Have(), Place: s.place, Budget: share{s.budget, j}})
	j.ctx, j.cancel = context.WithCancel(s.ctx)
	return j
}

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
	j.swarm.server.fetch(j.id, true)
	alarm := time.NewTimer(time.Until(j.plan.Due()))
	defer alarm.Stop()
	for now := time.Now(); j.ctx.Err() == nil && !j.plan.Over(now); {
		select {
		case e := <-j.events:
			now = time.Now()
			e.apply(j, now)
			j.drain(now)
		case <-j.room:
			now = time.Now()
			j.plan.Room()
		case <-alarm.C:
			now = time.Now()
			j.tick(now)
			alarm.Reset(time.Until(j.plan.Due()))
		case <-j.ctx.Done():
		}
		j.act(now)
	}
	j.end()
}

// drain applies what else has happened, so that one decision answers several events.
func (j *job) drain(now time.Time) {
	for range eventQueue {
		select {
		case e := <-j.events:
			e.apply(j, now)
		default:
			return
		}
	}
}

// end lets go of everything. Only then it is off the list: a new job must find the file closed on all sessions.
func (j *job) end() {
	j.cancel()
	now := time.Now()
	j.plan.Close(now)
	j.act(now)
	close(j.done)
	j.wg.Wait()
	j.swarm.budget.forget(j)
	j.swarm.buffers.put(j.swarm.hot.forget(j.id)...)
	j.swarm.metrics.jobs.Dec()
	j.swarm.server.fetch(j.id, false)
	j.swarm.ended(j)
	close(j.left)
}

// tick tells the plan what the sources have sent, and the callers how far it is.
func (j *job) tick(now time.Time) {
	for _, p := range j.plan.Peers() {
		if src := sourceOf(p); src.link != nil {
			p.Vital(src.link.sess.Stats().BytesIn, int(src.storing.Load()))
		}
	}
	j.plan.Tick(now)
	rate := j.plan.Rate(now)
	seeds, fetchers := j.plan.Sources()
	for _, c := range j.claims {
		c.tally.saw(rate)
		c.progress.Rate, c.progress.Seeds, c.progress.Fetchers = rate, seeds, fetchers
		c.report()
	}
}

// act carries out what the plan decides, until it has nothing more.
func (j *job) act(now time.Time) {
	for {
		actions := j.plan.Act(now)
		if len(actions) == 0 {
			return
		}
		for _, a := range actions {
			j.do(a, now)
		}
	}
}

func (j *job) do(a plan.Action, now time.Time) {
	if j.swarm.watch != nil {
		j.swarm.watch(a)
	}
	switch a.Do {
	case plan.Look:
		j.plan.Listed(now, j.swarm.holders(j.id))
	case plan.Connect:
		j.connect(a.Peer, a.Mutual)
	case plan.Part:
		j.part(sourceOf(a.Peer), a.Why)
	case plan.Send:
		j.send(a.Ask)
	case plan.Cancel:
		a.Ask.Tag.(*request).cancel()
	case plan.Probe:
		j.probe(sourceOf(a.Peer))
	case plan.Shun:
		src := sourceOf(a.Peer)
		j.swarm.peers.shun(src.host, src.err)
	case plan.Tell:
		j.swarm.server.do(func(time.Time) { j.swarm.server.plan.Hold(j.id, a.Chunks, a.Soon) })
	case plan.Crowd:
		j.swarm.server.do(func(time.Time) { j.swarm.server.plan.Crowd(j.id, a.Full) })
	case plan.Finish:
		j.finish(a.Claim.Tag.(*claim), a.Verdict)
	}
}

// finish tells a caller what its claim came to.
func (j *job) finish(c *claim, v plan.Verdict) {
	if i := slices.Index(j.claims, c); i >= 0 {
		j.claims = slices.Delete(j.claims, i, i+1)
		if v == plan.Complete {
			j.stat(c)
		}
	}
	var err error
	switch v {
	case plan.Dropped:
		err = context.Canceled // nobody reads it
	case plan.NoHolder:
		err = &NoHolderError{File: j.id, Missing: c.plan.Left(), Hosts: j.plan.Known(), Last: j.lastErr}
	case plan.Faulty:
		err = j.fault
	case plan.Closed:
		err = ErrClosed
	}
	c.report()
	c.result <- err
}

// claimed: somebody wants chunks.
type claimed struct{ *claim }

func (e claimed) apply(j *job, now time.Time) {
	c, here := e.claim, j.file.Have()
	for i, ok := c.missing.NextSet(0); ok; i, ok = c.missing.NextSet(i + 1) {
		if here.Has(i) {
			c.progress.Done += int64(j.m.ChunkLen(i))
		}
	}
	c.tally.received = j.plan.Received()
	j.plan.Claim(now, c.plan, here)
	if c.plan.Left() > 0 {
		j.claims = append(j.claims, c)
		c.report() // its caller may give up another claim on the same chunks now
	}
}

// dropped: a caller has gone.
type dropped struct{ *claim }

func (e dropped) apply(j *job, now time.Time) { j.plan.Drop(now, e.plan) }

// came: a peer has come to fetch from this host.
type came struct{ peer wire.PeerID }

func (e came) apply(j *job, now time.Time) { j.plan.Came(now, plan.Host(e.peer)) }

// met: a peer named others.
type met struct{ peers []wire.PeerID }

func (e met) apply(j *job, now time.Time) { j.plan.Met(now, hosts(e.peers)...) }

func hosts(ids []wire.PeerID) []plan.Host {
	all := make([]plan.Host, len(ids))
	for i, id := range ids {
		all[i] = plan.Host(id)
	}
	return all
}
