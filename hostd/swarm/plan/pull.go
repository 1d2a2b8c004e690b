package plan

import (
	"slices"
	"time"

	"github.com/virtswarm/virtswarm/internal/content"
)

// Pull is a chunk that a peer wants of this host: a request by its index, or a draw.
type Pull struct {
	Tag any // the driver's own

	File         content.Digest
	Draw         bool
	First, Count int // of a draw: any chunk in [First, First+Count)
	Chunk        int // of a draw, once it is granted
	Len          int // of the chunk, in bytes; likewise
	Priority     Priority

	session *Session
	ticket  *Ticket[*Pull]
	file    *served // of a draw
	draws   *Follower
}

// Push lets a pull wait for its turn; false if it is a draw of a file that is not known here or that the peer has not
// opened.
func (s *Server) Push(now time.Time, sess *Session, p *Pull) bool {
	p.session = sess
	if p.Draw && !s.drawFrom(sess, p) {
		return false
	}
	s.waiting++
	if !p.Draw || !s.hold(p, now) {
		s.queue(p)
	}
	return true
}

// drawFrom makes the peer one that draws. It is followed from then on; if it does not tell, it is taken to have what it
// was granted.
func (s *Server) drawFrom(sess *Session, p *Pull) bool {
	f := s.files[p.File]
	if f == nil {
		return false
	}
	o := f.follower(sess)
	if o == nil || f.giver == nil && !s.give(f) {
		return false
	}
	if o.draws == nil {
		o.draws = f.giver.Follow()
		s.act(ServerAction{Do: Follow, Session: sess, File: f.id})
	}
	p.file, p.draws = f, o.draws
	return true
}

// give begins to grant draws of a file.
func (s *Server) give(f *served) bool {
	c, ok := s.copies(f.id)
	if !ok {
		return false
	}
	f.size, f.chunk = c.Size, c.Chunk
	f.giver = NewGiver(s.self.Key(), c.Have.Len())
	for i, ok := c.Have.NextSet(0); ok; i, ok = c.Have.NextSet(i + 1) {
		f.giver.Hold(i)
	}
	return true
}

func (s *Server) queue(p *Pull) {
	p.ticket = s.uplink.Push(p.session.asker, p.Priority, p.Draw, p)
}

// hold delays a draw from another rack while hosts of our own rack are drawing: the other rack can later fetch each
// chunk once from any of them; what the other rack gets first, our own must fetch back. It says whether it does.
func (s *Server) hold(p *Pull, now time.Time) bool {
	f := p.file
	if p.session.near {
		f.near = now
		return false
	}
	if now.Sub(f.near) >= HoldTime {
		return false
	}
	f.held = append(f.held, p)
	s.held++
	return true
}

// release lets draws go on that need not be held back any more.
func (s *Server) release(now time.Time) {
	if s.held == 0 {
		return
	}
	for _, f := range s.files {
		if len(f.held) == 0 {
			continue
		}
		if till := f.near.Add(HoldTime); now.Before(till) {
			s.wake(till)
			continue
		}
		for _, p := range f.held {
			s.queue(p)
		}
		s.held -= len(f.held)
		f.held = nil
	}
}

// Withdraw forgets a pull that its peer does not want any more. It says whether the pull still waited; else it is being
// sent, or was.
func (s *Server) Withdraw(p *Pull) bool {
	if p.ticket == nil {
		n := len(p.file.held)
		p.file.held = slices.DeleteFunc(p.file.held, func(o *Pull) bool { return o == p })
		s.held -= n - len(p.file.held)
		s.waiting--
		return true
	}
	if !s.uplink.Cancel(p.ticket) {
		return false
	}
	s.vain = slices.DeleteFunc(s.vain, func(o *Pull) bool { return o == p })
	s.waiting--
	return true
}

// Session returns the session of a pull.
func (p *Pull) Session() *Session { return p.session }

// Sent notes that a Deliver is over, so that its slot is free. arrived says that the peer has got the chunk; if not,
// lost says that it is not here.
func (s *Server) Sent(p *Pull, arrived, lost bool) {
	s.uplink.Done(p.ticket)
	s.sending -= p.Len
	if !p.Draw {
		return
	}
	p.session.granted--
	if g := p.file.giver; g != nil && !arrived {
		if lost {
			g.Drop(p.Chunk)
		}
		g.Revoke(p.draws, p.Chunk)
	}
}

// Act decides what is sent now, and returns it with what events have led to. The slice is valid until the next call.
func (s *Server) Act(now time.Time) []ServerAction {
	s.due = time.Time{}
	if s.waiting > 0 {
		s.pump(now)
	}
	return s.take()
}

func (s *Server) pump(now time.Time) {
	s.release(now)
	for s.sending < MaxServing {
		if wait := s.Out.Wait(now); wait > 0 {
			s.wake(now.Add(wait))
			break
		}
		t := s.uplink.Next(now, s)
		if t == nil {
			break
		}
		p := t.What
		s.waiting--
		s.Out.spend(now, p.Len)
		s.sending += p.Len
		if p.Draw {
			p.session.granted++
		}
		s.act(ServerAction{Do: Deliver, Session: p.session, Pull: p})
	}
	s.decline()
	if at, ok := s.uplink.Due(now); ok && s.waiting > 0 {
		s.wake(at)
	}
}

// decline answers the draws whose turn came in vain. They do not wait here: they would take the place of what their
// peer may ask for by name. It draws again when this host has announced more. But they wait for what their peer was
// granted and has not heard of yet: it would ask for that by name, and get it twice.
func (s *Server) decline() {
	if len(s.vain) == 0 {
		return
	}
	s.vain = slices.DeleteFunc(s.vain, func(p *Pull) bool {
		if p.session.granted > 0 {
			return false
		}
		s.uplink.Cancel(p.ticket)
		s.waiting--
		s.act(ServerAction{Do: Decline, Session: p.session, Pull: p})
		return true
	})
}

// wake makes Due not later than at.
func (s *Server) wake(at time.Time) {
	if s.due.IsZero() || at.Before(s.due) {
		s.due = at
	}
}

// Due returns when Act is to be called again if nothing happens; the zero time is never.
func (s *Server) Due() time.Time { return s.due }

// Load implements Granter.
func (s *Server) Load(p *Pull) int { return p.draws.load }

// Grant implements Granter.
func (s *Server) Grant(p *Pull) bool {
	f := p.file
	c, ok := f.giver.Grant(p.draws, p.First, p.First+p.Count)
	if !ok {
		s.vain = append(s.vain, p)
		return false
	}
	p.Chunk, p.Len = c, int(min(int64(f.chunk), f.size-int64(c)*int64(f.chunk)))
	return true
}
