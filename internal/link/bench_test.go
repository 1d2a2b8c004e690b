package link_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"syscall"
	"testing"

	"github.com/virtswarm/virtswarm/internal/link"
	"github.com/virtswarm/virtswarm/internal/pki"
)

// BenchmarkBulk moves chunks over TLS on loopback: by crypto/tls alone, and by the connections of this package.
func BenchmarkBulk(b *testing.B) {
	id, err := pki.Init(nil, b.TempDir(), "bench")
	if err != nil {
		b.Fatal(err)
	}
	b.Run("tls", func(b *testing.B) { bulk(b, id, func(c *tls.Conn, _ *link.Buffered) net.Conn { return c }) })
	b.Run("link", func(b *testing.B) {
		bulk(b, id, func(c *tls.Conn, under *link.Buffered) net.Conn { return link.Secure(c, under) })
	})
}

func bulk(b *testing.B, id *pki.Identity, wrap func(*tls.Conn, *link.Buffered) net.Conn) {
	ln, err := link.OS.Listen(context.Background(), "tcp://127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	const chunk = 256 << 10
	sent := make(chan error, 1)
	go func() {
		sent <- func() error {
			raw, err := ln.Accept()
			if err != nil {
				return err
			}
			under := &link.Buffered{Conn: raw}
			inner := tls.Server(under, id.ServerConfig(nil))
			if err := inner.Handshake(); err != nil {
				return err
			}
			c := wrap(inner, under)
			defer c.Close()
			buf := make([]byte, chunk)
			for range b.N {
				if _, err := c.Write(buf); err != nil {
					return err
				}
			}
			return nil
		}()
	}()
	raw, err := link.OS.Dial(context.Background(), "tcp://"+ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	under := &link.Buffered{Conn: raw}
	inner := tls.Client(under, id.ClientConfig("", nil))
	if err := inner.Handshake(); err != nil {
		b.Fatal(err)
	}
	c := wrap(inner, under)
	defer c.Close()
	b.SetBytes(chunk)
	b.ResetTimer()
	before := cpuSeconds()
	buf := make([]byte, chunk)
	for range b.N {
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric((cpuSeconds()-before)/(float64(b.N)*chunk/(1<<30)), "cpu-s/GiB")
	b.StopTimer()
	if err := <-sent; err != nil {
		b.Fatal(err)
	}
}

func cpuSeconds() float64 {
	var r syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return float64(r.Utime.Nano()+r.Stime.Nano()) / 1e9
}
