package wire

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/virtswarm/virtswarm/internal/content"
)

// manifestsAtOnce bounds the memory for manifests that the other side may fill with anything: MaxManifest each.
const manifestsAtOnce = 2

// An ask is a place for one request of this side; its number is the id of the request. It is free again only when the
// other side has answered in full, also if nobody waits for the answer any more: so an id is never ambiguous, and
// requests that are made and cancelled in a loop hold no more than their places.
type ask struct {
	id   uint32
	done chan error // tells the caller how it ended: nil, a *RejectError, ErrDeclined or errOrphaned; capacity 1

	// wanted: the caller wants its buffer back while it is being filled.
	wanted atomic.Bool

	// Guarded by asks.mu, except that the reader owns buf and body while state is filling.
	state askState
	left  bool // the caller is not interested any more
	over  bool // the answer has come in full
	kind  frameType
	buf   []byte // where a chunk goes
	body  []byte // any other answer, as it comes
	got   int    // bytes that have come
	limit int    // how many may; for a chunk: must
	open  *openFile
	snap  snapshot // the answer to an Open
	frame [headerSize + openSize]byte

	// Of a draw.
	granted func(index int) (buf []byte, ok bool)
	lo, hi  int
	index   int // -1 until the Grant has come
}

type askState uint8

const (
	askFree     askState = iota
	askWaiting           // a caller waits
	askFilling           // and the reader writes into its buffer, or asks it for one
	askAnswered          // in full; the caller is being told
	askOrphaned          // the caller has gone, or is being told to go, without the answer
)

// errOrphaned tells a caller that there will be no answer: its context or the session has ended.
var errOrphaned = errors.New("no answer")

// An openFile is a file that this side follows over there.
type openFile struct {
	file   content.Digest
	handle uint32
	chunks int
	ready  bool // the snapshot has come
}

// asks is all that this side has asked for.
type asks struct {
	mu        sync.Mutex
	all       []ask
	free      chan *ask
	refused   bool // the other side answers no requests at all
	ended     bool
	files     map[content.Digest]*openFile
	handles   []*openFile // by handle; as long as there have ever been
	maxFiles  int
	features  uint64 // of the other side; set before there is a place in free
	manifests chan struct{}
}

func (q *asks) init(o Options) {
	q.all = make([]ask, o.MaxInFlight)
	q.free = make(chan *ask, o.MaxInFlight)
	q.files = make(map[content.Digest]*openFile)
	q.maxFiles = o.MaxFiles
	q.manifests = make(chan struct{}, manifestsAtOnce)
	for i := range q.all {
		q.all[i].id = uint32(i)
		q.all[i].done = make(chan error, 1)
	}
}

// allow opens as many places as the other side accepts.
func (q *asks) allow(requests, files int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.refused = requests == 0
	q.maxFiles = min(q.maxFiles, files)
	for i := range q.all[:min(len(q.all), requests)] {
		q.free <- &q.all[i]
	}
}

// take waits for a free place.
func (s *Session) take(ctx context.Context) (*ask, error) {
	select {
	case <-s.ready:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.ending:
		return nil, s.ended()
	}
	if s.asks.refused {
		return nil, &RejectError{Code: CodeRefused, Message: "it serves nothing"}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case a := <-s.asks.free:
		return a, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.ending:
		return nil, s.ended()
	}
}

// start makes the place a wait for the answer to a request, unless prepare finds something against it, which is called
// under asks.mu and appends the frame.
func (s *Session) start(a *ask, kind frameType, limit int, prepare func(p []byte) ([]byte, error)) error {
	q := &s.asks
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended {
		return s.ended() // and the place is of no use any more
	}
	frame, err := prepare(a.frame[:0])
	if err != nil {
		q.free <- a
		return err
	}
	a.kind, a.limit, a.state, a.index = kind, limit, askWaiting, -1
	s.out.send(frame)
	return nil
}

// An outcome is what an answer has brought.
type outcome struct {
	body  []byte
	snap  snapshot
	index int
}

// await waits for the answer, or until ctx ends and nobody writes into the caller's buffer any more.
func (s *Session) await(ctx context.Context, a *ask) (outcome, error) {
	var err error
	select {
	case err = <-a.done:
	case <-ctx.Done():
		left, filling := s.abandon(a)
		if left {
			return outcome{index: -1}, ctx.Err()
		}
		if filling {
			s.in.kick()
		}
		err = <-a.done
	}
	got := s.asks.leave(a)
	switch {
	case err != errOrphaned:
		return got, err
	case ctx.Err() != nil:
		return outcome{index: got.index}, ctx.Err()
	}
	return outcome{index: got.index}, s.ended()
}

// leave is called when the caller has heard how it ended. It returns what there is.
func (q *asks) leave(a *ask) outcome {
	q.mu.Lock()
	defer q.mu.Unlock()
	got := outcome{a.body, a.snap, a.index}
	a.left = true
	q.vacate(a)
	return got
}

// vacate frees a place once the answer has come in full and the caller has left. Called under mu.
func (q *asks) vacate(a *ask) {
	if !a.over || !a.left {
		return
	}
	a.state, a.left, a.over = askFree, false, false
	a.buf, a.body, a.got, a.open, a.snap, a.granted = nil, nil, 0, nil, snapshot{}, nil
	a.wanted.Store(false)
	q.free <- a // has room for all
}

// abandon lets the caller of a go: it has left, or may as soon as the reader lets go of its buffer, or has been told
// something in the meantime.
func (s *Session) abandon(a *ask) (left, filling bool) {
	s.asks.mu.Lock()
	defer s.asks.mu.Unlock()
	switch a.state {
	case askWaiting:
		s.orphan(a)
		a.left = true
		return true, false
	case askFilling:
		a.wanted.Store(true)
		return false, true
	}
	return false, false
}

// orphan tells the other side that nobody needs its answer. Called under asks.mu: were the Cancel sent later, the place
// could have a new request by then.
func (s *Session) orphan(a *ask) {
	a.state, a.buf, a.body = askOrphaned, nil, nil
	if a.kind != frameOpen && !s.asks.ended {
		s.out.send(header{typ: frameCancel, id: a.id}.append(a.frame[:0]))
	}
}

// dismiss makes the caller of a leave without an answer. Called under asks.mu.
func (s *Session) dismiss(a *ask) { s.dismissFor(a, errOrphaned) }

func (s *Session) dismissFor(a *ask, why error) {
	s.orphan(a)
	a.done <- why
}

// withdrawAll makes all callers leave, now that the session ends. It reports whether a buffer is being filled.
func (s *Session) withdrawAll() (filling bool) {
	q := &s.asks
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended = true
	for i := range q.all {
		switch a := &q.all[i]; a.state {
		case askWaiting:
			s.dismiss(a)
		case askFilling:
			a.wanted.Store(true)
			filling = true
		}
	}
	return filling
}
