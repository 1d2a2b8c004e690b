package wire

import (
	"context"
	"errors"
	"sync"

	"github.com/virtswarm/virtswarm/internal/content"
)

// A served is the place of one request of the other side, from its arrival until the end of the answer is on its way.
type served struct {
	busy      bool
	begun     bool  // of a pull: it waits at the handler no more
	pull      *Pull // nil of an Open and a Manifest
	cancelled bool
	manifest  content.Digest     // whose is wanted
	cancel    context.CancelFunc // while the handler is at it
}

// serves is all that the other side has asked for.
type serves struct {
	queue chan uint32 // requests for manifests that wait for a worker; has room for all

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
	if err := v.admit(h, served{}); err != nil {
		return err
	}
	f := &follow{file: m.file, handle: m.handle, fetches: m.fetches}
	v.files[m.file], v.handles[m.handle] = f, f
	s.addJob(fileJob{f: f, id: h.id})
	return nil
}

func (s *Session) handleClose(h header) error {
	v := &s.serves
	v.mu.Lock()
	f := v.handles[h.id]
	if f == nil || !f.opened {
		v.mu.Unlock()
		return h.violation("file %d is not open", h.id)
	}
	s.unfollow(f)
	v.mu.Unlock()
	s.withdraw(CodeNotOpen, func(p *Pull) bool { return p.handle == f.handle })
	v.mu.Lock()
	s.addJob(fileJob{f: f, closing: true})
	v.mu.Unlock()
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
	have, peers, err := s.handler.Open(s.ctx, s, j.f.file, j.f.fetches)
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

// closeServed tells the handler that nobody wants or follows anything any more, at the end of Run.
func (s *Session) closeServed() {
	s.withdraw(CodeCancelled, func(*Pull) bool { return true })
	for f := range s.serves.opened {
		s.handler.Closed(s, f.file)
	}
}

// answer hands an answer to the writer.
func (s *Session) answer(a answer) {
	select {
	case s.out.answers <- a:
	case <-s.ctx.Done():
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
