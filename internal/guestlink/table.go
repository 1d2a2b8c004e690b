package guestlink

import (
	"fmt"

	"github.com/hashicorp/yamux"
)

// The table of a session's streams follows what goes by in both directions. yamux bounds what is held of a stream, and
// how many wait to be accepted, but not how many there are.

// arrives notes a header of the other side's before yamux sees it, and refuses one that must not come.
func (s *Session) arrives(m muxHeader) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.flags&flagSYN != 0 {
		if err := s.admit(m.stream); err != nil {
			return err
		}
	}
	e := s.streams[m.stream]
	if e == nil { // it is over, for this side at least
		return nil
	}
	if m.flags&flagFIN != 0 && !e.in {
		e.in = true
		s.answer(e)
	}
	s.settle(m, e)
	return nil
}

// answer frees who writes to a stream that the other side has closed. The guest closes it at once, for whoever has it
// may be busy for long. The host does so when it has done with the stream: until then it counts. The caller holds mu.
func (s *Session) answer(e *entry) {
	x := e.stream
	if x == nil {
		return // bind will
	}
	x.hangUp()
	if s.cfg.Guest && !s.ended {
		s.helpers.Go(func() { _ = x.raw.Close() })
	}
}

// admit enters a stream that the other side opens. The caller holds mu.
func (s *Session) admit(id uint32) error {
	if odd := id%2 == 1; odd == s.cfg.Guest || id <= s.last {
		return fmt.Errorf("%w: it opens stream %d after %d", ErrProtocol, id, s.last)
	}
	if s.theirs >= MaxStreams {
		return fmt.Errorf("%w: it opens more than %d streams", ErrProtocol, MaxStreams)
	}
	if s.cfg.Admit != nil && !s.cfg.Admit() {
		return Fail(CodeBusy, "too many streams are open")
	}
	s.last = id
	s.theirs++
	s.streams[id] = &entry{theirs: true}
	return nil
}

// leaves notes a header of this side's before it is sent.
func (s *Session) leaves(m muxHeader) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.flags&flagSYN != 0 {
		s.streams[m.stream] = &entry{}
	}
	if e := s.streams[m.stream]; e != nil {
		e.out = e.out || m.flags&flagFIN != 0
		s.settle(m, e)
	}
}

// settle removes a stream that is over. The caller holds mu.
func (s *Session) settle(m muxHeader, e *entry) {
	if m.flags&flagRST != 0 || e.in && e.out {
		s.remove(m.stream, e)
	}
}

// remove takes a stream off the table. The caller holds mu.
func (s *Session) remove(id uint32, e *entry) {
	delete(s.streams, id)
	if e.stream != nil {
		e.stream.hangUp()
	}
	if !e.theirs {
		<-s.slots
		return
	}
	s.theirs--
	if s.cfg.Release != nil {
		s.cfg.Release()
	}
}

// bind makes a stream of yamux's one of the session's.
func (s *Session) bind(raw *yamux.Stream) *Stream {
	x := newStream(s, raw)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.streams[raw.StreamID()]
	if e == nil {
		x.hangUp()
		return x
	}
	e.stream = x
	if e.in {
		s.answer(e)
	}
	return x
}
