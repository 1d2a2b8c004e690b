package wire

import (
	"context"

	"github.com/virtswarm/virtswarm/internal/content"
)

func (s *Session) handleManifest(h header, p []byte) error {
	s.serves.mu.Lock()
	defer s.serves.mu.Unlock()
	if err := s.serves.admit(h, served{manifest: content.Digest(p)}); err != nil {
		return err
	}
	s.enqueue(h.id)
	return nil
}

// enqueue hands a request for a manifest to the workers. Called under serves.mu.
func (s *Session) enqueue(id uint32) {
	s.serves.queue <- id
	if s.serves.workers < manifestsAtOnce {
		s.serves.workers++
		s.wg.Go(s.work)
	}
}

// A manifester answers the other side's Manifest requests, one after the other. Its context lasts until one is
// cancelled.
type manifester struct {
	s      *Session
	ctx    context.Context
	cancel context.CancelFunc
}

func (s *Session) work() {
	w := manifester{s: s}
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

func (w *manifester) serve(id uint32) {
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
	p, err := s.handler.Manifest(w.ctx, s, r.manifest)

	v.mu.Lock()
	v.requests[id].cancel = nil
	v.mu.Unlock()
	if w.ctx.Err() != nil { // nobody can cancel it any more
		w.ctx, w.cancel = context.WithCancel(s.ctx)
	}
	if err != nil {
		s.reject(id, "read manifest", r.manifest, err)
		return
	}
	s.answer(answer{id: id, n: len(p), body: p})
}
