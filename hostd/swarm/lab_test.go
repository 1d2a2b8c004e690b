package swarm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/wire"
	"github.com/virtswarm/virtswarm/placement"
)

const testChunk = 64 << 10

// lab is a network of real swarms over real stores, joined by pipes: inside a synctest bubble, so that rates and
// timeouts cost no time.
type lab struct {
	t  *testing.T
	wg sync.WaitGroup // of Serve

	mu      sync.Mutex
	hosts   map[placement.HostID]*labHost
	holders map[content.Digest][]placement.HostID // the common catalogue
	places  map[placement.HostID]Place
}

// labHost is one host.
type labHost struct {
	*Swarm
	lab   *lab
	id    placement.HostID
	dir   string
	store *store.Store

	// Directory, if set, is what this host's catalogue says instead of the common one.
	catalogue func(content.Digest) []placement.HostID
	spoil     atomic.Bool              // serve wrong bytes
	broken    atomic.Pointer[error]    // what WriteChunk says
	down      atomic.Bool              // refuses connections
	uplink    chan struct{}            // one token: a host sends one piece after the other
	rate      atomic.Int64             // bytes a second out; 0 is no limit
	shaking   time.Duration            // that a handshake takes whom this host dials
	thaw      atomic.Pointer[chan any] // while it is frozen: closed when it goes on
	crossed   atomic.Int64             // bytes of chunks sent to other racks
	written   []int                    // chunks in the order in which they were stored
	writtenMu sync.Mutex

	connsMu sync.Mutex
	conns   []net.Conn
}

func newLab(t *testing.T) *lab {
	l := &lab{t: t, hosts: map[placement.HostID]*labHost{}, holders: map[content.Digest][]placement.HostID{},
		places: map[placement.HostID]Place{}}
	return l
}

// close stops everything; whatever still runs then keeps the bubble from ending.
func (l *lab) close() {
	for _, h := range l.hosts {
		h.stop()
	}
	l.wg.Wait()
}

// host starts a host with an empty store.
func (l *lab) host(n int) *labHost {
	h := &labHost{lab: l, id: labID(n), dir: filepath.Join(l.t.TempDir(), "store"), uplink: make(chan struct{}, 1)}
	h.start()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hosts[h.id] = h
	return h
}

func labID(n int) placement.HostID {
	return placement.HostID(fmt.Sprintf("%016x%016x", plan.Mix(uint64(n)), n))
}

func (h *labHost) start() {
	h.lab.t.Helper()
	var err error
	if h.store, err = store.Open(store.Options{Dir: h.dir}); err != nil {
		h.lab.t.Fatal(err)
	}
	h.Swarm, err = New(Config{Self: h.id, Store: h, Directory: h, Dialer: h, Metrics: prometheus.NewRegistry()})
	if err != nil {
		h.lab.t.Fatal(err)
	}
}

func (h *labHost) stop() {
	if h.Swarm == nil {
		return
	}
	h.resume()
	if err := errors.Join(h.Swarm.Close(), h.store.Close()); err != nil {
		h.lab.t.Errorf("stop host: %v", err)
	}
	h.Swarm = nil
}

// kill ends a host's network at once: no goodbye, and nobody reaches it any more.
func (h *labHost) kill() {
	h.down.Store(true)
	h.connsMu.Lock()
	defer h.connsMu.Unlock()
	for _, c := range h.conns {
		c.Close()
	}
}

// freeze makes a host neither read nor write, as SIGSTOP does; resume ends that.
func (h *labHost) freeze() {
	c := make(chan any)
	h.thaw.Store(&c)
}

func (h *labHost) resume() {
	if c := h.thaw.Swap(nil); c != nil {
		close(*c)
	}
}

// Holders implements Directory.
func (h *labHost) Holders(file content.Digest) []placement.HostID {
	if h.catalogue != nil {
		return h.catalogue(file)
	}
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	return append([]placement.HostID(nil), h.lab.holders[file]...)
}

// Place implements Directory.
func (h *labHost) Place(host placement.HostID) Place {
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	return h.lab.places[host]
}

// Dial implements Dialer.
func (h *labHost) Dial(_ context.Context, host placement.HostID) (net.Conn, error) {
	h.lab.mu.Lock()
	peer := h.lab.hosts[host]
	h.lab.mu.Unlock()
	time.Sleep(h.shaking)
	if peer == nil || peer.down.Load() || h.down.Load() {
		return nil, errors.New("connection refused")
	}
	a, b := net.Pipe()
	near, far := h.conn(a, host), peer.conn(b, h.id)
	s := peer.Swarm
	h.lab.wg.Go(func() { s.Serve(context.Background(), far, h.id) })
	return near, nil
}

func (h *labHost) conn(c net.Conn, peer placement.HostID) net.Conn {
	h.connsMu.Lock()
	defer h.connsMu.Unlock()
	h.conns = append(h.conns, c)
	return &labConn{Conn: c, host: h, crosses: h.Place(h.id) != h.Place(peer), closed: make(chan struct{})}
}

// limit sets the rates at which hosts send, in bytes a second.
func limit(rate int64, hosts ...*labHost) {
	for _, h := range hosts {
		h.rate.Store(rate)
	}
}

// labConn sends at its host's rate.
type labConn struct {
	net.Conn
	host    *labHost
	crosses bool
	once    sync.Once
	closed  chan struct{}
}

func (c *labConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func (c *labConn) frozen() error {
	if thaw := c.host.thaw.Load(); thaw != nil {
		select {
		case <-*thaw:
		case <-c.closed:
			return net.ErrClosed
		}
	}
	return nil
}

func (c *labConn) Read(p []byte) (int, error) {
	if err := c.frozen(); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c *labConn) Write(p []byte) (int, error) {
	if rate := c.host.rate.Load(); rate > 0 {
		c.host.uplink <- struct{}{}
		time.Sleep(time.Duration(float64(len(p)) / float64(rate) * 1e9))
		<-c.host.uplink
	}
	if err := c.frozen(); err != nil {
		return 0, err
	}
	if c.crosses {
		c.host.crossed.Add(int64(len(p)))
	}
	return c.Conn.Write(p)
}

// Get implements Store, with the host's faults.
func (h *labHost) Get(id content.Digest) (File, bool) {
	f, ok := h.store.Get(id)
	return labFile{f, h}, ok
}

type labFile struct {
	*store.File
	host *labHost
}

func (f labFile) Manifest() *content.Manifest {
	m := f.File.Manifest()
	if f.host.spoil.Load() {
		m, _ = content.NewManifest(m.Size(), m.ChunkSize(), make([]content.Digest, m.Chunks())) // zeros
	}
	return m
}

func (f labFile) ReadChunk(i int, buf []byte) ([]byte, error) {
	p, err := f.File.ReadChunk(i, buf)
	if err == nil && f.host.spoil.Load() {
		p[len(p)/2] ^= 1
	}
	return p, err
}

func (f labFile) WriteChunk(i int, p []byte) error {
	if err := f.host.broken.Load(); err != nil {
		return *err
	}
	err := f.File.WriteChunk(i, p)
	if err == nil {
		f.host.writtenMu.Lock()
		f.host.written = append(f.host.written, i)
		f.host.writtenMu.Unlock()
	}
	return err
}

// order returns the chunks stored so far.
func (h *labHost) order() []int {
	h.writtenMu.Lock()
	defer h.writtenMu.Unlock()
	return append([]int(nil), h.written...)
}

// publish imports random bytes at a host and tells the common catalogue.
func (h *labHost) publish(chunks int) content.Digest {
	h.lab.t.Helper()
	p := make([]byte, chunks*testChunk-100)
	rand.NewChaCha8([32]byte{byte(chunks)}).Read(p)
	return h.publishBytes(p)
}

func (h *labHost) publishBytes(p []byte) content.Digest {
	h.lab.t.Helper()
	path := filepath.Join(h.lab.t.TempDir(), "source")
	if err := os.WriteFile(path, p, 0o600); err != nil {
		h.lab.t.Fatal(err)
	}
	return h.publishFile(path)
}

func (h *labHost) publishFile(path string) content.Digest {
	h.lab.t.Helper()
	src, err := os.Open(path)
	if err != nil {
		h.lab.t.Fatal(err)
	}
	defer src.Close()
	f, err := h.store.Import(context.Background(), src, store.ImportOptions{ChunkSize: testChunk})
	if err != nil {
		h.lab.t.Fatal(err)
	}
	h.lab.holds(f.ID(), h)
	return f.ID()
}

// holds tells the common catalogue.
func (l *lab) holds(id content.Digest, hosts ...*labHost) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range hosts {
		l.holders[id] = append(l.holders[id], h.id)
	}
}

// file returns the host's copy, complete or not.
func (h *labHost) file(id content.Digest) File {
	h.lab.t.Helper()
	if f, ok := h.Get(id); ok {
		return f
	}
	m, err := h.Manifest(context.Background(), id)
	if err != nil {
		h.lab.t.Fatalf("manifest: %v", err)
	}
	if _, err := h.store.Create(context.Background(), m); err != nil {
		h.lab.t.Fatal(err)
	}
	f, _ := h.Get(id)
	return f
}

// fetch fetches all of a file and checks every byte against the manifest.
func (h *labHost) fetch(id content.Digest) error {
	f := h.file(id)
	if err := h.Fetch(context.Background(), f, content.Bits{}, Distribute, nil); err != nil {
		return err
	}
	return whole(f)
}

// mustFetch is fetch in the background; the result is checked by the function returned.
func (h *labHost) mustFetch(id content.Digest) (wait func()) {
	h.lab.t.Helper()
	f := h.file(id)
	done := make(chan error, 1)
	go func() { done <- h.Fetch(context.Background(), f, content.Bits{}, Distribute, nil) }()
	return func() {
		h.lab.t.Helper()
		if err := <-done; err != nil {
			h.lab.t.Errorf("fetch: %v", err)
			return
		}
		if err := whole(f); err != nil {
			h.lab.t.Error(err)
		}
	}
}

// whole reads all chunks, which verifies them.
func whole(f File) error {
	for i := range f.Manifest().Chunks() {
		if _, err := f.ReadChunk(i, nil); err != nil {
			return fmt.Errorf("after the fetch: %w", err)
		}
	}
	return nil
}

// seedAll gives a complete copy to more hosts.
func (l *lab) seedAll(id content.Digest, hosts ...*labHost) {
	l.t.Helper()
	for _, h := range hosts {
		if err := h.fetch(id); err != nil {
			l.t.Fatal(err)
		}
		l.holds(id, h)
	}
}

// sent returns how many chunks a host gave to others, got how many it took.
func (h *labHost) sent() int { return int(testutil.ToFloat64(h.metrics.chunksOut)) }
func (h *labHost) got() int  { return int(testutil.ToFloat64(h.metrics.chunksIn)) }

// sessions returns how many sessions a host has.
func (h *labHost) sessions() int { return int(testutil.ToFloat64(h.metrics.sessions)) }

// chunks is a set of chunks of a file.
func chunks(f File, which ...int) content.Bits {
	b := content.NewBits(f.Manifest().Chunks())
	for _, c := range which {
		b.Set(c)
	}
	return b
}

// until waits, in the bubble's time, for something to become true.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 100_000 {
		if ok() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

func mustPeer(id placement.HostID) wire.PeerID {
	p, err := wire.ParsePeerID(string(id))
	if err != nil {
		panic(err)
	}
	return p
}
