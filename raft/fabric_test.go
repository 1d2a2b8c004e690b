package raft

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/disk/disktest"
	"github.com/virtswarm/virtswarm/placement"
)

// fabric is a network in memory, so that clusters run in a synctest bubble.
type fabric struct {
	mu     sync.Mutex
	stops  map[string]*memStream           // by address
	groups map[placement.HostID]int        // hosts of different groups do not reach one another
	conns  map[*memConn]struct{}           // open ones
	nodes  map[placement.HostID]*Node      // for forwarding
	wrong  map[placement.HostID]error      // what the others answer to a host
	after  func(op string, p []byte) error // spoils an answer that is on its way back
}

func newFabric() *fabric {
	return &fabric{
		stops: map[string]*memStream{}, groups: map[placement.HostID]int{}, conns: map[*memConn]struct{}{},
		nodes: map[placement.HostID]*Node{}, wrong: map[placement.HostID]error{},
	}
}

var errCut = errors.New("network unreachable (injected)")

// split puts hosts into a group of their own and cuts the connections to others.
func (f *fabric) split(group int, hosts ...placement.HostID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, h := range hosts {
		f.groups[h] = group
	}
	for c := range f.conns {
		if f.groups[c.from] != f.groups[c.to] {
			go c.Close()
		}
	}
}

// reach says whether one host may speak to another; the lock is held.
func (f *fabric) reach(from, to placement.HostID) error {
	if err := f.wrong[from]; err != nil {
		return err
	}
	if f.groups[from] != f.groups[to] {
		return errCut
	}
	return nil
}

// Forward implements Forwarder for one host.
type forwarder struct {
	f    *fabric
	self placement.HostID
}

func (w forwarder) Forward(ctx context.Context, host placement.HostID, addr, op string, payload []byte) ([]byte, error) {
	w.f.mu.Lock()
	err := w.f.reach(w.self, host)
	node, stop := w.f.nodes[host], w.f.stops[addr]
	after := w.f.after
	w.f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if node == nil || stop == nil || stop.host != host {
		return nil, errCut
	}
	p, err := node.HandleForward(ctx, op, payload)
	if err == nil && after != nil {
		err = after(op, p)
	}
	return p, err
}

// memStream is a host's place in the fabric: Stream.
type memStream struct {
	f      *fabric
	host   placement.HostID
	addr   string
	accept chan net.Conn
	done   chan struct{}
	once   sync.Once
}

func (f *fabric) stream(host placement.HostID, addr string) *memStream {
	s := &memStream{f: f, host: host, addr: addr, accept: make(chan net.Conn), done: make(chan struct{})}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stops[addr] = s
	return s
}

func (s *memStream) Accept() (net.Conn, error) {
	select {
	case c := <-s.accept:
		return c, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

func (s *memStream) Addr() net.Addr { return raftAddr(s.addr) }

func (s *memStream) Close() error {
	s.once.Do(func() {
		close(s.done)
		s.f.mu.Lock()
		defer s.f.mu.Unlock()
		if s.f.stops[s.addr] == s {
			delete(s.f.stops, s.addr)
		}
	})
	return nil
}

func (s *memStream) Dial(ctx context.Context, addr string, host placement.HostID) (net.Conn, error) {
	s.f.mu.Lock()
	to := s.f.stops[addr]
	err := s.f.reach(s.host, host)
	s.f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if to == nil || to.host != host {
		return nil, errCut
	}
	here, there := net.Pipe()
	a := &memConn{Conn: here, f: s.f, from: s.host, to: host}
	b := &memConn{Conn: there, f: s.f, from: host, to: s.host}
	s.f.mu.Lock()
	s.f.conns[a], s.f.conns[b] = struct{}{}, struct{}{}
	s.f.mu.Unlock()
	select {
	case to.accept <- b:
		return a, nil
	case <-to.done:
	case <-ctx.Done():
	}
	return nil, errors.Join(errCut, a.Close(), b.Close())
}

type memConn struct {
	net.Conn
	f        *fabric
	from, to placement.HostID
}

func (c *memConn) Write(p []byte) (int, error) {
	c.f.mu.Lock()
	cut := c.f.groups[c.from] != c.f.groups[c.to]
	c.f.mu.Unlock()
	if cut {
		return 0, errCut
	}
	return c.Conn.Write(p)
}

func (c *memConn) Close() error {
	c.f.mu.Lock()
	delete(c.f.conns, c)
	c.f.mu.Unlock()
	return c.Conn.Close()
}

// cluster is hosts on a fabric. Its methods fail the test.
type cluster struct {
	t      *testing.T
	fabric *fabric
	dir    string
	hosts  map[placement.HostID]*member
	tokens int
}

type member struct {
	id    placement.HostID
	addr  string
	node  *Node // nil while down
	fault *disktest.Fault
	lives int
}

// bubble runs a test with a cluster in a synctest bubble: time passes when everybody waits.
func bubble(t *testing.T, f func(t *testing.T, c *cluster)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{t: t, fabric: newFabric(), dir: dir, hosts: map[placement.HostID]*member{}}
		defer c.closeAll()
		f(t, c)
	})
}

// hostID makes the n-th host's id.
func hostID(n int) placement.HostID { return placement.HostID(fmt.Sprintf("%032x", n)) }

func (c *cluster) closeAll() {
	for _, m := range c.hosts {
		if m.node != nil {
			if err := m.node.Close(); err != nil && !m.fault.Killed() {
				c.t.Errorf("close %s: %v", m.id, err)
			}
		}
	}
}

// start starts host n, for the first time or again, at its address.
func (c *cluster) start(n int, tweaks ...func(*Config)) *Node {
	c.t.Helper()
	node, err := c.tryStart(n, tweaks...)
	if err != nil {
		c.t.Fatalf("start host %d: %v", n, err)
	}
	return node
}

func (c *cluster) tryStart(n int, tweaks ...func(*Config)) (*Node, error) {
	m := c.hosts[hostID(n)]
	if m == nil {
		m = &member{id: hostID(n), addr: fmt.Sprintf("host%d:1", n)}
		c.hosts[m.id] = m
	}
	m.lives++
	fault, err := disktest.NewFault(disk.OS{}, filepath.Join(c.dir, fmt.Sprintf("attic-%d-%d", n, m.lives)), uint64(n))
	if err != nil {
		return nil, err
	}
	m.fault = fault
	cfg := Config{
		ID: m.id, Dir: c.hostDir(n), Stream: c.fabric.stream(m.id, m.addr), Advertise: m.addr,
		Forwarder: forwarder{c.fabric, m.id}, Bootstrap: n == 1,
		FS:      disktest.Ghost{FS: fault, Vote: "/vote", Silence: func() { c.cutOff(n) }},
		Refused: func(err error) bool { return errors.Is(err, errRefused) },
		Logger:  hclog.NewNullLogger(),
	}
	if testing.Verbose() {
		cfg.Logger = hclog.New(&hclog.LoggerOptions{Name: fmt.Sprint("host", n), Level: hclog.Debug, Output: logWriter{c.t}})
	}
	for _, tweak := range tweaks {
		tweak(&cfg)
	}
	node, err := Open(cfg)
	if err != nil {
		return nil, err
	}
	m.node = node
	c.fabric.mu.Lock()
	c.fabric.nodes[m.id] = node
	c.fabric.mu.Unlock()
	return node, nil
}

var errRefused = errors.New("not a member (injected)")

type logWriter struct{ t *testing.T }

func (w logWriter) Write(p []byte) (int, error) { w.t.Logf("%s", p[:len(p)-1]); return len(p), nil }

func (c *cluster) hostDir(n int) string { return filepath.Join(c.dir, fmt.Sprint("host", n)) }

func (c *cluster) node(n int) *Node { return c.hosts[hostID(n)].node }

// stop stops host n in good order, kill as if its process were killed: nothing more reaches the disk or the network.
func (c *cluster) stop(n int) {
	c.t.Helper()
	m := c.hosts[hostID(n)]
	c.vanish(m)
	if err := m.node.Close(); err != nil {
		c.t.Fatalf("close host %d: %v", n, err)
	}
	m.node = nil
}

func (c *cluster) kill(n int) {
	c.t.Helper()
	c.cutOff(n)
	c.hosts[hostID(n)].fault.Kill()
	c.bury(n)
}

// powerOff is kill, and loses of the disk what was not synced.
func (c *cluster) powerOff(n int) {
	c.t.Helper()
	c.cutOff(n)
	if err := c.hosts[hostID(n)].fault.PowerOff(); err != nil {
		c.t.Fatalf("power off host %d: %v", n, err)
	}
	c.bury(n)
}

// cutOff is what comes before a death: what the host says while it dies reaches nobody.
func (c *cluster) cutOff(n int) { c.fabric.split(1000+n, hostID(n)) }

func (c *cluster) bury(n int) {
	m := c.hosts[hostID(n)]
	c.vanish(m)
	_ = m.node.Close()
	m.node = nil
	c.fabric.split(0, m.id)
}

func (c *cluster) vanish(m *member) {
	c.fabric.mu.Lock()
	defer c.fabric.mu.Unlock()
	delete(c.fabric.nodes, m.id)
}

// ctx is a context that is patient.
func (c *cluster) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	c.t.Cleanup(cancel)
	return ctx
}

func (c *cluster) apply(n int, cmd placement.Command) placement.Result {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r, err := c.node(n).Apply(ctx, cmd)
	if err != nil {
		c.t.Fatalf("apply %s at host %d: %v", cmd.Kind(), n, err)
	}
	return r
}

func (c *cluster) describe(n int) placement.Host {
	return placement.Host{ID: hostID(n), Name: fmt.Sprint("h", n), Addr: fmt.Sprintf("host%d:1", n)}
}

// found starts host 1 and makes the cluster.
func (c *cluster) found(tweaks ...func(*Config)) {
	c.t.Helper()
	c.start(1, tweaks...)
	c.apply(1, placement.Command{InitCluster: &placement.InitCluster{ID: "test", Host: c.describe(1), Now: 1}})
}

// join admits host n by way of host via, and starts it.
func (c *cluster) join(via, n int, tweaks ...func(*Config)) {
	c.t.Helper()
	c.admit(via, n)
	c.start(n, tweaks...)
}

func (c *cluster) admit(via, n int) {
	c.t.Helper()
	c.tokens++
	token := fmt.Sprintf("%08x", c.tokens)
	c.apply(via, placement.Command{CreateToken: &placement.CreateToken{ID: token, Hash: fmt.Sprintf("%064x", 1), Expires: 1 << 40, Now: 1}})
	c.apply(via, placement.Command{AddHost: &placement.AddHost{Host: c.describe(n), TokenID: token, Now: 1}})
}

// grow founds a cluster of n hosts and waits until it has settled.
func (c *cluster) grow(n int, tweaks ...func(*Config)) {
	c.t.Helper()
	c.found(tweaks...)
	for i := 2; i <= n; i++ {
		c.join(i-1, i, tweaks...)
	}
	want := map[int]int{1: 1, 2: 1, 3: 3, 4: 3}[n]
	if n >= 5 {
		want = 5
	}
	c.eventually(fmt.Sprintf("%d hosts, %d voters", n, want), func() bool {
		s := c.node(1).Status()
		return len(s.Voters) == want && len(s.Voters)+len(s.Nonvoters) == n
	})
}

// eventually waits for a condition, in the bubble's time.
func (c *cluster) eventually(what string, ok func() bool) time.Duration {
	c.t.Helper()
	begin := time.Now()
	for time.Since(begin) < 2*time.Minute {
		if ok() {
			return time.Since(begin)
		}
		time.Sleep(50 * time.Millisecond) // in a bubble: until everybody waits
	}
	for _, m := range c.hosts {
		if m.node != nil {
			c.t.Logf("%s: %+v", m.id[28:], m.node.Status())
		}
	}
	c.t.Fatalf("never: %s", what)
	return 0
}

// leader waits for a leader among the hosts that are up, and returns its number.
func (c *cluster) leader(except ...int) int {
	c.t.Helper()
	leader := 0
	c.eventually("a leader", func() bool {
		for n := 1; n <= len(c.hosts); n++ {
			if m := c.hosts[hostID(n)]; m != nil && m.node != nil && !slices.Contains(except, n) && m.node.Status().Role == Leader {
				leader = n
				return true
			}
		}
		return false
	})
	return leader
}

// up returns the numbers of the hosts that are up.
func (c *cluster) up() (list []int) {
	for n := 1; n < 100; n++ {
		if m := c.hosts[hostID(n)]; m != nil && m.node != nil {
			list = append(list, n)
		}
	}
	return list
}
