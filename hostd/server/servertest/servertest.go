// Package servertest is a whole cluster in memory behind the interface of hostd/server, for tests of what
// speaks to it. It really publishes, replicates, exports, loses and heals: bytes go in and the same bytes come
// out, names and digests are the real ones, and a fault that a test injects has the consequences it would have
// in a cluster. Everything happens within the call that asks for it: there is nothing to wait for.
package servertest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/virtswarm/virtswarm/hostd/server"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// ClusterID is the id of every cluster of this package.
const ClusterID = "5f1c9a4e2b7d4c0c8a55e3d9f0a1b2c3"

// secondsWithoutLeader is how long a cluster that lost its leader says it has been without one.
const secondsWithoutLeader = 12

// Host is the host of a cluster that is asked; the others exist as its consequences only. It implements
// server.Host and is safe for concurrent use.
type Host struct {
	mu       sync.Mutex
	hosts    []*member // hosts[0] answers
	names    map[string][]*version
	contents map[string]*blob
	tokens   map[string]bool // token -> used
	index    uint64
	now      time.Time
	noLeader bool
	held     map[string]*Hold
	guests   []*v1.Guest
	strays   []*v1.Stray
}

type member struct {
	id, name string
	state    v1.HostState
	weight   uint32
	labels   map[string]string
	limits   *v1.HostLimits
}

// version is one version of a name.
type version struct {
	name, id  string
	replicas  uint32
	guests    string
	publisher string
	at        int64
	index     uint64
	all       bool            // distributed to all hosts
	targets   map[string]bool // host ids it was distributed to
}

// blob is a content and who holds it: the value says how many chunks of that copy are damaged.
type blob struct {
	manifest *content.Manifest
	data     []byte
	holders  map[string]int
}

// Hold is a place where calls of one operation wait.
type Hold struct {
	host    *Host
	op      string
	arrived chan struct{}
	gone    chan struct{}
	release chan struct{}
	once    sync.Once
}

// Arrived is closed when a call waits.
func (w *Hold) Arrived() <-chan struct{} { return w.arrived }

// Gone is closed when that call has ended without being released, because its caller did.
func (w *Hold) Gone() <-chan struct{} { return w.gone }

// Release lets calls go on, those that come later too.
func (w *Hold) Release() {
	w.host.mu.Lock()
	defer w.host.mu.Unlock()
	if w.host.held[w.op] == w {
		delete(w.host.held, w.op)
		close(w.release)
	}
}

var _ server.Host = (*Host)(nil)

// New returns a cluster of hosts with these names, of which the first is asked.
func New(self string, others ...string) *Host {
	h := &Host{
		names:    make(map[string][]*version),
		contents: make(map[string]*blob),
		tokens:   make(map[string]bool),
		held:     make(map[string]*Hold),
		index:    1,
		now:      time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC),
	}
	for _, name := range append([]string{self}, others...) {
		h.add(name)
	}
	return h
}

func (h *Host) add(name string) *member {
	m := &member{
		id:     content.Sum([]byte(name)).String()[len("b3:"):][:32],
		name:   name,
		state:  v1.HostState_HOST_STATE_ALIVE,
		weight: 100,
		limits: &v1.HostLimits{High: 90, Low: 80},
	}
	h.hosts = append(h.hosts, m)
	h.index++
	return m
}

// Serve puts h on a unix socket, until stop is called, and returns its path.
func Serve(h server.Host) (socket string, stop func(), err error) {
	// Not below a test's own directory: its path may be longer than a socket's can be.
	dir, err := os.MkdirTemp("", "virtswarm")
	if err != nil {
		return "", nil, err
	}
	socket = filepath.Join(dir, "s")
	l, err := server.ListenUnix(socket)
	if err != nil {
		os.RemoveAll(dir)
		return "", nil, err
	}
	reg := prometheus.NewRegistry() // empty: /metrics is there
	setup, _ := h.(server.Setup)
	srv := server.New(server.Config{Host: h, Setup: setup, Logger: hclog.NewNullLogger(), Metrics: reg})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Run(ctx, server.Listeners{Unix: l}) // it fails only if the socket does, as calls will show
	}()
	return socket, func() {
		cancel()
		<-done
		os.RemoveAll(dir)
	}, nil
}

// SetDown takes a host down or brings it back; what it holds is out of reach meanwhile.
func (h *Host) SetDown(name string, down bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	m, err := h.host(name)
	if err != nil {
		return err
	}
	m.state = v1.HostState_HOST_STATE_ALIVE
	if down {
		m.state = v1.HostState_HOST_STATE_DOWN
	}
	h.index++
	h.replicate()
	return nil
}

// SetLeader takes the leader away or brings one back. Without, writes fail and reads are stale.
func (h *Host) SetLeader(present bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.noLeader = !present
}

// SetQuota bounds the bytes of data that this host holds; 0 means no bound.
func (h *Host) SetQuota(bytes uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.self().limits.Quota = bytes
}

// Damage flips a byte in the copy that a host has of the newest version of a file.
func (h *Host) Damage(host, name string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	m, err := h.host(host)
	if err != nil {
		return err
	}
	v, err := h.version(name, "")
	if err != nil {
		return err
	}
	b := h.contents[v.id]
	if _, ok := b.holders[m.id]; !ok {
		return fmt.Errorf("damage %s: %s does not hold it", name, host)
	}
	b.holders[m.id]++
	return nil
}

// Hold makes the next calls of an operation ("publish", "pull", ...) wait after their first event, until they are
// released or their context ends. Only the first of them is told of by Arrived and Gone.
func (h *Host) Hold(op string) *Hold {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := &Hold{host: h, op: op, arrived: make(chan struct{}), gone: make(chan struct{}), release: make(chan struct{})}
	h.held[op] = w
	return w
}

func (h *Host) wait(ctx context.Context, op string) error {
	h.mu.Lock()
	w := h.held[op]
	h.mu.Unlock()
	if w == nil {
		return ctx.Err()
	}
	first := false
	w.once.Do(func() { first = true; close(w.arrived) })
	select {
	case <-w.release:
		return nil
	case <-ctx.Done():
		if first {
			close(w.gone)
		}
		return ctx.Err()
	}
}

// The rest is called with mu held.

func (h *Host) self() *member { return h.hosts[0] }

func (h *Host) host(nameOrID string) (*member, error) {
	for _, m := range h.hosts {
		if m.name == nameOrID || m.id == nameOrID {
			return m, nil
		}
	}
	return nil, reason.Wrap(reason.NoSuchHost, nameOrID, nil)
}

func (h *Host) hostName(id string) string {
	for _, m := range h.hosts {
		if m.id == id {
			return m.name
		}
	}
	return id
}

func (h *Host) alive() []*member {
	return slices.DeleteFunc(slices.Clone(h.hosts), func(m *member) bool { return m.state != v1.HostState_HOST_STATE_ALIVE })
}

// write is the condition of every write.
func (h *Host) write() error {
	if h.noLeader {
		return reason.Wrap(reason.NoLeader, "", nil)
	}
	h.index++
	return nil
}

func (h *Host) staleness() *v1.Staleness {
	s := &v1.Staleness{Index: h.index}
	if h.noLeader {
		s.Stale, s.SecondsWithoutLeader = true, secondsWithoutLeader
	}
	return s
}

// version finds a version of a name: the newest without an id.
func (h *Host) version(name, id string) (*version, error) {
	versions := h.names[name]
	if len(versions) == 0 {
		return nil, reason.Wrap(reason.NotFound, name, nil)
	}
	if id == "" {
		return versions[len(versions)-1], nil
	}
	for _, v := range versions {
		if v.id == id {
			return v, nil
		}
	}
	return nil, reason.Wrap(reason.NotFound, name+"@"+id, nil)
}

// copies counts the undamaged copies on live hosts.
func (h *Host) copies(b *blob) uint32 {
	n := uint32(0)
	for _, m := range h.alive() {
		if bad, ok := b.holders[m.id]; ok && bad == 0 {
			n++
		}
	}
	return n
}

// replicate gives every content the copies that its versions ask for, as far as a copy is alive, and drops
// contents that no version refers to.
func (h *Host) replicate() {
	wanted := make(map[string]bool)
	for _, versions := range h.names {
		for _, v := range versions {
			wanted[v.id] = true
			h.spread(v)
		}
	}
	for id := range h.contents {
		if !wanted[id] {
			delete(h.contents, id)
		}
	}
}

func (h *Host) spread(v *version) {
	b := h.contents[v.id]
	for _, m := range h.alive() {
		n := h.copies(b)
		if n == 0 {
			return
		}
		_, has := b.holders[m.id]
		if !has && (v.replicas == 0 || n < v.replicas || v.all || v.targets[m.id]) {
			b.holders[m.id] = 0
		}
	}
}

func (h *Host) usage(m *member) uint64 {
	n := uint64(0)
	for _, b := range h.contents {
		if _, ok := b.holders[m.id]; ok {
			n += uint64(b.manifest.DataBytes())
		}
	}
	return n
}

// sortedNames returns the names with a prefix in byte order.
func (h *Host) sortedNames(prefix string) []string {
	var names []string
	for name := range h.names {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
