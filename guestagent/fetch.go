package guestagent

import (
	"fmt"
	"runtime"
	"sync"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/guestlink"
)

const (
	// askBytes is what one request asks for, if that is not a single chunk; asked is how many requests wait for their
	// answers, so that the host has always something to send.
	askBytes = 4 << 20
	asked    = 2
	// bufferBytes bounds the chunks that are verified and written while others come. There are at least two.
	bufferBytes = 4 << 20
	maxBuffers  = 8
)

// span is a run of chunks that one request asks for.
type span struct{ first, count int }

// spans cuts what is missing of a file into requests. A request may contain holes, of which nothing comes.
func spans(m *content.Manifest, have content.Bits) (list []span) {
	most := max(1, askBytes/m.ChunkSize())
	for i, ok := have.NextClear(0); ok; {
		s := span{i, 1}
		next, more := have.NextClear(i + 1)
		for more && next-s.first < most && (next == s.first+s.count || holesOnly(m, s.first+s.count, next)) {
			s.count = next - s.first + 1
			next, more = have.NextClear(next + 1)
		}
		list = append(list, s)
		i, ok = next, more
	}
	return list
}

// holesOnly reports whether all chunks from lo up to hi are holes.
func holesOnly(m *content.Manifest, lo, hi int) bool {
	for i := lo; i < hi; i++ {
		if !m.IsHole(i) {
			return false
		}
	}
	return true
}

// receive asks for what is missing of the open file, and hands over each chunk that comes, in order. buffer returns one
// for the next chunk.
func (t *talk) receive(m *content.Manifest, have content.Bits, buffer func() []byte, got func(i int, chunk []byte) error) error {
	list := spans(m, have)
	ids := make([]uint32, 0, len(list))
	for k, s := range list {
		for len(ids) < min(k+asked, len(list)) {
			next := list[len(ids)]
			id, err := t.ask(guestlink.Read, guestlink.ReadRequest{First: next.first, Count: next.count})
			if err != nil {
				return err
			}
			ids = append(ids, id)
		}
		for i := s.first; i < s.first+s.count; i++ {
			if m.IsHole(i) {
				continue
			}
			chunk := buffer()[:m.ChunkLen(i)]
			if err := t.data(ids[k], chunk); err != nil {
				return err
			}
			if err := got(i, chunk); err != nil {
				return err
			}
		}
		if _, err := t.expect(ids[k], guestlink.End); err != nil {
			return err
		}
	}
	return nil
}

// verify checks a chunk; the error is one of the link: the next may bring the right bytes.
func verify(m *content.Manifest, i int, chunk []byte) error {
	if err := m.Verify(i, chunk); err != nil {
		return fmt.Errorf("%w: chunk %d: %w", ErrCorrupt, i, err)
	}
	return nil
}

// fetchInOrder fetches what is missing, and hands over verified chunks in order.
func (t *talk) fetchInOrder(m *content.Manifest, have content.Bits, got func(i int, chunk []byte) error) error {
	buf := make([]byte, min(int64(m.ChunkSize()), m.Size()))
	return t.receive(m, have, func() []byte { return buf }, func(i int, chunk []byte) error {
		if err := verify(m, i, chunk); err != nil {
			return err
		}
		return got(i, chunk)
	})
}

// fetch fetches what is missing, and has each chunk verified and written while others come: write is called by several
// goroutines at once, written afterwards by one at a time.
func (t *talk) fetch(m *content.Manifest, have content.Bits, write func(i int, chunk []byte) error, written func(i int)) error {
	type piece struct {
		i     int
		chunk []byte
	}
	buffers := max(2, min(maxBuffers, bufferBytes/m.ChunkSize()))
	free, full := make(chan []byte, buffers), make(chan piece)
	for range buffers {
		free <- nil
	}
	var mu sync.Mutex
	var failed error // the first of the writers
	var writers sync.WaitGroup
	for range min(buffers-1, runtime.GOMAXPROCS(0)) {
		writers.Go(func() {
			for p := range full {
				err := verify(m, p.i, p.chunk)
				if err == nil {
					err = write(p.i, p.chunk)
				}
				mu.Lock()
				if err == nil {
					written(p.i)
				} else if failed == nil {
					failed = err
				}
				mu.Unlock()
				free <- p.chunk[:cap(p.chunk)]
			}
		})
	}
	missing := have.Clone() // have is being marked meanwhile
	err := t.receive(m, missing, func() []byte {
		buf := <-free
		if buf == nil {
			buf = make([]byte, min(int64(m.ChunkSize()), m.Size()))
		}
		return buf
	}, func(i int, chunk []byte) error {
		full <- piece{i, chunk}
		mu.Lock()
		defer mu.Unlock()
		return failed
	})
	close(full)
	writers.Wait()
	if failed != nil {
		return failed
	}
	return err
}

// open opens a file at the host: its newest version, or the one of an id, and returns what it consists of.
func (t *talk) open(name string, version content.Digest) (*content.Manifest, error) {
	id, err := t.ask(guestlink.Open, guestlink.OpenRequest{Name: name, ID: version})
	if err != nil {
		return nil, err
	}
	f, err := t.expect(id, guestlink.Opened)
	if err != nil {
		return nil, err
	}
	var opened guestlink.OpenedFile
	if err := f.Decode(&opened); err != nil {
		return nil, err
	}
	if opened.Manifest < 1 || opened.Manifest > guestlink.MaxManifest {
		return nil, fmt.Errorf("%w: a manifest of %d bytes", guestlink.ErrProtocol, opened.Manifest)
	}
	p := make([]byte, opened.Manifest)
	if err := t.data(id, p); err != nil {
		return nil, err
	}
	if _, err := t.expect(id, guestlink.End); err != nil {
		return nil, err
	}
	m, err := content.DecodeManifest(p)
	if err != nil {
		return nil, err
	}
	if m.ID() != opened.ID || !version.IsZero() && m.ID() != version {
		return nil, fmt.Errorf("%w: the manifest is not that of %s", ErrCorrupt, opened.ID)
	}
	return m, nil
}
