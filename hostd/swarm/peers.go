package swarm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/wire"
	"github.com/virtswarm/virtswarm/placement"
)

// peers are the hosts that this one talks to: it drives plan.Sessions, which decides who dials and who is let in. It is
// safe for concurrent use.
type peers struct {
	swarm  *Swarm
	dialer Dialer

	mu      sync.Mutex
	plan    *plan.Sessions
	dialing map[wire.PeerID]*dialing
}

// dialing is one attempt, which several jobs may wait for.
type dialing struct {
	cancel context.CancelFunc
	once   sync.Once
	ready  chan struct{} // closed when there is a session, by whoever dialed, or err is set
	err    error
}

func (d *dialing) finish(err error) {
	d.once.Do(func() {
		d.err = err
		close(d.ready)
	})
}

func newPeers(s *Swarm, d Dialer) *peers {
	return &peers{swarm: s, dialer: d, plan: plan.NewSessions(plan.Host(s.self), MaxSessions),
		dialing: map[wire.PeerID]*dialing{}}
}

// hold returns a session with a peer, dialing if there is none. A mutual peer is one that wants a session with this
// host as well. The caller releases the session.
func (p *peers) hold(ctx context.Context, id wire.PeerID, mutual bool) (*link, error) {
	var waited *dialing
	for {
		l, d, err := p.want(id, mutual, waited)
		if l != nil || err != nil {
			return l, err
		}
		select {
		case <-d.ready:
			waited = d
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// want returns a session with a peer, or the dial to wait for. Who has waited for one does not wait for another.
func (p *peers) want(id wire.PeerID, mutual bool, waited *dialing) (*link, *dialing, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if waited != nil && !p.plan.Connected(plan.Host(id)) {
		return nil, nil, cmp.Or(waited.err, error(fmt.Errorf("host %s: %w", id, wire.ErrEnded))) // it did not last
	}
	e := p.plan.Want(time.Now(), plan.Host(id), mutual)
	p.closed(e.Closed)
	switch e.Answer {
	case plan.Use:
		return linkOf(e.Link), nil, nil
	case plan.Wait:
		return nil, p.dialing[id], nil
	case plan.Dial:
		d, err := p.dial(id, e.After)
		return nil, d, err
	case plan.Forbidden:
		return nil, nil, ErrBadPeer
	}
	return nil, nil, ErrBusy
}

// closed ends a session that has to give way to another; nil is none.
func (p *peers) closed(l *plan.Link) {
	if l != nil {
		linkOf(l).sess.Goodbye(wire.CodeDone, "idle")
	}
}

// retain counts a user of a session.
func (p *peers) retain(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.plan.Retain(l.plan)
}

// spare says whether nobody uses a session.
func (p *peers) spare(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.plan.Spare(l.plan)
}

// release gives back what hold or retain gave.
func (p *peers) release(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.plan.Release(time.Now(), l.plan)
}

// dial begins to dial after a time in which the peer may dial this host; p.mu is held.
func (p *peers) dial(id wire.PeerID, after time.Duration) (*dialing, error) {
	if !p.swarm.enter() {
		p.plan.GaveUp(plan.Host(id))
		return nil, ErrClosed
	}
	ctx, cancel := context.WithTimeout(p.swarm.ctx, plan.DialTimeout)
	d := &dialing{ready: make(chan struct{}), cancel: cancel}
	p.dialing[id] = d
	go func() {
		defer p.swarm.wg.Done()
		defer cancel()
		if after > 0 && p.dialsUs(ctx, after) {
			p.giveUp(id, d)
		} else if l := p.connect(ctx, id, d); l != nil {
			l.run(p.swarm.ctx)
		}
	}()
	return d, nil
}

// dialsUs waits for a peer to dial this host, and says whether it did; then ctx has ended.
func (p *peers) dialsUs(ctx context.Context, within time.Duration) bool {
	wait := time.NewTimer(within)
	defer wait.Stop()
	select {
	case <-ctx.Done():
		return true
	case <-wait.C:
		return false
	}
}

// giveUp ends an attempt that is not needed any more.
func (p *peers) giveUp(id wire.PeerID, d *dialing) {
	p.mu.Lock()
	delete(p.dialing, id)
	p.plan.GaveUp(plan.Host(id))
	p.mu.Unlock()
	d.finish(ErrClosed) // unless it was finished before, by the peer's own session
}

func (p *peers) connect(ctx context.Context, id wire.PeerID, d *dialing) *link {
	conn, err := p.dialer.Dial(ctx, placement.HostID(id.String()))
	var l *link
	if err == nil {
		l = newLink(p.swarm, id, conn, true)
	}
	p.mu.Lock()
	delete(p.dialing, id)
	if err == nil {
		l.enter(p.plan.Dialed(time.Now(), plan.Host(id)))
	} else {
		p.plan.GaveUp(plan.Host(id))
		err = fmt.Errorf("dial host %s: %w", id, err)
	}
	p.mu.Unlock()
	d.finish(err)
	return l
}

// accept serves a session that the peer dialed, until it ends.
func (p *peers) accept(ctx context.Context, conn io.ReadWriteCloser, id wire.PeerID) error {
	p.mu.Lock()
	e := p.plan.Accept(time.Now(), plan.Host(id))
	if e.Closed != nil && e.Closed.Peer() == plan.Host(id) {
		linkOf(e.Closed).sess.Goodbye(wire.CodeBusy, "too many sessions")
	} else {
		p.closed(e.Closed)
	}
	if e.Answer != plan.Welcome {
		p.mu.Unlock()
		switch e.Answer {
		case plan.TurnAway:
			return p.turnAway(ctx, conn, id)
		case plan.Forbidden:
			conn.Close()
			return ErrBadPeer
		}
		conn.Close()
		return ErrBusy
	}
	l := newLink(p.swarm, id, conn, false)
	entered, enough := p.plan.Accepted(time.Now(), plan.Host(id))
	l.enter(entered)
	d := p.dialing[id]
	p.mu.Unlock()
	if d != nil {
		d.finish(nil) // whoever waits for our own dial need not any more
		if enough {
			d.cancel()
		}
	}
	return l.run(ctx)
}

// turnAway speaks with a peer for whom there is no room, just long enough to introduce it to those who fetch what it
// wants: it can live from them.
func (p *peers) turnAway(ctx context.Context, conn io.ReadWriteCloser, id wire.PeerID) error {
	defer func() {
		p.mu.Lock()
		p.plan.TurnedAway()
		p.mu.Unlock()
	}()
	ctx, cancel := context.WithTimeout(ctx, plan.LobbyTime)
	defer cancel()
	l := newLink(p.swarm, id, conn, false)
	told := make(chan struct{}, 1)
	sess := wire.NewSession(conn, lobby{l, told}, wire.Options{Logger: p.swarm.log.Named("wire").With("host", id.String())})
	defer context.AfterFunc(ctx, func() { sess.Goodbye(wire.CodeBusy, "too many sessions") })()
	p.swarm.wg.Go(func() {
		select {
		case <-told:
			time.Sleep(plan.LobbyGrace)
			cancel()
		case <-ctx.Done():
		}
	})
	sess.Run(p.swarm.ctx)
	return ErrBusy
}

// flowTime is how often the rates of sessions are measured, and idle ones looked for.
const flowTime = time.Second

// sweep measures sessions and ends those that are idle, until the swarm closes.
func (p *peers) sweep() {
	tick := time.NewTicker(flowTime)
	defer tick.Stop()
	for {
		select {
		case <-p.swarm.ctx.Done():
			return
		case now := <-tick.C:
			p.look(now)
		}
	}
}

func (p *peers) look(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.plan.Links(func(pl *plan.Link) {
		l := linkOf(pl)
		l.flow.measure(now, l.sess.Stats())
	})
	for _, l := range p.plan.Sweep(now) {
		p.closed(l)
	}
}

// shun ends all sessions with a peer that lied, and refuses it for ShunTime.
func (p *peers) shun(id wire.PeerID, why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.plan.Shun(time.Now(), plan.Host(id)) {
		linkOf(l).sess.Goodbye(wire.CodeCorrupt, why.Error())
	}
	p.swarm.log.Error("shun a host that sent wrong data", "host", id, "error", why, "for", ShunTime)
}

// session is what a link needs of a *wire.Session.
type session interface {
	Run(ctx context.Context) error
	Err() error
	Stats() wire.Stats
	Goodbye(code wire.Code, message string)
	Ping(ctx context.Context) (time.Duration, error)
	Manifest(ctx context.Context, file content.Digest) ([]byte, error)
	Open(ctx context.Context, file content.Digest, chunks int, fetching bool) (content.Bits, []wire.PeerID, error)
	CloseFile(file content.Digest)
	Chunk(ctx context.Context, file content.Digest, index, n int, prio wire.Priority, buf []byte) error
	Draw(ctx context.Context, file content.Digest, lo, hi int, prio wire.Priority, granted func(int) ([]byte, bool)) (int, error)
	SendHave(file content.Digest, chunks ...int) error
	SendHaveLater(file content.Digest, chunks ...int) error
	SendPeers(file content.Digest, peers []wire.PeerID) error
}

// speak begins a session on a connection, whose requests the link answers.
func speak(conn io.ReadWriteCloser, l *link) session {
	return wire.NewSession(conn, l, wire.Options{Logger: l.swarm.log.Named("wire").With("host", l.peer.String())})
}

// link is a session with a peer, and the handler of its requests (see serve.go).
type link struct {
	swarm  *Swarm
	peer   wire.PeerID
	sess   session
	dialed bool // by this host
	near   bool // it stands in this host's rack

	mu       sync.Mutex
	hearings map[content.Digest]*hearing

	unwelcome map[content.Digest]bool // files that the peer has open here, and is told nothing of

	plan *plan.Link // guarded by peers.mu
	flow flow       // likewise

	session   *plan.Session                         // guarded by server.mu
	following map[content.Digest]context.CancelFunc // likewise
}

func linkOf(l *plan.Link) *link { return l.Tag.(*link) }

// enter joins the link with what the plan knows it by; peers.mu is held.
func (l *link) enter(as *plan.Link) {
	l.plan = as
	as.Tag = l
}

func newLink(s *Swarm, id wire.PeerID, conn io.ReadWriteCloser, dialed bool) *link {
	l := &link{swarm: s, peer: id, dialed: dialed, hearings: map[content.Digest]*hearing{}}
	l.near = s.place(plan.Host(s.self)).Distance(s.place(plan.Host(id))) == plan.SameRack
	l.sess = s.speak(conn, l)
	return l
}

// run speaks until the session has ended, and tells the jobs.
func (l *link) run(ctx context.Context) error {
	s := l.swarm
	s.log.Debug("session begins", "host", l.peer, "dialed", l.dialed)
	s.metrics.sessions.Inc()
	s.server.join(l)
	err := l.sess.Run(ctx)
	s.server.leave(l)
	s.metrics.sessions.Dec()
	s.peers.mu.Lock()
	s.peers.plan.Remove(l.plan)
	s.peers.mu.Unlock()
	s.everyJob(func(j *job) { j.post(gone{l}) })
	if errors.Is(err, context.Canceled) {
		err = nil // as was asked
	}
	s.log.Debug("session ended", "host", l.peer, "error", err)
	return err
}
