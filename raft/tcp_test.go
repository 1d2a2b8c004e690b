package raft

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/virtswarm/virtswarm/placement"
)

// tcpStream is Stream over loopback, without certificates.
type tcpStream struct{ net.Listener }

func (tcpStream) Dial(ctx context.Context, addr string, _ placement.HostID) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", addr)
}

// table forwards by a table that is complete before anybody asks.
type table map[placement.HostID]func() *Node

func (f table) Forward(ctx context.Context, host placement.HostID, _, op string, payload []byte) ([]byte, error) {
	node := f[host]()
	if node == nil {
		return nil, net.ErrClosed
	}
	return node.HandleForward(ctx, op, payload)
}

// TestOverTCP runs three hosts in real time over real sockets.
func TestOverTCP(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	registry := prometheus.NewRegistry()
	nodes := make(map[placement.HostID]chan *Node) // a node is put there when it is open
	forward := table{}
	for n := 1; n <= 3; n++ {
		slot := make(chan *Node, 1)
		nodes[hostID(n)] = slot
		forward[hostID(n)] = func() *Node {
			select {
			case node := <-slot:
				slot <- node
				return node
			default:
				return nil
			}
		}
	}
	var hosts []placement.Host
	open := func(n int) *Node {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		h := placement.Host{ID: hostID(n), Name: fmt.Sprint("h", n), Addr: l.Addr().String()}
		hosts = append(hosts, h)
		cfg := Config{
			ID: h.ID, Dir: t.TempDir(), Stream: tcpStream{l}, Advertise: h.Addr, Forwarder: forward, Bootstrap: n == 1,
			Timing: Timing{Heartbeat: 300 * time.Millisecond, Reconcile: 100 * time.Millisecond, Stabilize: 100 * time.Millisecond},
		}
		if n == 1 {
			cfg.Metrics = registry
		}
		node, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := node.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
		nodes[h.ID] <- node
		return node
	}
	apply := func(node *Node, c placement.Command) {
		t.Helper()
		if _, err := node.Apply(ctx, c); err != nil {
			t.Fatal(err)
		}
	}
	first := open(1)
	apply(first, placement.Command{InitCluster: &placement.InitCluster{ID: "test", Host: hosts[0], Now: 1}})
	for n := 2; n <= 3; n++ {
		node := open(n)
		token := fmt.Sprintf("%08d", n)
		apply(first, placement.Command{CreateToken: &placement.CreateToken{ID: token, Hash: strings.Repeat("a", 64), Expires: 1 << 40, Now: 1}})
		apply(first, placement.Command{AddHost: &placement.AddHost{Host: hosts[n-1], TokenID: token, Now: 1}})
		apply(node, file(fmt.Sprint("from", n), n))
		if err := first.ReadIndex(ctx); err != nil {
			t.Fatal(err)
		}
		if !first.has(fmt.Sprint("from", n)) {
			t.Errorf("host 1 does not see what host %d wrote", n)
		}
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	figures := map[string]float64{}
	for _, f := range families {
		figures[f.GetName()] = f.GetMetric()[0].GetGauge().GetValue()
	}
	applied, committed := figures["virtswarm_raft_applied_index"], figures["virtswarm_raft_commit_index"]
	if applied == 0 || committed == 0 || figures["virtswarm_raft_term"] == 0 {
		t.Errorf("metrics %v", figures)
	}
}
