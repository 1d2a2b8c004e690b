package wire

import (
	"context"
	"fmt"
	"slices"

	"github.com/virtswarm/virtswarm/internal/content"
)

// Chunk fetches the chunk at index of file, which must be open, into buf[:n]; n is the length that the chunk must have,
// 1..content.MaxChunkSize. Calls of many goroutines share the stream; at most MaxInFlight wait for answers, the others
// wait for their turn. When ctx ends, the other side is told not to bother and Chunk returns at once; if bytes are just
// on their way into buf and the stream has no SetReadDeadline, then with the next bytes or the end of the session. The
// bytes are unverified; after an error buf[:n] holds anything.
//
// Errors: ErrNotHeld, ErrNotFound, ErrBusy and others as *RejectError; ErrNotOpen; ErrEnded; that of ctx.
func (s *Session) Chunk(ctx context.Context, file content.Digest, index, n int, prio Priority, buf []byte) error {
	if n < 1 || n > content.MaxChunkSize || n > len(buf) {
		return fmt.Errorf("fetch chunk %d of %s: bad length %d for a buffer of %d", index, file.Short(), n, len(buf))
	}
	a, err := s.take(ctx)
	if err != nil {
		return err
	}
	err = s.start(a, frameRequest, n, func(p []byte) ([]byte, error) {
		f := s.asks.files[file]
		if f == nil || !f.ready {
			return nil, ErrNotOpen
		}
		if index < 0 || index >= f.chunks {
			return nil, fmt.Errorf("fetch chunk %d of %s: it has %d", index, file.Short(), f.chunks)
		}
		a.buf = buf[:n:n]
		m := request{handle: f.handle, index: uint32(index), length: uint32(n), prio: prio.code(s.asks.features)}
		return m.append(p, a.id), nil
	})
	if err != nil {
		return err
	}
	_, err = s.await(ctx, a)
	return err
}

// Draw fetches one chunk of the other side's choice, of those from lo up to hi of file, which must be open. The other
// side may take any time to choose; nothing is held for it here meanwhile but the request itself. When it has chosen,
// granted is called, by the goroutine that reads the stream, which it must not block: it returns a buffer of the
// chunk's length, or false if the chunk is not wanted after all, and then Draw fails with ErrDeclined. Once Draw has
// returned the buffer is not touched.
//
// index is the chunk granted, -1 if none was. Errors are those of Chunk, and ErrSpent if the other side has nothing in
// the range that it has not given to somebody before.
func (s *Session) Draw(ctx context.Context, file content.Digest, lo, hi int, prio Priority, granted func(index int) (buf []byte, ok bool)) (index int, err error) {
	a, err := s.take(ctx)
	if err != nil {
		return -1, err
	}
	err = s.start(a, frameDraw, content.MaxChunkSize, func(p []byte) ([]byte, error) {
		f := s.asks.files[file]
		if f == nil || !f.ready {
			return nil, ErrNotOpen
		}
		if lo < 0 || lo >= hi || hi > f.chunks {
			return nil, fmt.Errorf("draw chunks %d to %d of %s: it has %d", lo, hi, file.Short(), f.chunks)
		}
		a.granted, a.lo, a.hi = granted, lo, hi
		m := draw{handle: f.handle, first: uint32(lo), count: uint32(hi - lo), prio: prio.code(s.asks.features)}
		return m.append(p, a.id), nil
	})
	if err != nil {
		return -1, err
	}
	got, err := s.await(ctx, a)
	return got.index, err
}

// Manifest fetches the encoded manifest of file, which need not be open: at most MaxManifest bytes, unverified.
func (s *Session) Manifest(ctx context.Context, file content.Digest) ([]byte, error) {
	select {
	case s.asks.manifests <- struct{}{}:
		defer func() { <-s.asks.manifests }()
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.ending:
		return nil, s.ended()
	}
	a, err := s.take(ctx)
	if err != nil {
		return nil, err
	}
	err = s.start(a, frameManifest, MaxManifest, func(p []byte) ([]byte, error) {
		h := header{length: manifestSize, typ: frameManifest, id: a.id}
		return append(h.append(p), file[:]...), nil
	})
	if err != nil {
		return nil, err
	}
	got, err := s.await(ctx, a)
	return got.body, err
}

// Open begins to follow file, which has the given number of chunks: it returns those that the other side holds now and
// peers to ask as well. From now on (even before Open returns) the Handler's Have and Peers hear of changes. A file can
// be open once; errors are as those of Chunk, and ErrOpen. fetching says that this side fetches the file, rather than
// only wants to hear of it.
func (s *Session) Open(ctx context.Context, file content.Digest, chunks int, fetching bool) (content.Bits, []PeerID, error) {
	if chunks < 0 || chunks > content.MaxChunks {
		return content.Bits{}, nil, fmt.Errorf("open %s: bad number of chunks %d", file.Short(), chunks)
	}
	a, err := s.take(ctx)
	if err != nil {
		return content.Bits{}, nil, err
	}
	err = s.start(a, frameOpen, maxSnapshot, func(p []byte) ([]byte, error) {
		f, err := s.asks.newFile(file, chunks)
		if err != nil {
			return nil, err
		}
		a.open = f
		m := open{handle: f.handle, file: file, fetches: fetching}
		return m.append(p, a.id), nil
	})
	if err != nil {
		return content.Bits{}, nil, err
	}
	got, err := s.await(ctx, a)
	return got.snap.have, got.snap.peers, err
}

// newFile chooses a handle. Called under mu.
func (q *asks) newFile(file content.Digest, chunks int) (*openFile, error) {
	if q.files[file] != nil {
		return nil, fmt.Errorf("%w: %s is open already", ErrOpen, file.Short())
	}
	handle := slices.Index(q.handles, nil)
	if handle < 0 {
		if len(q.handles) >= q.maxFiles {
			return nil, fmt.Errorf("%w: %d are", ErrOpen, len(q.handles))
		}
		handle = len(q.handles)
		q.handles = append(q.handles, nil)
	}
	f := &openFile{file: file, handle: uint32(handle), chunks: chunks}
	q.files[file], q.handles[handle] = f, f
	return f, nil
}

// forget gives a handle back. Called under mu.
func (q *asks) forget(f *openFile) {
	delete(q.files, f.file)
	q.handles[f.handle] = nil
}

// CloseFile ends what Open began, once that has returned; the file may be opened again at once. Chunk calls under way
// may be rejected.
func (s *Session) CloseFile(file content.Digest) {
	s.asks.mu.Lock()
	defer s.asks.mu.Unlock()
	if f := s.asks.files[file]; f != nil && f.ready {
		s.closeFile(f)
	}
}

// closeFile is called under asks.mu: a new Open with the same handle must come behind the Close.
func (s *Session) closeFile(f *openFile) {
	s.asks.forget(f)
	s.out.send(header{typ: frameClose, id: f.handle}.append(nil))
}
