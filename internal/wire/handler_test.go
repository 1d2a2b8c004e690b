package wire

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"

	"github.com/virtswarm/virtswarm/internal/content"
)

// testFile is a file that a holder has: its id is made up, its chunks are random.
type testFile struct {
	id     content.Digest
	chunks [][]byte
	have   content.Bits
}

func newFile(seed uint64, chunks, size int) *testFile {
	rng := rand.New(rand.NewPCG(seed, 0))
	f := &testFile{have: content.NewBits(chunks)}
	for i := range f.id {
		f.id[i] = byte(rng.Uint32())
	}
	for i := range chunks {
		p := make([]byte, size)
		for k := range p {
			p[k] = byte(rng.Uint32())
		}
		f.chunks = append(f.chunks, p)
		f.have.Set(i)
	}
	return f
}

// holder is a Handler that serves files from memory and remembers what it hears. Its hooks, if set, come first.
type holder struct {
	onOpen      func(ctx context.Context, s *Session, file content.Digest) error
	onReadChunk func(ctx context.Context, index int) error
	onDraw      func(p *Pull) (index int, err error)
	onManifest  func(ctx context.Context) ([]byte, error)

	mu     sync.Mutex
	files  map[content.Digest]*testFile
	peers  []PeerID
	heard  map[content.Digest]map[int]bool
	met    []PeerID
	opens  int
	closed chan content.Digest
	news   chan struct{}
	pulls  map[*Pull]context.CancelFunc
}

func newHolder(files ...*testFile) *holder {
	h := &holder{
		files: map[content.Digest]*testFile{}, heard: map[content.Digest]map[int]bool{},
		closed: make(chan content.Digest, 1000), news: make(chan struct{}, 1),
		pulls: map[*Pull]context.CancelFunc{},
	}
	for _, f := range files {
		h.files[f.id] = f
	}
	return h
}

func (h *holder) file(id content.Digest) (*testFile, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f := h.files[id]; f != nil {
		return f, nil
	}
	return nil, fmt.Errorf("find %s: %w", id.Short(), ErrNotFound)
}

func (h *holder) Manifest(ctx context.Context, s *Session, id content.Digest) ([]byte, error) {
	if h.onManifest != nil {
		return h.onManifest(ctx)
	}
	if _, err := h.file(id); err != nil {
		return nil, err
	}
	return []byte("manifest of " + id.String()), nil
}

func (h *holder) Open(ctx context.Context, s *Session, id content.Digest, _ bool) (content.Bits, []PeerID, error) {
	if h.onOpen != nil {
		if err := h.onOpen(ctx, s, id); err != nil {
			return content.Bits{}, nil, err
		}
	}
	f, err := h.file(id)
	if err != nil {
		return content.Bits{}, nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.opens++
	return f.have.Clone(), h.peers, nil
}

func (h *holder) Closed(s *Session, id content.Digest) { h.closed <- id }

func (h *holder) Pull(p *Pull) {
	ctx, cancel := context.WithCancel(context.Background())
	h.mu.Lock()
	h.pulls[p] = cancel
	h.mu.Unlock()
	go func() {
		h.answer(ctx, p)
		h.mu.Lock()
		defer h.mu.Unlock()
		cancel()
		delete(h.pulls, p)
	}()
}

func (h *holder) Withdrawn(p *Pull) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if cancel := h.pulls[p]; cancel != nil {
		cancel()
	}
}

func (h *holder) answer(ctx context.Context, p *Pull) {
	index := p.First
	if p.Drawn && h.onDraw != nil {
		var err error
		if index, err = h.onDraw(p); err != nil {
			p.Reject(err)
			return
		}
	}
	if h.onReadChunk != nil {
		if err := h.onReadChunk(ctx, index); err != nil {
			p.Reject(err)
			return
		}
	}
	f, err := h.file(p.File)
	if err != nil {
		p.Reject(err)
		return
	}
	n := p.Length
	if p.Drawn {
		n = len(f.chunks[index])
	}
	p.Send(index, n, func(buf []byte) ([]byte, error) {
		if !f.have.Has(index) {
			return nil, ErrNotHeld
		}
		return f.chunks[index], nil
	})
}

func (h *holder) Have(s *Session, id content.Digest, chunks []int) {
	h.mu.Lock()
	if h.heard[id] == nil {
		h.heard[id] = map[int]bool{}
	}
	for _, i := range chunks {
		h.heard[id][i] = true
	}
	h.mu.Unlock()
	h.wake()
}

func (h *holder) Peers(s *Session, id content.Digest, peers []PeerID) {
	h.mu.Lock()
	h.met = append(h.met, peers...)
	h.mu.Unlock()
	h.wake()
}

func (h *holder) wake() {
	select {
	case h.news <- struct{}{}:
	default:
	}
}

// await waits until what the holder has heard satisfies cond.
func (h *holder) await(t *testing.T, cond func() bool) {
	t.Helper()
	for {
		h.mu.Lock()
		ok := cond()
		h.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-h.news:
		case <-t.Context().Done():
			t.Fatal("never heard of it")
		}
	}
}

// couple runs two sessions over the ends of a connection. At the end of the test both are closed and must have come to
// an end without error, unless the test has taken their errors.
type couple struct {
	a, b       *Session
	errA, errB chan error
}

func runPair(t *testing.T, a, b io.ReadWriteCloser, ha, hb Handler, oa, ob Options) *couple {
	t.Helper()
	c := &couple{a: NewSession(a, ha, oa), b: NewSession(b, hb, ob), errA: make(chan error, 1), errB: make(chan error, 1)}
	go func() { c.errA <- c.a.Run(context.Background()) }()
	go func() { c.errB <- c.b.Run(context.Background()) }()
	return c
}

func (c *couple) close(t *testing.T) {
	t.Helper()
	c.a.Close()
	if err := <-c.errA; err != nil {
		t.Errorf("first session: %v", err)
	}
	if err := <-c.errB; err != nil {
		t.Errorf("second session: %v", err)
	}
}

// pipePair runs two sessions over a synchronous pipe, the strictest of streams.
func pipePair(t *testing.T, ha, hb Handler) *couple {
	return pipePairOptions(t, ha, hb, Options{}, Options{})
}

func pipePairOptions(t *testing.T, ha, hb Handler, oa, ob Options) *couple {
	a, b := net.Pipe()
	return runPair(t, a, b, ha, hb, oa, ob)
}
