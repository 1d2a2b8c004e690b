package guest_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/virtswarm/virtswarm/guestagent"
	"github.com/virtswarm/virtswarm/hostd/fetch"
	"github.com/virtswarm/virtswarm/hostd/guest"
	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/hostd/swarm"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/guestlink"
	"github.com/virtswarm/virtswarm/placement"
)

const (
	webUUID = "0b7f6a52-4c43-4d0e-8c4f-1f0f7a3f2f11"
	dbUUID  = "11111111-4c43-4d0e-8c4f-1f0f7a3f2f22"
	hostID  = placement.HostID("00000000000000000000000000000001")
)

// world is a host with a real store and a real catalogue, of one host, and guests that reach it by unix sockets.
type world struct {
	t       testing.TB
	dir     string
	store   *store.Store
	server  *guest.Server
	metrics *prometheus.Registry

	mu      sync.Mutex
	state   *placement.State
	index   uint64
	changed chan struct{}
	domains []placement.Domain
	moved   chan struct{}
	stop    func()
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, dir: t.TempDir(), state: placement.New(), changed: make(chan struct{}), moved: make(chan struct{})}
	st, err := store.Open(store.Options{Dir: filepath.Join(w.dir, "store")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	w.store = st
	w.do(placement.Command{InitCluster: &placement.InitCluster{ID: "test", Host: placement.Host{ID: hostID, Name: "alpha", Addr: "alpha:7117", Weight: 100}}})
	w.domains = []placement.Domain{
		{
			UUID: webUUID, Name: "web-1", State: placement.DomainRunning, Manager: placement.ManagedByLibvirt, Tags: []string{"web"},
			Push: &placement.Push{Quota: 8 << 20, Guests: "tag:web"},
		},
		{UUID: dbUUID, Name: "db-1", State: placement.DomainRunning, Manager: placement.ManagedByLibvirt},
	}
	w.start()
	t.Cleanup(func() { w.stop() })
	return w
}

// start starts the host's end.
func (w *world) start() {
	w.server = guest.New(guest.Config{
		Catalogue: w, Domains: theDomains{w}, Files: fetch.New(fetch.Config{Store: w.store, Swarm: nobody{}}),
		Publisher: w, Plugger: func(placement.Domain) (guest.Plugger, error) { return nil, errors.New("none") }, Host: "alpha",
		Version: "test", Hybrid: []string{filepath.Join(w.dir, "{uuid}.sock")}, ShmDir: w.dir, Logger: w.logger(), Metrics: w.registry(),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.server.Run(ctx)
	}()
	w.stop = func() { cancel(); <-done }
}

func (w *world) registry() prometheus.Registerer {
	w.metrics = prometheus.NewRegistry()
	return w.metrics
}

// metric is a counter's value.
func (w *world) metric(name string) (sum float64) {
	w.t.Helper()
	families, err := w.metrics.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

func (w *world) logger() hclog.Logger {
	if _, fuzzed := w.t.(*testing.F); fuzzed || !testing.Verbose() { // a fuzz target may not log by its F
		return hclog.NewNullLogger()
	}
	return hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: testWriter{w.t}})
}

type testWriter struct{ t testing.TB }

func (t testWriter) Write(p []byte) (int, error) { t.t.Logf("%s", p[:len(p)-1]); return len(p), nil }

func (w *world) do(c placement.Command) placement.Result {
	w.t.Helper()
	r, err := w.apply(c)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) apply(c placement.Command) (placement.Result, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.index++
	r, err := w.state.Apply(w.index, c)
	close(w.changed)
	w.changed = make(chan struct{})
	return r, err
}

func (w *world) View(f func(*placement.State)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(w.state)
}

func (w *world) Changed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

type theDomains struct{ w *world }

func (d theDomains) Local() ([]placement.Domain, bool) {
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	return append([]placement.Domain{}, d.w.domains...), true
}

func (d theDomains) Changed() <-chan struct{} {
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	return d.w.moved
}

// setDomains changes who is here.
func (w *world) setDomains(edit func(list []placement.Domain) []placement.Domain) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.domains = edit(append([]placement.Domain{}, w.domains...))
	close(w.moved)
	w.moved = make(chan struct{})
}

// nobody is a swarm without other hosts.
type nobody struct{}

func (nobody) Manifest(context.Context, content.Digest) (*content.Manifest, error) {
	return nil, swarm.ErrNoHolder
}

func (nobody) Fetch(_ context.Context, f swarm.File, want content.Bits, _ swarm.Priority, _ func(swarm.Progress)) error {
	lack := want.Clone()
	if lack.AndNot(f.Have()); lack.Count() > 0 {
		return swarm.ErrNoHolder
	}
	return nil
}

func (w *world) Receive(ctx context.Context, m *content.Manifest) (*store.File, func(), error) {
	f, err := w.store.Create(ctx, m)
	return f, func() {}, err
}

func (w *world) Publish(_ context.Context, name, guests string, file *store.File, progress func(copies, wanted int)) error {
	if !file.Complete() {
		return errors.New("it is not complete")
	}
	progress(1, 1)
	return w.publishFile(name, guests, file)
}

func (w *world) publishFile(name, guests string, file *store.File) error {
	m := file.Manifest()
	_, err := w.apply(placement.Command{Publish: &placement.Publish{
		Name: name, Guests: guests, ID: file.ID(), Size: m.Size(), DataBytes: m.DataBytes(), ChunkSize: m.ChunkSize(), Shards: max(1, m.Shards()),
		Publisher: hostID, Replicas: 1, At: 1,
	}})
	return err
}

// publish makes a file of bytes.
func (w *world) publish(name, guests string, p []byte) *store.File {
	w.t.Helper()
	f, err := os.CreateTemp(w.dir, "source")
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(p); err != nil {
		w.t.Fatal(err)
	}
	file, err := w.store.Import(context.Background(), f, store.ImportOptions{ChunkSize: content.MinChunkSize})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.publishFile(name, guests, file); err != nil {
		w.t.Fatal(err)
	}
	return file
}

// socket is where a domain's guest reaches the host.
func (w *world) socket(uuid string) string {
	return filepath.Join(w.dir, fmt.Sprintf("%s.sock_%d", uuid, guestlink.Port))
}

func (w *world) agent(uuid string) *guestagent.Agent {
	return &guestagent.Agent{Link: "unix://" + w.socket(uuid), Patience: 20 * time.Second, Version: "test", Logger: w.logger()}
}

// raw is a link that speaks as it likes.
func (w *world) raw(uuid string) net.Conn {
	w.t.Helper()
	var c net.Conn
	eventually(w.t, "the host listens", func() (err error) {
		c, err = net.Dial("unix", w.socket(uuid))
		return err
	})
	w.t.Cleanup(func() { c.Close() })
	return c
}

// session is a link on which both sides have greeted, of a guest that opens streams as it likes.
func (w *world) session(uuid string) *guestlink.Session {
	w.t.Helper()
	c := w.raw(uuid)
	if _, err := guestlink.Greet(c, "test"); err != nil {
		w.t.Fatal(err)
	}
	s, err := guestlink.NewSession(c, guestlink.Config{Guest: true})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { s.Close() })
	return s
}

// stream is a conversation on a stream of a session.
func (w *world) stream(s *guestlink.Session, purpose guestlink.Purpose) *guestlink.Conn {
	w.t.Helper()
	x, err := s.Open(w.t.Context(), purpose)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { x.Close() })
	return guestlink.NewConn(x)
}

// eventually waits until something holds.
func eventually(t testing.TB, what string, holds func() error) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		err := holds()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("never: %s: %v", what, err)
		}
	}
}

func randomBytes(n int) []byte {
	p := make([]byte, n)
	rand.Read(p)
	return p
}

// sparse returns bytes with holes at the beginning, in the middle and at the end.
func sparse(n int) []byte {
	p := randomBytes(n)
	for _, hole := range [][2]int{{0, 200 << 10}, {n / 2, n/2 + 300<<10}, {n - 150<<10, n}} {
		clear(p[hole[0]:hole[1]])
	}
	return p
}

func wantFile(t *testing.T, path string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("%s has %d bytes that are not the %d expected", path, len(got), len(want))
	}
}

// wantCode checks that an error is a word of the host's.
func wantCode(t *testing.T, err error, code guestlink.Code) {
	t.Helper()
	if !errors.Is(err, &guestlink.Failure{Code: code}) {
		t.Fatalf("error %v, want the host's word %q", err, code)
	}
}
