package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/virtswarm/virtswarm/internal/link/linktest"
)

// needVsock skips a test that needs the vsock of a kernel: on an ordinary machine it would be the way to the machine's own
// hypervisor. The acceptance tests run this package in a guest that has a loopback, and say so.
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
		return pair(t, rename{"vsock://1", OS}, fmt.Sprintf("vsock://:%d", port))
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
	Network
}

func (r rename) Dial(ctx context.Context, url string) (net.Conn, error) {
	return r.Network.Dial(ctx, r.host+url[strings.LastIndexByte(url, ':'):])
}

func TestVsockNames(t *testing.T) {
	needVsock(t)
	l, err := OS.Listen(t.Context(), "vsock://1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := l.Addr().Network() + "://" + l.Addr().String()
	if !strings.HasPrefix(url, "vsock://1:") || strings.HasSuffix(url, ":0") {
		t.Errorf("listens at %s", url)
	}
	if _, err := OS.Listen(t.Context(), url); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), url) {
		t.Errorf("in use: %v", err)
	}
	a, err := OS.Dial(t.Context(), url)
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
		if cid, ok := PeerCID(c); cid != 1 || !ok {
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
	if _, err := OS.Dial(t.Context(), url); err == nil || !strings.Contains(err.Error(), url) {
		t.Errorf("nobody there: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if c, err := OS.Dial(ctx, "vsock://77:1"); err == nil {
		t.Errorf("a guest that is not there answers: %v", c.RemoteAddr())
	} else {
		t.Log(err)
	}
}

// TestVsockAddress dials what names nobody; no socket is made.
func TestVsockAddress(t *testing.T) {
	if _, err := OS.Dial(t.Context(), "vsock://:7"); !errors.Is(err, ErrBadURL) || !strings.Contains(err.Error(), "vsock://:7") {
		t.Error(err)
	}
}

// TestVsockInMemory calls the host as guests do, in tests without a kernel's vsock.
func TestVsockInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewFabric()
		l, err := f.Plug("host").Listen(t.Context(), "vsock://:7117")
		if err != nil {
			t.Fatal(err)
		}
		for guest, want := range map[string]uint32{"42": 42, "43": 43, "no number": 0} {
			a, err := f.Plug(guest).Dial(t.Context(), "vsock://2:7117")
			if err != nil {
				t.Fatal(err)
			}
			b, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if cid, ok := PeerCID(b); cid != want || ok != (want > 0) {
				t.Errorf("%s: peer %d, %v", guest, cid, ok)
			}
			a.Close()
			b.Close()
		}
		l.Close()
		if _, err := f.Plug("42").Dial(t.Context(), "vsock://2:7117"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Error(err)
		}
		if l, err = f.Plug("host").Listen(t.Context(), "vsock://1:0"); err != nil || strings.HasSuffix(l.Addr().String(), ":0") {
			t.Errorf("%v, %v", l.Addr(), err)
		}
		l.Close()
	})
}

// TestURLsInMemory listens at whatever is a URL of a link.
func TestURLsInMemory(t *testing.T) {
	n := NewMemory()
	for _, url := range []string{"tcp://a:1", "unix:///s", "vsock://:1", "vsock://2:1", "hybrid:///s:1", "shm:///s"} {
		a, b := pair(t, n, url)
		if cid, ok := PeerCID(b); ok {
			t.Errorf("%s: peer %d", url, cid)
		}
		a.Close()
		b.Close()
	}
}
