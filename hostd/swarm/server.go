package swarm

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/wire"
)

// server drives the plan.Server of this host: it tells the plan what peers open, want and have, and sends and says what
// the plan decides. It is safe for concurrent use and never waits for a peer or the disk: each chunk on its way has a
// goroutine.
type server struct {
	swarm *Swarm

	mu    sync.Mutex
	plan  *plan.Server
	pulls map[*wire.Pull]*plan.Pull // that wait
	alarm *time.Timer
	due   time.Time // when it rings; zero if it does not
}

func newServer(s *Swarm) *server {
	v := &server{swarm: s, pulls: map[*wire.Pull]*plan.Pull{}}
	v.plan = plan.NewServer(plan.Host(s.self), plan.LendTime, v.copy)
	v.alarm = time.AfterFunc(time.Hour, func() { v.do(func(time.Time) { v.due = time.Time{} }) })
	v.alarm.Stop()
	return v
}

// copy tells the plan what this host has of a file.
func (v *server) copy(id content.Digest) (plan.Copy, bool) {
	f, ok := v.swarm.store.Get(id)
	if !ok {
		return plan.Copy{}, false
	}
	m, have := f.Manifest(), f.Have()
	have.AndNot(m.Holes())
	return plan.Copy{Size: m.Size(), Chunk: m.ChunkSize(), Have: have}, true
}

// do tells the plan what happened, by f, and carries out what it decides.
func (v *server) do(f func(now time.Time)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	f(now)
	for {
		actions := v.plan.Act(now)
		if len(actions) == 0 {
			break
		}
		for _, a := range actions {
			v.act(a)
		}
	}
	if due := v.plan.Due(); !due.IsZero() && (v.due.IsZero() || due.Before(v.due)) {
		v.due = due
		v.alarm.Reset(max(time.Until(due), 0))
	}
}

// act carries an action out; v.mu is held. What is said fails only if the session or its interest has just ended.
func (v *server) act(a plan.ServerAction) {
	if a.Do == plan.Announce {
		for _, sess := range a.Sessions {
			sess.Tag.(*link).announce(a)
		}
		return
	}
	l := a.Session.Tag.(*link)
	switch a.Do {
	case plan.Introduce:
		l.sess.SendPeers(a.File, ids(a.Hosts))
	case plan.Deliver:
		delete(v.pulls, a.Pull.Tag.(*wire.Pull))
		if !v.swarm.enter() {
			v.plan.Sent(a.Pull, false, false) // its session is about to end
			return
		}
		go v.send(l, a.Pull)
	case plan.Decline:
		p := a.Pull.Tag.(*wire.Pull)
		delete(v.pulls, p)
		p.Reject(wire.ErrSpent)
	case plan.Follow:
		l.follow(a.File)
	case plan.Unfollow:
		l.unfollow(a.File)
	}
}

// announce tells the peer of chunks.
func (l *link) announce(a plan.ServerAction) {
	if a.Soon {
		l.sess.SendHave(a.File, a.Chunks...)
	} else {
		l.sess.SendHaveLater(a.File, a.Chunks...)
	}
}

func ids(hosts []plan.Host) []wire.PeerID {
	all := make([]wire.PeerID, len(hosts))
	for i, h := range hosts {
		all[i] = wire.PeerID(h)
	}
	return all
}

// join makes a session one that is served, until leave.
func (v *server) join(l *link) {
	v.do(func(time.Time) {
		l.session = v.plan.Join(plan.Host(l.peer), l.near)
		l.session.Tag = l
	})
}

func (v *server) leave(l *link) { v.do(func(time.Time) { v.plan.Leave(l.session) }) }

// push lets a pull wait for its turn.
func (v *server) push(l *link, p *wire.Pull) {
	v.do(func(now time.Time) {
		w := &plan.Pull{Tag: p, File: p.File, Draw: p.Drawn, First: p.First, Count: p.Count, Chunk: p.First, Len: p.Length,
			Priority: Priority(p.Priority)}
		if !v.plan.Push(now, l.session, w) {
			p.Reject(wire.ErrNotFound)
			return
		}
		v.pulls[p] = w
	})
}

// withdraw forgets a pull that its peer does not want any more.
func (v *server) withdraw(p *wire.Pull) {
	v.do(func(time.Time) {
		if w := v.pulls[p]; w != nil {
			v.plan.Withdraw(w)
			delete(v.pulls, p)
		}
	})
}

// send carries a pull out.
func (v *server) send(l *link, w *plan.Pull) {
	defer v.swarm.wg.Done()
	err := w.Tag.(*wire.Pull).Send(w.Chunk, w.Len, func(buf []byte) ([]byte, error) { return l.read(w, buf) })
	v.do(func(time.Time) { v.plan.Sent(w, err == nil, errors.Is(err, wire.ErrNotHeld)) })
}

// open makes a peer a follower of a file, if it is welcome; spare says that the session serves nothing else.
func (v *server) open(l *link, id content.Digest, fetching, spare bool) (known []plan.Host, welcome bool) {
	v.do(func(time.Time) { known, welcome = v.plan.Open(l.session, id, fetching, spare) })
	return known, welcome
}

// fetch notes that a job begins, or ends.
func (v *server) fetch(id content.Digest, begins bool) {
	v.do(func(time.Time) { v.plan.Fetch(id, begins) })
}

// introduce makes a peer that fetches a file known to the followers who do.
func (v *server) introduce(id content.Digest, peer wire.PeerID) (known []plan.Host) {
	v.do(func(time.Time) { known = v.plan.Introduce(id, plan.Host(peer)) })
	return known
}

// closed forgets a follower.
func (v *server) closed(l *link, id content.Digest) {
	v.do(func(time.Time) { v.plan.Close(l.session, id) })
}

// heard notes that a peer has chunks of a file.
func (v *server) heard(l *link, id content.Digest, chunks []int) {
	v.do(func(time.Time) { v.plan.Heard(l.session, id, chunks) })
}

// fetched says whether a peer fetches a file from here.
func (v *server) fetched(id content.Digest) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.plan.Fetched(id)
}

// waits returns how many pulls of each session wait.
func (v *server) waits() map[*link]int {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := map[*link]int{}
	for _, w := range v.pulls {
		n[w.Session().Tag.(*link)]++
	}
	return n
}

// follow opens a file at a peer that draws it here, to hear what it has; server.mu is held.
func (l *link) follow(id content.Digest) {
	f, ok := l.swarm.store.Get(id)
	if !ok || !l.swarm.enter() {
		return
	}
	ctx, cancel := context.WithCancel(l.swarm.ctx)
	if l.following == nil {
		l.following = map[content.Digest]context.CancelFunc{}
	}
	l.following[id] = cancel
	chunks := f.Manifest().Chunks()
	go func() {
		defer l.swarm.wg.Done()
		defer cancel()
		have, _, err := l.listen(ctx, id, chunks, false)
		if err != nil {
			l.swarm.log.Debug("cannot follow a drawer", "file", id.Short(), "host", l.peer, "error", err)
			return
		}
		l.swarm.server.heard(l, id, indexes(have))
		<-ctx.Done()
		l.unlisten(id)
	}()
}

// unfollow ends what follow began; server.mu is held.
func (l *link) unfollow(id content.Digest) {
	if cancel := l.following[id]; cancel != nil {
		cancel()
		delete(l.following, id)
	}
}
