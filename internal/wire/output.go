package wire

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// NewsInterval is how long news of chunks wait for company when there is nothing else to send. A frame for each
	// chunk would cost a follower, and the one it follows, more than they gain by hearing it at once.
	NewsInterval = 2 * time.Millisecond
	// LazyInterval is how long news that may wait do so at most, and LazyMost how many chunks: to tell everybody of every
	// chunk at once costs a swarm of 8 at 100 Mbit/s more system calls than the chunks themselves.
	LazyInterval = 100 * time.Millisecond
	LazyMost     = 8
	// newsAtOnce bounds the news between two parts of a chunk, in bytes.
	newsAtOnce = 64 << 10
	// keepControl is the most memory of the control buffers that a session keeps when they are empty, in bytes.
	keepControl = 64 << 10
)

// output collects what is to be sent. Control frames wait in a buffer and go first; answers wait with the workers that
// made them, so that no more chunks are ahead than there are workers. Control is bounded by what the other side has
// been allowed: every request of it is answered once, and its place is only free again when the answer is on its way;
// this side asks no more than the other allows; Ping and Pong exist once, with the highest number; news are one set for
// each file.
type output struct {
	wake    chan struct{} // something is here that is no answer
	answers chan answer

	mu       sync.Mutex
	control  []byte
	freed    []uint32 // requests of the other side that control answers
	ping     uint32   // number of the Ping to send; 0 is none
	pong     uint32
	hasPong  bool
	news     []*follow // followers with something to hear
	lazy     []*follow // those for whom it may wait, until lazyTill
	lazyTill time.Time
	bye      []byte // the Goodbye frame
	over     bool   // nothing is to be sent any more but bye
	lastNews time.Time

	writes atomic.Uint64 // begun plus finished: odd while one is under way

	// Of the writer alone.
	spare      []byte // the control buffer that is not in use
	spareFreed []uint32
	part       []byte // for answers that are not in a buffer of their own
	timer      *time.Timer
}

// An answer fulfils a request of the other side: n bytes in buf (a chunk) or body.
type answer struct {
	id      uint32
	n       int
	buf     *buffer
	sent    chan error // with buf: hears when the writer is done with it; holds one
	granted bool       // to a draw: a Grant of the chunk at index goes ahead
	index   int
	body    []byte
	follow  *follow // hears news once the answer, its snapshot, is sent
}

func (o *output) init() {
	o.wake = make(chan struct{}, 1)
	o.answers = make(chan answer)
}

// do changes the state under the lock and wakes the writer.
func (o *output) do(change func()) {
	o.mu.Lock()
	change()
	o.mu.Unlock()
	o.signal()
}

func (o *output) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// send appends a control frame.
func (o *output) send(frame []byte) { o.do(func() { o.control = append(o.control, frame...) }) }

// reject answers a request of the other side.
func (o *output) reject(id uint32, r RejectError) {
	o.do(func() {
		o.control = appendReason(o.control, frameReject, id, r.Code, r.Message)
		o.freed = append(o.freed, id)
	})
}

func (o *output) sendPing(seq uint32) { o.do(func() { o.ping = max(o.ping, seq) }) }

func (o *output) sendPong(seq uint32) { o.do(func() { o.pong, o.hasPong = seq, true }) }

// goodbye makes the frame the last one.
func (o *output) goodbye(code Code, message string) {
	o.do(func() { o.bye, o.over = appendReason(nil, frameGoodbye, 0, code, message), true })
}

// stop makes the writer stop without a word.
func (o *output) stop() { o.do(func() { o.over = true }) }

// write sends what there is to send until the session ends.
func (s *Session) write() {
	if err := s.writeAll(); err != nil {
		s.writeFailed(err)
	}
}

func (s *Session) writeAll() error {
	o := &s.out
	o.timer = time.NewTimer(time.Hour)
	defer o.timer.Stop()
	if err := s.put(s.hello().append(nil), false); err != nil {
		return err
	}
	for {
		over, err := s.writeControl(false)
		if over || err != nil {
			return err
		}
		select {
		case a := <-o.answers:
			over, err = s.writeAnswer(a)
		case <-o.wake:
		case <-o.timer.C:
		}
		if over || err != nil {
			return err
		}
	}
}

func (s *Session) hello() hello {
	h := hello{version: Version, features: featureFifth}
	if s.handler != nil {
		h.requests, h.files = uint32(s.o.MaxRequests), uint32(s.o.MaxFiles)
	}
	return h
}

// moreWriter is a stream that can keep what it is given until the next Write.
type moreWriter interface{ WriteMore(p []byte) (int, error) }

// put writes one or more whole frames. If more is to come at once, they may wait for it.
func (s *Session) put(p []byte, more bool) error {
	write := s.rwc.Write
	if w, ok := s.rwc.(moreWriter); ok && more {
		write = w.WriteMore
	}
	s.out.writes.Add(1)
	n, err := write(p)
	s.bytesOut.Add(uint64(n))
	s.out.writes.Add(1)
	return err
}

// writeControl sends the control frames of this moment, together with what comes right behind them if there is more. It
// reports whether the session is over.
func (s *Session) writeControl(more bool) (over bool, err error) {
	o := &s.out
	o.mu.Lock()
	p, freed := o.collect(more)
	o.control, o.freed = o.spare, o.spareFreed
	over = o.over
	o.mu.Unlock()

	s.serves.free(freed)
	if len(p) > 0 {
		err = s.put(p, more && !over)
	}
	if over {
		s.closeWrite()
	}
	o.spare, o.spareFreed = p[:0], freed[:0]
	if cap(p) > keepControl {
		o.spare = nil
	}
	return over, err
}

// collect returns all that is to be sent now except answers. Where something goes out anyway, news do not wait for
// company.
func (o *output) collect(company bool) (p []byte, freed []uint32) {
	p = o.control
	if o.over {
		return append(p, o.bye...), o.freed
	}
	if o.hasPong {
		p = header{typ: framePong, id: o.pong}.append(p)
		o.hasPong = false
	}
	if o.ping != 0 {
		p = header{typ: framePing, id: o.ping}.append(p)
		o.ping = 0
	}
	company = company || len(p) > 0
	if len(o.lazy) > 0 {
		o.collectLazy(company)
	}
	if len(o.news) > 0 {
		p = o.collectNews(p, company)
	}
	return p, o.freed
}

// collectLazy makes lazy news due if they have waited for long enough, or something goes out anyway.
func (o *output) collectLazy(company bool) {
	if wait := time.Until(o.lazyTill); !company && len(o.news) == 0 && wait > 0 {
		o.timer.Reset(wait)
		return
	}
	for _, f := range o.lazy {
		f.later = false
		o.list(f)
	}
	clear(o.lazy)
	o.lazy = o.lazy[:0]
}

// collectNews appends news if something keeps them company, or they have waited for long enough.
func (o *output) collectNews(p []byte, company bool) []byte {
	now := time.Now()
	if wait := o.lastNews.Add(NewsInterval).Sub(now); !company && wait > 0 {
		o.timer.Reset(wait)
		return p
	}
	o.lastNews = now
	todo := o.news
	o.news = o.news[:0] // what is appended below does not overtake what is read
	for i, f := range todo {
		if len(p) > newsAtOnce {
			o.news = append(o.news, todo[i:]...)
			o.timer.Reset(0)
			break
		}
		p = f.appendNews(p)
		if f.hasNews() {
			o.news = append(o.news, f)
			o.timer.Reset(0)
		} else {
			f.listed = false
		}
	}
	clear(todo[len(o.news):]) // let go of closed files
	return p
}

// closeWrite ends the stream in this direction, so that the other side sees the end behind the Goodbye.
func (s *Session) closeWrite() {
	if c, ok := s.rwc.(interface{ CloseWrite() error }); ok {
		c.CloseWrite() // the stream is closed for good soon
	}
}

// writeAnswer sends an answer in parts, with control between them, and tells whoever waits for that.
func (s *Session) writeAnswer(a answer) (over bool, err error) {
	cut := false
	defer func() {
		if a.buf == nil {
			return
		}
		switch {
		case cut:
			a.sent <- errWithdrawn
		case over:
			a.sent <- s.ended()
		default:
			a.sent <- err
		}
	}()
	for off := 0; ; off += PartSize {
		if s.serves.cancelled(a.id) {
			s.out.reject(a.id, RejectError{Code: CodeCancelled})
			cut = true
			return false, nil
		}
		if over, err = s.writeControl(true); over || err != nil {
			return over, err
		}
		n := min(a.n-off, PartSize)
		h := header{length: n, typ: frameData, id: a.id}
		if off+n == a.n {
			h.flags = flagLast
			s.finish(a)
		}
		if err := s.put(s.frame(a, h, off), false); err != nil || h.flags == flagLast {
			return false, err
		}
	}
}

// finish is called right before the end of an answer is sent: the other side may use the number of the request again
// before this goroutine has come back from writing.
func (s *Session) finish(a answer) {
	s.serves.free([]uint32{a.id})
	if a.buf != nil {
		s.chunksOut.Add(1)
	}
	if f := a.follow; f != nil {
		s.out.do(func() { s.out.tell(f) })
	}
}

// frame returns the part of an answer at off as a frame, with the Grant ahead of the first.
func (s *Session) frame(a answer, h header, off int) []byte {
	if a.buf == nil {
		p := append(append(s.out.part[:0], make([]byte, headerSize)...), a.body[off:off+h.length]...)
		s.out.part = p
		h.put(p)
		return p
	}
	p := a.buf.b[grantFrame+off : grantFrame+off+headerSize+h.length]
	h.put(p)
	if a.granted && off == 0 {
		p = a.buf.b[:grantFrame+len(p)]
		putGrant(p, a.id, a.index)
	}
	return p
}
