package plan

import (
	"cmp"
	"slices"
	"time"

	"github.com/virtswarm/virtswarm/internal/content"
)

// Server is a holder's part in the conversation about all files: who hears of what, who is introduced to whom, and who
// is sent which chunk, and when. Its methods are events; each notes what happened at now. Act then returns the actions
// that the driver carries out, in their order. The driver calls Act again when Due says so.
type Server struct {
	Out Throttle // of what is sent

	self     Host
	copies   func(content.Digest) (Copy, bool)
	files    map[content.Digest]*served
	fetching map[content.Digest]int  // files that this host fetches
	crowded  map[content.Digest]bool // those of them whose Job has all its sources
	uplink   *Uplink[*Pull]
	vain     []*Pull // draws whose turn has come while nothing was fresh
	held     int     // draws that are held back
	sending  int     // bytes on their way
	waiting  int     // pulls that wait
	due      time.Time
	out      []ServerAction
}

// Copy is what a host has of a file. Have leaves out holes, which nobody lacks; the Server owns it.
type Copy struct {
	Size  int64 // bytes
	Chunk int   // bytes
	Have  content.Bits
}

// Session is a session with a peer, as far as that is served.
type Session struct {
	Tag any // the driver's own

	peer    Host
	near    bool // it stands in this host's rack
	asker   *Asker[*Pull]
	granted int // draws that were granted and are on their way
}

// served is a file that peers follow here.
type served struct {
	id        content.Digest
	followers []*follower // in the order in which they came
	fetchers  []*Session  // those of them that fetch
	hearers   []*Session  // and those that only want to hear
	giver     *Giver      // from the first draw on, until nobody draws any more
	size      int64
	chunk     int
	near      time.Time // when somebody in this rack drew
	held      []*Pull   // draws of others, which wait until nobody does
}

// follower is a session on which a peer has opened a file here.
type follower struct {
	session  *Session
	fetching bool
	draws    *Follower // of a peer that draws: what the giver knows of it
}

// ServerVerb says what a ServerAction is.
type ServerVerb uint8

// The actions of a Server.
const (
	// Introduce: tell the peer of Session that Hosts fetch File.
	Introduce ServerVerb = iota + 1
	// Announce: tell the peers of Sessions that Chunks of File are here; Soon says that they wait for them.
	Announce
	// Deliver: send the chunk of Pull to its peer; Sent answers.
	Deliver
	// Decline: answer Pull, a draw, that all has been given.
	Decline
	// Follow: open File at the peer of Session, to hear what it has, which draws here; Heard tells.
	Follow
	// Unfollow: close it again.
	Unfollow
)

// ServerAction is one thing that the driver of a Server should do. Which fields count depends on Do.
type ServerAction struct {
	Do       ServerVerb
	Soon     bool
	Session  *Session
	Sessions []*Session
	Pull     *Pull
	File     content.Digest
	Hosts    []Host
	Chunks   []int
}

// NewServer makes a Server. copies tells what this host has of a file; lend is after what time a slot is lent to
// another, LendTime for chunks of a usual length.
func NewServer(self Host, lend time.Duration, copies func(content.Digest) (Copy, bool)) *Server {
	return &Server{self: self, copies: copies, files: map[content.Digest]*served{}, fetching: map[content.Digest]int{},
		crowded: map[content.Digest]bool{}, uplink: NewUplink[*Pull](Slots, lend)}
}

// Join takes a session with a peer, until Leave. near says that the peer stands in this host's rack.
func (s *Server) Join(peer Host, near bool) *Session {
	return &Session{peer: peer, near: near, asker: s.uplink.Join(near)}
}

// Leave forgets a session. The driver has closed its files and withdrawn its pulls before.
func (s *Server) Leave(sess *Session) {
	s.uplink.Leave(sess.asker)
	s.vain = slices.DeleteFunc(s.vain, func(p *Pull) bool { return p.session == sess })
}

// Open makes a peer a follower of a file; fetching says whether it fetches it, or only wants to hear. It returns whom a
// fetcher is told of. A peer that is not welcome is told that nothing is here; the driver hangs up after LobbyGrace.
// That may only be if the session serves nothing else, as spare says.
func (s *Server) Open(sess *Session, id content.Digest, fetching, spare bool) (known []Host, welcome bool) {
	f := s.file(id)
	if fetching && spare && s.fetching[id] > 0 && (len(f.fetchers) >= MaxFollowers || s.crowded[id]) {
		return s.Introduce(id, sess.peer), false
	}
	f.followers = append(f.followers, &follower{session: sess, fetching: fetching})
	f.list()
	if !fetching {
		return nil, true
	}
	return s.Introduce(id, sess.peer), true
}

// Fetch notes that this host begins to fetch a file, or ends.
func (s *Server) Fetch(id content.Digest, begins bool) {
	if begins {
		s.fetching[id]++
	} else if s.fetching[id]--; s.fetching[id] == 0 {
		delete(s.fetching, id)
		delete(s.crowded, id)
	}
}

// Crowd notes whether the Job of a file has as many sources as it may: sources should be mutual.
func (s *Server) Crowd(id content.Digest, full bool) { s.crowded[id] = full }

func (s *Server) file(id content.Digest) *served {
	f := s.files[id]
	if f == nil {
		f = &served{id: id}
		s.files[id] = f
	}
	return f
}

// Introduce makes a host that fetches a file known to the followers who do, and returns some of them: as many as it can
// be told of, by chance. If they were those who came first or last, fetchers that came together would know only one
// another, and make a swarm of their own.
func (s *Server) Introduce(id content.Digest, h Host) (known []Host) {
	f := s.files[id]
	if f == nil {
		return nil
	}
	for _, o := range f.followers {
		if !o.fetching || o.session.peer == h {
			continue
		}
		known = append(known, o.session.peer)
		s.act(ServerAction{Do: Introduce, Session: o.session, File: id, Hosts: []Host{h}})
	}
	if len(known) > MaxIntroductions {
		lot := func(o Host) uint64 { return Mix(h.Key() ^ o.Key()) }
		slices.SortFunc(known, func(a, b Host) int { return cmp.Compare(lot(a), lot(b)) })
		known = known[:MaxIntroductions]
	}
	return known
}

// Close notes that a peer follows a file no longer. What it was granted and nobody has may be granted again.
func (s *Server) Close(sess *Session, id content.Digest) {
	f := s.files[id]
	if f == nil {
		return
	}
	i := slices.IndexFunc(f.followers, func(o *follower) bool { return o.session == sess })
	if i < 0 {
		return
	}
	o := f.followers[i]
	f.followers = slices.Delete(f.followers, i, i+1)
	f.list()
	if o.draws != nil {
		f.giver.Leave(o.draws)
		s.act(ServerAction{Do: Unfollow, Session: sess, File: id})
		if !slices.ContainsFunc(f.followers, func(o *follower) bool { return o.draws != nil }) {
			f.giver = nil
		}
	}
	if len(f.followers) == 0 {
		delete(s.files, id)
	}
}

// Fetched says whether a follower fetches a file.
func (s *Server) Fetched(id content.Digest) bool {
	f := s.files[id]
	return f != nil && len(f.fetchers) > 0
}

// Hold notes that chunks of a file came here, and tells its followers: soon those who fetch it, if soon says so.
func (s *Server) Hold(id content.Digest, chunks []int, soon bool) {
	f := s.files[id]
	if f == nil {
		return
	}
	s.announce(ServerAction{Do: Announce, Sessions: f.fetchers, File: id, Chunks: chunks, Soon: soon})
	s.announce(ServerAction{Do: Announce, Sessions: f.hearers, File: id, Chunks: chunks})
	if f.giver != nil {
		for _, c := range chunks {
			f.giver.Hold(c)
		}
	}
}

func (s *Server) announce(a ServerAction) {
	if len(a.Sessions) > 0 {
		s.act(a)
	}
}

// list makes the lists of sessions anew: those before may be in an action.
func (f *served) list() {
	f.fetchers, f.hearers = nil, nil
	for _, o := range f.followers {
		if o.fetching {
			f.fetchers = append(f.fetchers, o.session)
		} else {
			f.hearers = append(f.hearers, o.session)
		}
	}
}

// Heard notes that a peer has chunks of a file.
func (s *Server) Heard(sess *Session, id content.Digest, chunks []int) {
	f := s.files[id]
	if f == nil || f.giver == nil {
		return
	}
	if o := f.follower(sess); o != nil && o.draws != nil {
		for _, c := range chunks {
			f.giver.Has(o.draws, c)
		}
	}
}

func (f *served) follower(sess *Session) *follower {
	for _, o := range f.followers {
		if o.session == sess {
			return o
		}
	}
	return nil
}

func (s *Server) act(a ServerAction) { s.out = append(s.out, a) }

// take returns the actions, which begin anew.
func (s *Server) take() []ServerAction {
	out := s.out
	s.out = out[len(out):]
	return out
}
