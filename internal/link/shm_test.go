package link_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtswarm/virtswarm/internal/link"
	"github.com/virtswarm/virtswarm/internal/shmring"
)

// region makes the file of a region, as it is before a hypervisor maps it, and returns its URL.
func region(t testing.TB) (url string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "region")
	if err := shmring.Create(path, shmring.MinSize, -1, -1); err != nil {
		t.Fatal(err)
	}
	return "shm://" + path
}

// shm is a connection through shared memory. The listener has to stay: its end would be that of the connection.
func shm(t testing.TB) (guest, host net.Conn) {
	t.Helper()
	url := region(t)
	l, err := link.OS.Listen(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if guest, err = link.OS.Dial(t.Context(), l.Addr().Network()+"://"+l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if host, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return guest, host
}

// otherWay swaps the two ends.
func otherWay(pair func(testing.TB) (net.Conn, net.Conn)) func(testing.TB) (net.Conn, net.Conn) {
	return func(t testing.TB) (net.Conn, net.Conn) {
		t.Helper()
		a, b := pair(t)
		return b, a
	}
}

func TestShmErrors(t *testing.T) {
	missing := "shm://" + filepath.Join(t.TempDir(), "region")
	if l, err := link.OS.Listen(t.Context(), missing); !errors.Is(err, os.ErrNotExist) || l != nil {
		t.Errorf("listens at nothing: %v, %v", l, err)
	}
	if c, err := link.OS.Dial(t.Context(), missing); !errors.Is(err, os.ErrNotExist) || c != nil {
		t.Errorf("calls nothing: %v, %v", c, err)
	}
	if c, err := link.OS.Dial(t.Context(), region(t)); !errors.Is(err, shmring.ErrNoRegion) || c != nil {
		t.Errorf("calls at a region that nobody has ever served: %v, %v", c, err)
	}
}
