package acceptance

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/virtswarm/virtswarm/internal/api"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/link"
	"github.com/virtswarm/virtswarm/internal/pki"
)

// stranger reaches a host's port as anybody can who has seen its certificate, from an address of its own.
type stranger struct {
	target string
	token  pki.Token // of which only the pin is right
	source string
}

func (s stranger) dial(ctx context.Context) (net.Conn, error) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(s.source)}}
	raw, err := dialer.DialContext(ctx, "tcp", s.target)
	if err != nil {
		return nil, err
	}
	config := pki.JoinClientConfig(s.token)
	config.NextProtos = []string{link.ProtoJoin}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return conn, nil
}

// guess asks to join with tokens that were never made, until ctx ends.
func (s stranger) guess(ctx context.Context, refused *atomic.Int64) {
	for ctx.Err() == nil {
		client := api.NewClient(s.dial)
		for ctx.Err() == nil {
			s.token.ID[0]++
			s.token.ID[1] += s.token.ID[0]
			if _, err := client.Join.Join(ctx, &v1.JoinRequest{Token: s.token.Encode(), Name: "guess"}); err == nil {
				panic("a token that was never made admits a host") // of the product: nothing else matters then
			}
			refused.Add(1)
		}
		client.Close()
	}
}

// dawdle keeps requests open whose bodies never come.
func (s stranger) dawdle(ctx context.Context) {
	for ctx.Err() == nil {
		conn, err := s.dial(ctx)
		if err != nil {
			continue
		}
		fmt.Fprintf(conn, "POST /virtswarm.v1.JoinService/Join HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		conn.Read(make([]byte, 1)) // until the host has had enough
		stop()
		conn.Close()
	}
}

// TestPortUnderAttack: strangers guess tokens and hold requests open, silent connections lie about; a host joins
// meanwhile, the log of Raft hardly grows, and that of the daemon neither.
func TestPortUnderAttack(t *testing.T) {
	l := newLab(t, 1, "")
	first := l.hosts[0]
	honest := strings.TrimSpace(first.must("token").stdout)
	token, err := pki.ParseToken(honest)
	l.check(err)
	token.Secret = [32]byte{1}
	before, size := first.applied(), fileSize(l, first.name+".log")

	ctx, cancel := context.WithCancel(context.Background())
	var attack sync.WaitGroup
	defer attack.Wait()
	defer cancel()
	var refused atomic.Int64
	for i := range 4 {
		s := stranger{target: first.addr, token: token, source: fmt.Sprintf("127.201.%d.1", i)}
		attack.Go(func() { s.guess(ctx, &refused) })
	}
	for i := range 32 {
		s := stranger{target: first.addr, token: token, source: fmt.Sprintf("127.202.%d.1", i%2)}
		attack.Go(func() { s.dawdle(ctx) })
	}
	for range 200 { // more come than a port takes at a time
		if conn, err := net.Dial("tcp", first.addr); err == nil {
			defer conn.Close()
		}
	}
	l.await("the attack is under way", func() bool { return refused.Load() > 500 })
	h := l.newHost("h2", strings.Replace(first.addr, ".1:", ".2:", 1))
	h.start("--join", first.addr, "--token", honest)
	first.must("publish", l.random("a", 1000, 1), "a")
	h.must("pull", "a", l.out("a"))
	guesses := refused.Load()
	cancel()
	attack.Wait()
	if grown := first.applied() - before; grown > 100 {
		t.Errorf("%d guesses, and the log of Raft has %d entries more", guesses, grown)
	}
	if grown := fileSize(l, first.name+".log") - size; grown > 1<<20 {
		t.Errorf("%d guesses, and the daemon's log is %d bytes longer", guesses, grown)
	}
	t.Logf("%d guesses were refused meanwhile", guesses)
}

// applied is the index up to which a host has carried out the log.
func (h *host) applied() uint64 {
	h.lab.t.Helper()
	var s struct {
		Applied uint64 `json:"applied_index"`
	}
	h.json(&s, "status")
	return s.Applied
}

func fileSize(l *lab, name string) int64 {
	l.t.Helper()
	fi, err := os.Stat(filepath.Join(l.dir, name))
	l.check(err)
	return fi.Size()
}
