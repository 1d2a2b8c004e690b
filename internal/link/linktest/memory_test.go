package linktest

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/virtswarm/virtswarm/internal/link"
)

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
			if cid, ok := link.PeerCID(b); cid != want || ok != (want > 0) {
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
		l, err := n.Listen(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		a, err := n.Dial(t.Context(), l.Addr().Network()+"://"+l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		b, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if cid, ok := link.PeerCID(b); ok {
			t.Errorf("%s: peer %d", url, cid)
		}
		a.Close()
		b.Close()
		l.Close()
	}
}
