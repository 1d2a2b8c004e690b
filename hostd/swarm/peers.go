package swarm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/wire"
	"github.com/virtswarm/virtswarm/placement"
)

// maxPeerSessions bounds the sessions with one peer. Two are normal when both dial at once.
const maxPeerSessions = 4

// peers are the hosts that this one talks to. A session serves all jobs and both directions, whoever dialed it. When two
// hosts dial each other at the same time there are two; both sides then prefer the one that the lower id dialed, and the
// other is closed when it has been idle. It is safe for concurrent use.
type peers struct {
	swarm  *Swarm
	dialer Dialer

	mu      sync.Mutex
	links   map[wire.PeerID][]*link
	dialing map[wire.PeerID]*dialing
	shunned map[wire.PeerID]time.Time // until when
	count   int                       // links and dials
	most    int                       // of them
	lobby   int                       // sessions that are being turned away
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
	return &peers{swarm: s, dialer: d, links: map[wire.PeerID][]*link{}, dialing: map[wire.PeerID]*dialing{},
		shunned: map[wire.PeerID]time.Time{}, most: MaxSessions}
}

// hold returns a session with a peer, dialing if there is none. A mutual peer is one that wants a session with this host as
// well. The caller releases the session.
func (p *peers) hold(ctx context.Context, id wire.PeerID, mutual bool) (*link, error) {
	var waited *dialing
	for {
		p.mu.Lock()
		if p.isShunned(id) {
			p.mu.Unlock()
			return nil, ErrBadPeer
		}
		if l := p.preferred(id); l != nil {
			l.users++
			p.mu.Unlock()
			return l, nil
		}
		if waited != nil {
			p.mu.Unlock()
			return nil, cmp.Or(waited.err, error(fmt.Errorf("host %s: %w", id, wire.ErrEnded))) // it did not last
		}
		d, err := p.dial(id, mutual)
		p.mu.Unlock()
		if err != nil {
			return nil, err
		}
		select {
		case <-d.ready:
			waited = d
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// release gives back what hold gave.
func (p *peers) release(l *link) { p.use(l, -1) }

// use counts users of a link; one without any is idle.
func (p *peers) use(l *link, by int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.users += by
	if l.users == 0 {
		l.idle = time.Now()
	}
}

// preferred returns the session with a peer that both sides would choose; p.mu is held.
func (p *peers) preferred(id wire.PeerID) *link {
	var best *link
	for _, l := range p.links[id] {
		if best == nil || l.dialed == less(p.swarm.self, id) {
			best = l
		}
	}
	return best
}

func less(a, b wire.PeerID) bool { return string(a[:]) < string(b[:]) }

// dial joins the attempt that is under way, or begins one; p.mu is held.
func (p *peers) dial(id wire.PeerID, mutual bool) (*dialing, error) {
	if d := p.dialing[id]; d != nil {
		return d, nil
	}
	if !p.reserve() {
		return nil, ErrBusy
	}
	if !p.swarm.enter() {
		p.count--
		return nil, ErrClosed
	}
	ctx, cancel := context.WithTimeout(p.swarm.ctx, DialTimeout)
	d := &dialing{ready: make(chan struct{}), cancel: cancel}
	p.dialing[id] = d
	go func() {
		defer p.swarm.wg.Done()
		defer cancel()
		if mutual && less(id, p.swarm.self) && p.dialsUs(ctx) {
			p.giveUp(id, d)
		} else if l := p.connect(ctx, id, d); l != nil {
			l.run(p.swarm.ctx)
		}
	}()
	return d, nil
}

// dialsUs waits for a peer to dial this host, and says whether it did; then ctx has ended.
func (p *peers) dialsUs(ctx context.Context) bool {
	wait := time.NewTimer(CourtesyTime)
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
	p.count--
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
		p.links[id] = append(p.links[id], l)
	} else {
		p.count--
		err = fmt.Errorf("dial host %s: %w", id, err)
	}
	p.mu.Unlock()
	d.finish(err)
	return l
}

// accept serves a session that the peer dialed, until it ends.
func (p *peers) accept(ctx context.Context, conn io.ReadWriteCloser, id wire.PeerID) error {
	p.mu.Lock()
	if p.isShunned(id) {
		p.mu.Unlock()
		conn.Close()
		return ErrBadPeer
	}
	if !p.reserve() {
		full := p.lobby == MaxLobby
		if !full {
			p.lobby++
		}
		p.mu.Unlock()
		if full {
			conn.Close()
			return ErrBusy
		}
		return p.turnAway(ctx, conn, id)
	}
	if links := p.links[id]; len(links) >= maxPeerSessions {
		// It was started anew, or wastes ours: either way it is the old one that it can do without.
		links[0].sess.Goodbye(wire.CodeBusy, "too many sessions")
		p.remove(links[0])
	}
	l := newLink(p.swarm, id, conn, false)
	p.links[id] = append(p.links[id], l)
	d := p.dialing[id]
	p.mu.Unlock()
	if d != nil {
		d.finish(nil) // whoever waits for our own dial need not any more
		if less(id, p.swarm.self) {
			d.cancel() // and both sides prefer this one
		}
	}
	return l.run(ctx)
}

// turnAway speaks with a peer for whom there is no room, just long enough to introduce it to those who fetch what it wants:
// it can live from them.
func (p *peers) turnAway(ctx context.Context, conn io.ReadWriteCloser, id wire.PeerID) error {
	defer func() {
		p.mu.Lock()
		p.lobby--
		p.mu.Unlock()
	}()
	ctx, cancel := context.WithTimeout(ctx, LobbyTime)
	defer cancel()
	l := newLink(p.swarm, id, conn, false)
	sess := wire.NewSession(conn, lobby{l}, wire.Options{Logger: p.swarm.log.Named("wire").With("host", id.String())})
	defer context.AfterFunc(ctx, func() { sess.Goodbye(wire.CodeBusy, "too many sessions") })()
	sess.Run(p.swarm.ctx)
	return ErrBusy
}

// reserve makes room for one more session, ending the one that has been idle longest if need be; p.mu is held.
func (p *peers) reserve() bool {
	if p.count >= p.most {
		var oldest *link
		for _, links := range p.links {
			for _, l := range links {
				if l.users == 0 && (oldest == nil || l.idle.Before(oldest.idle)) {
					oldest = l
				}
			}
		}
		if oldest == nil {
			return false
		}
		p.remove(oldest)
		oldest.sess.Goodbye(wire.CodeDone, "idle")
	}
	p.count++
	return true
}

// remove takes a link off the list, so that nobody holds it any more; p.mu is held. It may be called twice.
func (p *peers) remove(l *link) {
	links := p.links[l.peer]
	for i := range links {
		if links[i] == l {
			p.links[l.peer] = slices.Delete(links, i, i+1)
			p.count--
			break
		}
	}
	if len(p.links[l.peer]) == 0 {
		delete(p.links, l.peer)
	}
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
	for _, links := range p.links {
		for _, l := range links {
			l.flow.measure(now, l.sess.Stats())
			if l.users == 0 && now.Sub(l.idle) >= IdleTime {
				defer p.remove(l)
				l.sess.Goodbye(wire.CodeDone, "idle")
			}
		}
	}
	for id, end := range p.shunned {
		if now.After(end) {
			delete(p.shunned, id)
		}
	}
}

// shun ends all sessions with a peer that lied, and refuses it for ShunTime.
func (p *peers) shun(id wire.PeerID, why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shunned[id] = time.Now().Add(ShunTime)
	for _, l := range p.links[id] {
		l.sess.Goodbye(wire.CodeCorrupt, why.Error())
	}
	p.swarm.log.Error("shun a host that sent wrong data", "host", id, "error", why, "for", ShunTime)
}

// isShunned says whether nothing is taken from a peer now; p.mu is held.
func (p *peers) isShunned(id wire.PeerID) bool {
	end, ok := p.shunned[id]
	return ok && time.Now().Before(end)
}

// link is a session with a peer, and the handler of its requests (see serve.go).
type link struct {
	swarm  *Swarm
	peer   wire.PeerID
	sess   *wire.Session
	dialed bool // by this host
	near   bool // it stands in this host's rack
	asker  *plan.Asker[*wish]

	mu       sync.Mutex
	hearings map[content.Digest]*hearing

	users int       // jobs here, and files that the peer follows; guarded by peers.mu
	idle  time.Time // since when there are none
	flow  flow      // guarded by peers.mu, too
}

func newLink(s *Swarm, id wire.PeerID, conn io.ReadWriteCloser, dialed bool) *link {
	l := &link{swarm: s, peer: id, dialed: dialed, idle: time.Now(), hearings: map[content.Digest]*hearing{}}
	l.near = s.placeOf(s.self).Distance(s.placeOf(id)) == plan.SameRack
	l.sess = wire.NewSession(conn, l, wire.Options{Logger: s.log.Named("wire").With("host", id.String())})
	return l
}

// run speaks until the session has ended, and tells the jobs.
func (l *link) run(ctx context.Context) error {
	s := l.swarm
	s.log.Debug("session begins", "host", l.peer, "dialed", l.dialed)
	s.metrics.sessions.Inc()
	s.uplink.join(l)
	err := l.sess.Run(ctx)
	s.uplink.leave(l)
	s.metrics.sessions.Dec()
	s.peers.mu.Lock()
	s.peers.remove(l)
	s.peers.mu.Unlock()
	s.everyJob(func(j *job) { j.post(gone{l}) })
	if errors.Is(err, context.Canceled) {
		err = nil // as was asked
	}
	s.log.Debug("session ended", "host", l.peer, "error", err)
	return err
}
