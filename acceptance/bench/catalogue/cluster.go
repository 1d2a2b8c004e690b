package catalogue

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/raft"
)

// bench is a cluster in this process, and where its figures go.
type bench struct {
	rows map[string]string // what was printed
	o    options
	dir  string
	out  *tabwriter.Writer

	mu    sync.Mutex
	nodes map[placement.HostID]*raft.Node
	addrs map[placement.HostID]string
}

// stream is a host's Raft port: plain TCP on loopback.
type stream struct{ net.Listener }

// Dial implements raft.Stream. Nobody proves who he is here.
func (stream) Dial(ctx context.Context, addr string, _ placement.HostID) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", addr)
}

// forwarder calls other nodes without a network: what that costs is the API's, not the catalogue's.
type forwarder struct{ b *bench }

// Forward implements raft.Forwarder.
func (f forwarder) Forward(ctx context.Context, host placement.HostID, _, op string, payload []byte) ([]byte, error) {
	f.b.mu.Lock()
	n := f.b.nodes[host]
	f.b.mu.Unlock()
	if n == nil {
		return nil, errors.New("the host is down")
	}
	return n.HandleForward(ctx, op, payload)
}

func hostID(i int) placement.HostID { return placement.HostID(fmt.Sprintf("%032x", i+1)) }

// start opens the i-th host, at the address that it had before if there was one.
func (b *bench) start(i int) (*raft.Node, error) {
	id := hostID(i)
	b.mu.Lock()
	addr := b.addrs[id]
	b.mu.Unlock()
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	b.addrs[id] = l.Addr().String()
	b.mu.Unlock()
	n, err := raft.Open(raft.Config{
		ID: id, Dir: b.dirOf(i), Stream: stream{l}, Forwarder: forwarder{b}, Advertise: l.Addr().String(), Bootstrap: i == 0,
		HostTimeout: time.Hour, // fifty hosts on one machine may be slow; that none dies is no part of this
	})
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	b.nodes[id] = n
	b.mu.Unlock()
	return n, nil
}

func (b *bench) dirOf(i int) string { return filepath.Join(b.dir, fmt.Sprintf("host%03d", i)) }

func (b *bench) node(i int) *raft.Node {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.nodes[hostID(i)]
}

func (b *bench) stop(i int) error {
	n := b.node(i)
	b.mu.Lock()
	delete(b.nodes, hostID(i))
	b.mu.Unlock()
	return n.Close()
}

func (b *bench) close() {
	var closing sync.WaitGroup
	for _, n := range b.nodes {
		closing.Go(func() { n.Close() })
	}
	closing.Wait()
}

// grow makes the cluster.
func (b *bench) grow(ctx context.Context) error {
	b.nodes, b.addrs = map[placement.HostID]*raft.Node{}, map[placement.HostID]string{}
	first, err := b.start(0)
	if err != nil {
		return err
	}
	now := time.Now().Unix()
	_, err = first.Apply(ctx, placement.Command{InitCluster: &placement.InitCluster{ID: "bench", Host: b.describe(0), Now: now}})
	for i := 1; i < b.o.hosts && err == nil; i++ {
		err = b.admit(ctx, i)
	}
	return err
}

func (b *bench) describe(i int) placement.Host {
	b.mu.Lock()
	defer b.mu.Unlock()
	return placement.Host{ID: hostID(i), Name: fmt.Sprintf("hv%03d", i), Addr: b.addrs[hostID(i)]}
}

// admit starts the i-th host, makes it a member, and waits until it has caught up.
func (b *bench) admit(ctx context.Context, i int) error {
	n, err := b.start(i)
	if err != nil {
		return err
	}
	token, now := fmt.Sprintf("%08x", i), time.Now().Unix()
	for _, c := range []placement.Command{
		{CreateToken: &placement.CreateToken{ID: token, Hash: fmt.Sprintf("%064x", i), Expires: now + 3600, Now: now}},
		{AddHost: &placement.AddHost{Host: b.describe(i), TokenID: token, Now: now}},
	} {
		if _, err := b.node(0).Apply(ctx, c); err != nil {
			return err
		}
	}
	return b.current(ctx, n)
}

// current waits until a node has everything that the cluster acknowledged.
func (b *bench) current(ctx context.Context, n *raft.Node) error {
	var index uint64
	for _, other := range b.nodes {
		index = max(index, other.AppliedIndex())
	}
	for n.AppliedIndex() < index {
		select {
		case <-n.Changed():
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// diskUse sums up the files below a directory.
func diskUse(dir string) (bytes uint64) {
	filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			if fi, err := d.Info(); err == nil {
				bytes += uint64(fi.Size())
			}
		}
		return nil
	})
	return bytes
}
