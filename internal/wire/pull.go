package wire

import (
	"errors"

	"github.com/virtswarm/virtswarm/internal/content"
)

// A Pull is what the other side wants: one chunk of a file that it follows here. Of a request it is the chunk First; of
// a draw it is any one of the Count chunks from First on, of the handler's choice, as late as it likes to choose.
//
// A Pull waits at the Handler until that answers it, by Send or Reject, or hears that it was withdrawn. Whichever comes
// first counts; the other does nothing. All fields are to be read only.
type Pull struct {
	Session  *Session
	File     content.Digest
	Drawn    bool
	First    int
	Count    int // 1 of a request
	Length   int // in bytes, that the chunk must have; 0 of a draw
	Priority Priority

	id     uint32
	handle uint32
}

// errWithdrawn: a Pull is answered that need not be any more.
var errWithdrawn = errors.New("withdrawn by the other side")

// Send answers with the chunk at index, n bytes long. read is called once, with a buffer of that length, and returns
// the chunk, in that buffer or in one of its own; an error of it is told to the other side as that of a Handler. The
// bytes go out as they are: to verify them is read's part.
//
// Send returns nil when all of the chunk has been given to the stream, and an error when that will not happen: the
// other side has cancelled, the session has ended, or read failed (then it is read's own). It blocks meanwhile; calls
// of several goroutines take turns, chunk by chunk, in the order in which their chunks are ready. Memory for n bytes is
// held until it returns: how many do so at a time is for the handler to bound.
func (p *Pull) Send(index, n int, read func(buf []byte) ([]byte, error)) error {
	s := p.Session
	if err := s.begun(p); err != nil {
		return err
	}
	if !p.Drawn && n != p.Length {
		rej := RejectError{Code: CodeBadChunk}
		s.out.reject(p.id, rej)
		return &rej
	}
	a := answer{id: p.id, n: n, buf: getBuffer(n), sent: make(chan error, 1), granted: p.Drawn, index: index}
	dst := a.buf.payload(n)
	got, err := read(dst)
	if err == nil && len(got) != n {
		err = &RejectError{Code: CodeBadChunk}
	}
	if err != nil {
		putBuffer(a.buf)
		s.reject(p.id, "read", p.File, err)
		return err
	}
	if &got[0] != &dst[0] {
		copy(dst, got)
	}
	select {
	case s.out.answers <- a:
		err = <-a.sent // the writer always says how it ended
	case <-s.ctx.Done():
		err = s.ended()
	}
	putBuffer(a.buf)
	return err
}

// Reject answers that there will be no chunk, and why, as the error of any Handler does. ErrSpent tells a draw that all
// has been given.
func (p *Pull) Reject(err error) {
	if p.Session.begun(p) == nil {
		p.Session.reject(p.id, "give", p.File, err)
	}
}

// begun notes that the handler answers p. It fails if the other side wants no answer, or has it already.
func (s *Session) begun(p *Pull) error {
	if s.ctx.Err() != nil {
		return s.ended()
	}
	v := &s.serves
	v.mu.Lock()
	defer v.mu.Unlock()
	r := &v.requests[p.id]
	if r.pull != p || r.begun {
		return errWithdrawn
	}
	r.begun = true
	return nil
}

func (s *Session) handleRequest(h header, m request) error {
	return s.pull(h, &Pull{
		First: int(m.index), Count: 1, Length: int(m.length), Priority: priorityOf(m.prio), handle: m.handle,
	})
}

func (s *Session) handleDraw(h header, m draw) error {
	return s.pull(h, &Pull{
		Drawn: true, First: int(m.first), Count: int(m.count), Priority: priorityOf(m.prio), handle: m.handle,
	})
}

// pull checks a request or draw against the file that it is for, and hands it to the handler.
func (s *Session) pull(h header, p *Pull) error {
	v := &s.serves
	v.mu.Lock()
	f := v.handles[p.handle]
	var err error
	switch {
	case f == nil || !f.opened:
		err = h.violation("file %d is not open", p.handle)
	case int64(p.First)+int64(p.Count) > int64(f.chunks):
		err = h.violation("chunk %d of a file of %d", int64(p.First)+int64(p.Count)-1, f.chunks)
	default:
		p.Session, p.File, p.id = s, f.file, h.id
		err = v.admit(h, served{pull: p})
	}
	v.mu.Unlock()
	if err != nil {
		return err
	}
	s.handler.Pull(p)
	return nil
}

// withdraw answers those pulls that still wait at the handler and are meant, and tells it.
func (s *Session) withdraw(code Code, meant func(p *Pull) bool) {
	var gone []*Pull
	v := &s.serves
	v.mu.Lock()
	for i := range v.requests {
		if r := &v.requests[i]; r.pull != nil && !r.begun && meant(r.pull) {
			r.begun = true
			gone = append(gone, r.pull)
		}
	}
	v.mu.Unlock()
	for _, p := range gone {
		s.out.reject(p.id, RejectError{Code: code})
		s.handler.Withdrawn(p)
	}
}

// handleCancel withdraws a pull that waits, and cuts short what is being answered.
func (s *Session) handleCancel(h header) error {
	v := &s.serves
	v.mu.Lock()
	if int64(h.id) >= int64(len(v.requests)) {
		v.mu.Unlock()
		return h.violation("only %d requests are allowed", len(v.requests))
	}
	r := &v.requests[h.id]
	var waits *Pull
	switch {
	case !r.busy: // the answer has crossed it
	case r.pull != nil && !r.begun:
		waits, r.begun = r.pull, true
	default:
		r.cancelled = true
		if r.cancel != nil {
			r.cancel()
		}
	}
	v.mu.Unlock()
	if waits != nil {
		s.out.reject(h.id, RejectError{Code: CodeCancelled})
		s.handler.Withdrawn(waits)
	}
	return nil
}
