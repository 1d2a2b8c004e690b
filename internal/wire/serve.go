package wire

import (
	"context"
	"errors"
	"sync"

	"golang.org/x/sync/semaphore"

	"github.com/virtswarm/virtswarm/internal/content"
)

// A served is the place of one request of the other side, from its arrival until the end of the answer is on its way.
type served struct {
	busy      bool
	cancelled bool
	manifest  bool // rather than a chunk
	file      content.Digest
	index     int
	n         int                // length of the chunk
	cancel    context.CancelFunc // while the handler is at it
}

// serves is all that the other side has asked for.
type serves struct {
	budget *semaphore.Weighted // bytes of chunks on their way out
	queue  chan uint32         // requests that wait for a worker; has room for all

	mu       sync.Mutex
	requests []served // by id
	files    map[content.Digest]*follow
	handles  map[uint32]*follow
	maxFiles int
	workers  int
	jobs     []fileJob // Open and Close in the order of their arrival
	filing   bool      // a goroutine works on jobs

	// opened holds those that Handler.Closed must hear of: owned by the goroutine that works on jobs, then by Run.
	opened map[*follow]struct{}
}

// A fileJob is an Open (the request id) or, if closing, a Close.
type fileJob struct {
	f       *follow
	id      uint32
	closing bool
}

func (v *serves) init(o Options, serving bool) {
	v.budget = semaphore.NewWeighted(o.ServeBytes)
	v.files = make(map[content.Digest]*follow)
	v.handles = make(map[uint32]*follow)
	v.opened = make(map[*follow]struct{})
	if serving {
		v.requests = make([]served, o.MaxRequests)
		v.queue = make(chan uint32, o.MaxRequests)
		v.maxFiles = o.MaxFiles
	}
}

// admit takes the place for a request. Called under mu.
func (v *serves) admit(h header, r served) error {
	if int64(h.id) >= int64(len(v.requests)) {
		return h.violation("only %d requests are allowed", len(v.requests))
	}
	if v.requests[h.id].busy {
		return h.violation("the request of this number has not been answered yet")
	}
	r.busy = true
	v.requests[h.id] = r
	return nil
}

// free gives the places of requests back.
func (v *serves) free(ids []uint32) {
	if len(ids) == 0 {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, id := range ids {
		v.requests[id] = served{}
	}
}

func (v *serves) cancelled(id uint32) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.requests[id].cancelled
}

func (s *Session) handleRequest(h header, m request) error {
	v := &s.serves
	v.mu.Lock()
	defer v.mu.Unlock()
	f := v.handles[m.handle]
	if f == nil || !f.opened {
		return h.violation("file %d is not open", m.handle)
	}
	if int64(m.index) >= int64(f.chunks) {
		return h.violation("chunk %d of a file of %d", m.index, f.chunks)
	}
	if err := v.admit(h, served{file: f.file, index: int(m.index), n: int(m.length)}); err != nil {
		return err
	}
	s.enqueue(h.id)
	return nil
}

func (s *Session) handleManifest(h header, p []byte) error {
	s.serves.mu.Lock()
	defer s.serves.mu.Unlock()
	if err := s.serves.admit(h, served{file: content.Digest(p), manifest: true}); err != nil {
		return err
	}
	s.enqueue(h.id)
	return nil
}

// enqueue hands a request to the workers. Called under serves.mu.
func (s *Session) enqueue(id uint32) {
	s.serves.queue <- id
	if s.serves.workers < s.o.Workers {
		s.serves.workers++
		s.wg.Go(s.work)
	}
}

func (s *Session) handleCancel(h header) error {
	v := &s.serves
	v.mu.Lock()
	defer v.mu.Unlock()
	if int64(h.id) >= int64(len(v.requests)) {
		return h.violation("only %d requests are allowed", len(v.requests))
	}
	r := &v.requests[h.id]
	if !r.busy {
		return nil // the answer has crossed it
	}
	r.cancelled = true
	if r.cancel != nil {
		r.cancel()
	}
	return nil
}

func (s *Session) handleOpen(h header, m open) error {
	v := &s.serves
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case int64(m.handle) >= int64(v.maxFiles):
		return h.violation("only %d files are allowed", v.maxFiles)
	case v.handles[m.handle] != nil:
		return h.violation("file %d is open already", m.handle)
	case v.files[m.file] != nil:
		return h.violation("%s is open already", m.file.Short())
	}
	if err := v.admit(h, served{file: m.file}); err != nil {
		return err
	}
	f := &follow{file: m.file, handle: m.handle}
	v.files[m.file], v.handles[m.handle] = f, f
	s.addJob(fileJob{f: f, id: h.id})
	return nil
}

func (s *Session) handleClose(h header) error {
	v := &s.serves
	v.mu.Lock()
	defer v.mu.Unlock()
	f := v.handles[h.id]
	if f == nil || !f.opened {
		return h.violation("file %d is not open", h.id)
	}
	s.unfollow(f)
	s.addJob(fileJob{f: f, closing: true})
	return nil
}

// unfollow makes sure that nothing more is told about f. Called under serves.mu.
func (s *Session) unfollow(f *follow) {
	delete(s.serves.files, f.file)
	delete(s.serves.handles, f.handle)
	s.out.mu.Lock()
	f.gone, f.early, f.have, f.peers = true, nil, content.Bits{}, nil
	s.out.mu.Unlock()
}

// addJob is called under serves.mu. The jobs are bounded: an Open has a request's place, a Close an open file's.
func (s *Session) addJob(j fileJob) {
	s.serves.jobs = append(s.serves.jobs, j)
	if !s.serves.filing {
		s.serves.filing = true
		s.wg.Go(s.doJobs)
	}
}

// doJobs tells the handler of Open and Close one after the other. It ends when there is nothing to do.
func (s *Session) doJobs() {
	v := &s.serves
	for {
		v.mu.Lock()
		if len(v.jobs) == 0 || s.ctx.Err() != nil {
			v.filing, v.jobs = false, nil
			v.mu.Unlock()
			return
		}
		j := v.jobs[0]
		v.jobs = v.jobs[1:]
		v.mu.Unlock()
		if j.closing {
			delete(v.opened, j.f)
			s.handler.Closed(s, j.f.file)
		} else {
			s.openFor(j)
		}
	}
}

// openFor answers an Open.
func (s *Session) openFor(j fileJob) {
	v := &s.serves
	have, peers, err := s.handler.Open(s.ctx, s, j.f.file)
	v.mu.Lock()
	if err != nil {
		s.unfollow(j.f)
	} else {
		j.f.opened, j.f.chunks = true, have.Len()
	}
	v.mu.Unlock()
	if err != nil {
		s.reject(j.id, "open", j.f.file, err)
		return
	}
	v.opened[j.f] = struct{}{}
	body := snapshot{have: have, peers: peers[:min(len(peers), MaxPeers)]}.encode()
	s.answer(answer{id: j.id, n: len(body), body: body, follow: j.f})
}

// closeServed tells the handler that nobody follows any more, at the end of Run.
func (s *Session) closeServed() {
	for f := range s.serves.opened {
		s.handler.Closed(s, f.file)
	}
}

// A worker reads chunks and manifests. Its context lasts until a request is cancelled: one for each would cost more.
type worker struct {
	s      *Session
	ctx    context.Context
	cancel context.CancelFunc
}

func (s *Session) work() {
	w := worker{s: s}
	w.ctx, w.cancel = context.WithCancel(s.ctx)
	defer func() { w.cancel() }()
	for {
		select {
		case id := <-s.serves.queue:
			w.serve(id)
		case <-s.ctx.Done():
			return
		}
	}
}

func (w *worker) serve(id uint32) {
	s := w.s
	v := &s.serves
	v.mu.Lock()
	r := v.requests[id]
	if !r.cancelled { // else a second Cancel would hit what this worker does next
		v.requests[id].cancel = w.cancel
	}
	v.mu.Unlock()
	if r.cancelled {
		s.out.reject(id, RejectError{Code: CodeCancelled})
		return
	}
	a, err := w.read(id, r)

	v.mu.Lock()
	v.requests[id].cancel = nil
	v.mu.Unlock()
	if w.ctx.Err() != nil { // nobody can cancel it any more
		w.ctx, w.cancel = context.WithCancel(s.ctx)
	}
	if err != nil {
		s.reject(id, "read", r.file, err)
		return
	}
	s.answer(a)
}

func (w *worker) read(id uint32, r served) (answer, error) {
	s := w.s
	if r.manifest {
		p, err := s.handler.Manifest(w.ctx, s, r.file)
		return answer{id: id, n: len(p), body: p}, err
	}
	if err := s.serves.budget.Acquire(w.ctx, int64(r.n)); err != nil {
		return answer{}, err
	}
	a := answer{id: id, n: r.n, buf: getBuffer(r.n)}
	dst := a.buf.payload(r.n)
	p, err := s.handler.ReadChunk(w.ctx, s, r.file, r.index, dst)
	if err == nil && len(p) != r.n {
		err = &RejectError{Code: CodeBadChunk}
	}
	if err != nil {
		s.release(a)
		return answer{}, err
	}
	if &p[0] != &dst[0] {
		copy(dst, p)
	}
	return a, nil
}

// answer hands an answer to the writer.
func (s *Session) answer(a answer) {
	select {
	case s.out.answers <- a:
	case <-s.ctx.Done():
		s.release(a)
	}
}

// reject answers a request by the error of a handler. Of unexpected ones only this side's log says more.
func (s *Session) reject(id uint32, doing string, file content.Digest, err error) {
	if errors.Is(err, context.Canceled) && s.serves.cancelled(id) {
		err = &RejectError{Code: CodeCancelled}
	}
	rej, told := rejection(err)
	if !told && s.ctx.Err() == nil {
		s.log.Warn("cannot answer", "doing", doing, "file", file, "error", err)
	}
	s.out.reject(id, rej)
}
