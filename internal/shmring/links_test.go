package shmring_test

import (
	"net"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/internal/link/linktest"
	"github.com/virtswarm/virtswarm/internal/shmring"
)

// TestConn holds both sides against what every link has to do, with rings that are small and not, and with and without
// spinning.
func TestConn(t *testing.T) {
	for _, kind := range []struct {
		name  string
		size  int64
		spin  time.Duration
		guest bool // the first of the pair
	}{
		{"Host", shmring.MinSize, 0, false},
		{"Guest", shmring.MinSize, 0, true},
		{"HostSleeps", shmring.DefaultSize, -1, false},
		{"GuestSleeps", shmring.DefaultSize, -1, true},
		{"HostSpins", shmring.MinSize, time.Millisecond, false},
	} {
		t.Run(kind.name, func(t *testing.T) {
			linktest.Conn(t, linktest.Kind{
				Pair: func(t testing.TB) (a, b net.Conn) {
					host, guest := shmring.NewPair(t, kind.size, shmring.Options{Spin: kind.spin, Timeout: shmring.MinTimeout})
					if kind.guest {
						return guest, host
					}
					return host, guest
				},
				Kill: func(c net.Conn) { shmring.Mute(c.(*shmring.Conn)) },
			})
		})
	}
}
