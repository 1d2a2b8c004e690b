package link_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/internal/link"
	"github.com/virtswarm/virtswarm/internal/link/linktest"
)

// needVsock skips a test that needs the vsock of a kernel: on an ordinary machine it would be the way to the machine's
// own hypervisor. The acceptance tests run this package in a guest that has a loopback, and say so.
func needVsock(t testing.TB) {
	t.Helper()
	if os.Getenv("VIRTSWARM_VSOCK") != "loopback" {
		t.Skip("no vsock to test with: VIRTSWARM_VSOCK=loopback is not set, as it is in the nested guest of the acceptance tests")
	}
}

func TestVsockConns(t *testing.T) {
	needVsock(t)
	port := 9000
	vsock := func(t testing.TB) (net.Conn, net.Conn) {
		port++
		return pair(t, rename{"vsock://1", link.OS}, fmt.Sprintf("vsock://:%d", port))
	}
	for name, kind := range map[string]linktest.Kind{
		"vsock":     {Pair: vsock},
		"vsock+tls": {Pair: withTLS(vsock), Sealed: true},
	} {
		t.Run(name, func(t *testing.T) { linktest.Conn(t, kind) })
	}
}

// rename calls at another host than the listener's address says: this machine, for any.
type rename struct {
	host string
	link.Network
}

func (r rename) Dial(ctx context.Context, url string) (net.Conn, error) {
	return r.Network.Dial(ctx, r.host+url[strings.LastIndexByte(url, ':'):])
}

func TestVsockNames(t *testing.T) {
	needVsock(t)
	l, err := link.OS.Listen(t.Context(), "vsock://1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := l.Addr().Network() + "://" + l.Addr().String()
	if !strings.HasPrefix(url, "vsock://1:") || strings.HasSuffix(url, ":0") {
		t.Errorf("listens at %s", url)
	}
	if _, err := link.OS.Listen(t.Context(), url); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), url) {
		t.Errorf("in use: %v", err)
	}
	a, err := link.OS.Dial(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, c := range []net.Conn{a, b} {
		if cid, ok := link.PeerCID(c); cid != 1 || !ok {
			t.Errorf("peer %d, %v", cid, ok)
		}
	}
	done := make(chan error)
	go func() {
		_, err := l.Accept()
		done <- err
	}()
	time.Sleep(20 * time.Millisecond) // it should wait by then; if it does not, it is the other case
	l.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept on a listener that is closed meanwhile: %v", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept on a closed listener: %v", err)
	}
	if _, err := link.OS.Dial(t.Context(), url); err == nil || !strings.Contains(err.Error(), url) {
		t.Errorf("nobody there: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if c, err := link.OS.Dial(ctx, "vsock://77:1"); err == nil {
		t.Errorf("a guest that is not there answers: %v", c.RemoteAddr())
	} else {
		t.Log(err)
	}
}

// TestVsockAddress dials what names nobody; no socket is made.
func TestVsockAddress(t *testing.T) {
	if _, err := link.OS.Dial(t.Context(), "vsock://:7"); !errors.Is(err, link.ErrBadURL) || !strings.Contains(err.Error(), "vsock://:7") {
		t.Error(err)
	}
}
