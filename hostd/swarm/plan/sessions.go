package plan

import (
	"slices"
	"time"
)

// Sessions decides which sessions a host has: who dials, who is let in, who has to give way, who is shunned. A session
// serves all files and both directions, whoever dialed it. When two hosts dial each other at the same time there are
// two; both sides then prefer the one that the lesser host dialed, and the other is closed when it has been idle.
type Sessions struct {
	self    Host
	most    int // links and dials
	links   map[Host][]*Link
	dialing map[Host]bool
	shunned map[Host]time.Time // until when
	count   int                // links and dials
	lobby   int                // sessions that are being turned away
}

// Link is one session as Sessions sees it.
type Link struct {
	Tag any // the driver's own

	peer   Host
	dialed bool      // by this host
	users  int       // Jobs here, and files that the peer follows
	idle   time.Time // since when there are none
}

// Peer names the host at the other end.
func (l *Link) Peer() Host { return l.peer }

// NewSessions makes a Sessions for at most that many at a time, those in the lobby left out.
func NewSessions(self Host, most int) *Sessions {
	return &Sessions{self: self, most: most, links: map[Host][]*Link{}, dialing: map[Host]bool{},
		shunned: map[Host]time.Time{}}
}

// Answer is what Sessions says to one who wants a session.
type Answer uint8

const (
	Use       Answer = iota + 1 // use Entry.Link, and Release it
	Wait                        // for the dial that is under way
	Dial                        // dial after Entry.After, and say Dialed or GaveUp
	Welcome                     // the peer is let in: say Accepted
	TurnAway                    // there is no room: name others, hang up after LobbyGrace or LobbyTime, say TurnedAway
	Busy                        // there is no room
	Forbidden                   // the peer is shunned
)

// Entry is an Answer with what belongs to it.
type Entry struct {
	Answer Answer
	Link   *Link
	After  time.Duration
	Closed *Link // ends to make room; nil if none
}

// Want asks for a session with a peer. A mutual peer is one that wants a session with this host as well.
func (s *Sessions) Want(now time.Time, peer Host, mutual bool) Entry {
	if s.isShunned(now, peer) {
		return Entry{Answer: Forbidden}
	}
	if l := s.preferred(peer); l != nil {
		l.users++
		return Entry{Answer: Use, Link: l}
	}
	if s.dialing[peer] {
		return Entry{Answer: Wait}
	}
	closed, ok := s.reserve()
	if !ok {
		return Entry{Answer: Busy}
	}
	s.dialing[peer] = true
	e := Entry{Answer: Dial, Closed: closed}
	if mutual && peer.Less(s.self) {
		e.After = CourtesyTime
	}
	return e
}

// Accept asks whether a peer that has dialed this host is let in.
func (s *Sessions) Accept(now time.Time, peer Host) Entry {
	if s.isShunned(now, peer) {
		return Entry{Answer: Forbidden}
	}
	closed, ok := s.reserve()
	if !ok {
		if s.lobby == MaxLobby {
			return Entry{Answer: Busy}
		}
		s.lobby++
		return Entry{Answer: TurnAway}
	}
	if links := s.links[peer]; closed == nil && len(links) >= MaxPeerSessions {
		// It was started anew, or wastes ours: either way it is the old one that it can do without.
		closed = links[0]
		s.Remove(closed)
	}
	return Entry{Answer: Welcome, Closed: closed}
}

// Accepted takes the session of a peer that was let in. It says whether the dial of this host to it, if one is under
// way, is to be given up, because both sides prefer this session.
func (s *Sessions) Accepted(now time.Time, peer Host) (l *Link, enough bool) {
	return s.add(now, peer, false), peer.Less(s.self)
}

// Dialed takes the session that a dial led to.
func (s *Sessions) Dialed(now time.Time, peer Host) *Link {
	delete(s.dialing, peer)
	return s.add(now, peer, true)
}

func (s *Sessions) add(now time.Time, peer Host, dialed bool) *Link {
	l := &Link{peer: peer, dialed: dialed, idle: now}
	s.links[peer] = append(s.links[peer], l)
	return l
}

// GaveUp notes that a dial has failed or is not needed any more.
func (s *Sessions) GaveUp(peer Host) {
	delete(s.dialing, peer)
	s.count--
}

// TurnedAway notes that a session in the lobby is over.
func (s *Sessions) TurnedAway() { s.lobby-- }

// Retain counts a user of a session.
func (s *Sessions) Retain(l *Link) { l.users++ }

// Spare says whether nobody uses a session.
func (s *Sessions) Spare(l *Link) bool { return l.users == 0 }

// Release takes back what Want or Retain counted. A session without users is idle.
func (s *Sessions) Release(now time.Time, l *Link) {
	if l.users--; l.users == 0 {
		l.idle = now
	}
}

// Connected says whether there is a session with a peer.
func (s *Sessions) Connected(peer Host) bool { return len(s.links[peer]) > 0 }

// preferred returns the session with a peer that both sides would choose.
func (s *Sessions) preferred(peer Host) (best *Link) {
	for _, l := range s.links[peer] {
		if best == nil || l.dialed == s.self.Less(peer) {
			best = l
		}
	}
	return best
}

// reserve makes room for one more session, ending the one that has been idle longest if need be.
func (s *Sessions) reserve() (closed *Link, ok bool) {
	if s.count >= s.most {
		for _, links := range s.links {
			for _, l := range links {
				if l.users == 0 && (closed == nil || l.idleBefore(closed)) {
					closed = l
				}
			}
		}
		if closed == nil {
			return nil, false
		}
		s.Remove(closed)
	}
	s.count++
	return closed, true
}

// idleBefore orders sessions by how long they have been idle.
func (l *Link) idleBefore(o *Link) bool {
	return l.idle.Before(o.idle) || l.idle.Equal(o.idle) && l.peer.Less(o.peer)
}

// Remove forgets a session, so that nobody is given it any more. It may be called twice.
func (s *Sessions) Remove(l *Link) {
	links := s.links[l.peer]
	i := slices.Index(links, l)
	if i < 0 {
		return
	}
	s.count--
	if links = slices.Delete(links, i, i+1); len(links) == 0 {
		delete(s.links, l.peer)
		return
	}
	s.links[l.peer] = links
}

// Sweep forgets and returns the sessions that have been idle for IdleTime: the driver ends them.
func (s *Sessions) Sweep(now time.Time) (idle []*Link) {
	for _, links := range s.links {
		for _, l := range links {
			if l.users == 0 && now.Sub(l.idle) >= IdleTime {
				idle = append(idle, l)
			}
		}
	}
	for _, l := range idle {
		s.Remove(l)
	}
	for h, end := range s.shunned {
		if !now.Before(end) {
			delete(s.shunned, h)
		}
	}
	return idle
}

// Shun refuses a peer that lied for ShunTime, and returns the sessions with it, which the driver ends.
func (s *Sessions) Shun(now time.Time, peer Host) []*Link {
	s.shunned[peer] = now.Add(ShunTime)
	return slices.Clone(s.links[peer])
}

// isShunned says whether nothing is taken from a peer now.
func (s *Sessions) isShunned(now time.Time, peer Host) bool {
	end, ok := s.shunned[peer]
	return ok && now.Before(end)
}

// Links calls f with each session.
func (s *Sessions) Links(f func(l *Link)) {
	for _, links := range s.links {
		for _, l := range links {
			f(l)
		}
	}
}
