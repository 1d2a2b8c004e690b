package wire

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"github.com/virtswarm/virtswarm/internal/content"
)

// find returns the request that an answer is for.
func (q *asks) find(h header) (*ask, error) {
	if int64(h.id) >= int64(len(q.all)) || q.all[h.id].state == askFree || q.all[h.id].over {
		return nil, h.violation("no request of this number waits for an answer")
	}
	return &q.all[h.id], nil
}

// handleData takes a part of an answer.
func (s *Session) handleData(h header) error {
	q := &s.asks
	last := h.flags == flagLast
	q.mu.Lock()
	a, err := q.find(h)
	if err == nil {
		err = a.fits(h, last)
	}
	if err != nil {
		q.mu.Unlock()
		return err
	}
	orphaned := a.state == askOrphaned
	if !orphaned {
		a.state = askFilling
	}
	q.mu.Unlock()

	switch {
	case orphaned:
		err = s.in.skip(h.length)
	case a.chunk():
		err = s.fill(a, h)
	default:
		a.body = slices.Grow(a.body, h.length) // grows by what comes, not by what is promised
		a.body = a.body[:a.got+h.length]
		_, err = io.ReadFull(s.in.buf, a.body[a.got:])
	}
	if err == nil && last && a.kind == frameOpen && !orphaned {
		a.snap, err = a.parse(h)
	}

	q.mu.Lock()
	defer q.mu.Unlock()
	a.got += h.length
	if err != nil {
		if a.state == askFilling {
			s.dismiss(a)
		}
		return err
	}
	return s.filled(a, last)
}

// fits checks a part against what the answer may be.
func (a *ask) fits(h header, last bool) error {
	total := a.got + h.length
	unwanted := a.kind == frameDraw && a.state == askOrphaned // this side knows no more how long the chunk is
	switch {
	case a.kind == frameDraw && a.index < 0:
		return h.violation("no Grant came before")
	case total > a.limit:
		return h.violation("%d bytes of an answer of at most %d", total, a.limit)
	case a.chunk() && last && total != a.limit && !unwanted:
		return h.violation("the chunk ends after %d of %d bytes", total, a.limit)
	case !last && h.length == 0:
		return h.violation("an empty part that is not the last")
	}
	return nil
}

// chunk says whether the answer is one.
func (a *ask) chunk() bool { return a.kind == frameRequest || a.kind == frameDraw }

// handleGrant takes the choice of the other side and asks the drawer for a buffer.
func (s *Session) handleGrant(h header, p []byte) error {
	q := &s.asks
	index := int64(binary.LittleEndian.Uint32(p))
	q.mu.Lock()
	defer q.mu.Unlock()
	a, err := q.find(h)
	switch {
	case err != nil:
		return err
	case a.kind != frameDraw || a.index >= 0:
		return h.violation("no draw of this number waits for it")
	case index < int64(a.lo) || index >= int64(a.hi):
		return h.violation("chunk %d was not to be drawn, but one of %d to %d", index, a.lo, a.hi-1)
	}
	a.index = int(index)
	if a.state != askWaiting {
		return nil // nobody wants it any more
	}
	a.state = askFilling // the caller cannot leave while its function runs
	q.mu.Unlock()
	buf, ok := a.granted(a.index)
	q.mu.Lock()
	switch {
	case a.wanted.Load():
		s.dismiss(a)
	case !ok || len(buf) == 0 || len(buf) > content.MaxChunkSize:
		s.dismissFor(a, ErrDeclined)
	default:
		a.state, a.buf, a.limit = askWaiting, buf, len(buf)
	}
	return nil
}

func (a *ask) parse(h header) (snapshot, error) {
	snap, err := parseSnapshot(a.body, a.open.chunks)
	if err != nil {
		return snap, h.violation("%v", err)
	}
	return snap, nil
}

// fill reads a part of a chunk straight into the buffer of the caller, who may want it back at any moment.
func (s *Session) fill(a *ask, h header) error {
	s.in.interruptible = true
	defer func() { s.in.interruptible = false }()
	defer s.in.expect(0)
	for dst := a.buf[a.got : a.got+h.length]; len(dst) > 0; {
		s.in.expect(len(dst))
		n, err := s.in.buf.Read(dst)
		dst = dst[n:]
		if err != nil && err != errKicked {
			return fmt.Errorf("read %v: %w", h, err)
		}
		if a.wanted.Load() {
			s.asks.mu.Lock()
			s.dismiss(a)
			s.asks.mu.Unlock()
			s.in.interruptible = false
			s.in.expect(0) // less and less of the part is to come, and then frames that may be short
			return s.in.skip(len(dst))
		}
	}
	return nil
}

// filled is called under asks.mu when a part has been read.
func (s *Session) filled(a *ask, last bool) error {
	switch {
	case a.state == askOrphaned && last:
		if a.open != nil {
			s.closeFile(a.open)
		}
		s.asks.complete(a, nil)
	case a.state == askOrphaned: // more to skip
	case last:
		if a.open != nil {
			a.open.ready = true
		}
		if a.chunk() {
			s.chunksIn.Add(1)
		}
		s.asks.complete(a, nil)
	case a.wanted.Load():
		s.dismiss(a)
	default:
		a.state = askWaiting
	}
	return nil
}

// complete takes note that the answer has come in full and tells the caller, if it is still there. Called under mu.
func (q *asks) complete(a *ask, err error) {
	if a.state != askOrphaned {
		a.state = askAnswered
		a.done <- err
	}
	a.over = true
	q.vacate(a)
}

// handleReject takes the end of an answer.
func (s *Session) handleReject(h header, rej *RejectError) error {
	q := &s.asks
	q.mu.Lock()
	defer q.mu.Unlock()
	a, err := q.find(h)
	if err != nil {
		return err
	}
	if a.open != nil {
		q.forget(a.open)
	}
	q.complete(a, rej)
	return nil
}

// handleHave tells the handler of chunks that the other side now holds. News of a file that is closed may still be on
// its way; it is not even looked at, because its length is forgotten.
func (s *Session) handleHave(h header, p []byte) error {
	f, err := s.asks.follow(h)
	if err != nil || f == nil {
		return err
	}
	chunks, err := parseHave(p, f.chunks, nil)
	if err != nil {
		return h.violation("%v", err)
	}
	if s.handler != nil {
		s.handler.Have(s, f.file, chunks)
	}
	return nil
}

func (s *Session) handlePeers(h header, p []byte) error {
	f, err := s.asks.follow(h)
	if err != nil || f == nil {
		return err
	}
	if len(p)%peerSize != 0 {
		return h.violation("not a whole number of ids")
	}
	if s.handler != nil {
		s.handler.Peers(s, f.file, parsePeers(p))
	}
	return nil
}

// follow returns the open file that a frame is about, nil if it has been closed.
func (q *asks) follow(h header) (*openFile, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if int64(h.id) >= int64(len(q.handles)) {
		return nil, h.violation("no file was ever opened by this handle")
	}
	f := q.handles[h.id]
	if f == nil || !f.ready {
		return nil, nil
	}
	return f, nil
}
