package shmring

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// withChild connects to a process of its own.
func withChild(b *testing.B, role, network string, spin time.Duration, n int) net.Conn {
	b.Helper()
	var l net.Listener
	var address string
	var err error
	switch network {
	case "shm":
		address = fmt.Sprintf("/dev/shm/shmring-bench-%d-%d", syscall.Getpid(), time.Now().UnixNano())
		if err := Create(address, DefaultSize, -1, -1); err != nil {
			b.Skip(err)
		}
		b.Cleanup(func() { unix.Unlink(address) })
		l, err = Listen(address, Options{Spin: spin})
	case "unix":
		address = filepath.Join(b.TempDir(), "s")
		l, err = net.Listen("unix", address)
	default:
		l, err = net.Listen("tcp", "127.0.0.1:0")
		if err == nil {
			address = l.Addr().String()
		}
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	conn := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			b.Error(err)
		}
		conn <- c
	}()
	startChild(b, role, network, address, spin, n)
	c := <-conn
	b.Cleanup(func() { c.Close() })
	return c
}

// BenchmarkThroughput moves bytes to another process that does nothing but read them; memcpy is what one copy costs.
func BenchmarkThroughput(b *testing.B) {
	const piece = 256 << 10
	b.Run("memcpy", func(b *testing.B) {
		src, dst := make([]byte, 2<<20), make([]byte, 2<<20)
		copy(dst, src)
		b.SetBytes(piece)
		for i := range b.N {
			at := i * piece % len(src)
			copy(dst[at:at+piece], src[at:])
		}
	})
	for _, network := range []string{"shm", "unix", "tcp"} {
		b.Run(network, func(b *testing.B) {
			c := withChild(b, "sink", network, 0, piece)
			buf := make([]byte, piece)
			b.SetBytes(piece)
			b.ResetTimer()
			for range b.N {
				if _, err := c.Write(buf); err != nil {
					b.Fatal(err)
				}
			}
			if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
				b.Fatal(err)
			}
			// All is read when the other side says how much it was.
			total, err := io.ReadAll(c)
			if err != nil {
				b.Fatal(err)
			}
			if want := uint64(b.N) * piece; len(total) != 8 || binary.LittleEndian.Uint64(total) != want {
				b.Fatalf("the other side has read %x, not %d bytes", total, want)
			}
		})
	}
}

// BenchmarkRoundTrip sends 64 bytes to another process and back.
func BenchmarkRoundTrip(b *testing.B) {
	for _, kind := range []struct {
		name, network string
		spin          time.Duration
	}{
		{"spinning", "shm", time.Second},
		{"adaptive", "shm", 0},
		{"sleeping", "shm", -1},
		{"unix", "unix", 0},
		{"tcp", "tcp", 0},
	} {
		b.Run(kind.name, func(b *testing.B) {
			c := withChild(b, "echo", kind.network, kind.spin, 64)
			buf := make([]byte, 64)
			b.ResetTimer()
			for range b.N {
				if _, err := c.Write(buf); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(c, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkIdle has 500 regions at which nothing happens, each without a connection or with one that waits, and reports
// the processor time that they take, in nanoseconds a second.
func BenchmarkIdle(b *testing.B) {
	for _, connected := range []bool{false, true} {
		name := "listening"
		if connected {
			name = "connected"
		}
		b.Run(name, func(b *testing.B) {
			const regions = 500
			dir := b.TempDir()
			for i := range regions {
				path := filepath.Join(dir, fmt.Sprint(i))
				if err := Create(path, MinSize, -1, -1); err != nil {
					b.Skip(err)
				}
				l := newListener(b, path, Options{})
				if !connected {
					continue
				}
				go func() {
					c, err := Dial(context.Background(), path, Options{})
					if err != nil {
						b.Error(err)
						return
					}
					b.Cleanup(func() { c.Close() })
					c.Read(make([]byte, 1))
				}()
				c, err := l.Accept()
				if err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() { c.Close() })
				go c.Read(make([]byte, 1))
			}
			time.Sleep(500 * time.Millisecond) // what is measured is what remains
			b.ResetTimer()
			start, before := time.Now(), cpuTime()
			for range b.N {
				time.Sleep(time.Second)
			}
			b.ReportMetric(float64(cpuTime()-before)/time.Since(start).Seconds(), "cpu-ns/s")
		})
	}
}

func cpuTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
