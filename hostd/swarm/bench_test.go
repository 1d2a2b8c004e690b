package swarm

import (
	"context"
	"crypto/tls"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/internal/content"
	netlink "github.com/virtswarm/virtswarm/internal/link"
	"github.com/virtswarm/virtswarm/internal/pki"
	"github.com/virtswarm/virtswarm/placement"
)

// benchSize is the size of the copied file in bytes; VIRTSWARM_BENCH_MIB sets another.
func benchSize() int64 {
	if mib, err := strconv.ParseInt(os.Getenv("VIRTSWARM_BENCH_MIB"), 10, 64); err == nil {
		return mib << 20
	}
	return 1 << 30
}

// BenchmarkCopy moves a file from one store to another over TLS on loopback, verified at both ends, beside the plainest
// copy of the same bytes that Go can make with TLS: read, send, receive, write. TMPDIR says on which file system.
func BenchmarkCopy(b *testing.B) {
	dir := b.TempDir()
	path := filepath.Join(dir, "source")
	src, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer src.Close()
	if _, err := io.CopyN(src, rand.NewChaCha8([32]byte{}), benchSize()); err != nil {
		b.Fatal(err)
	}
	id, err := pki.Init(nil, filepath.Join(dir, "pki"), "bench")
	if err != nil {
		b.Fatal(err)
	}
	b.Run("raw", func(b *testing.B) { benchRaw(b, id, path) })
	b.Run("fetch", func(b *testing.B) { benchFetch(b, id, src) })
}

func benchRaw(b *testing.B, id *pki.Identity, path string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	sent := make(chan error, 1)
	measure(b, func(dest string) {
		go func() {
			sent <- func() error {
				c, err := ln.Accept()
				if err != nil {
					return err
				}
				t := tls.Server(c, id.ServerConfig(nil))
				defer t.Close()
				f, err := os.Open(path)
				if err != nil {
					return err
				}
				defer f.Close()
				_, err = io.CopyBuffer(struct{ io.Writer }{t}, struct{ io.Reader }{f}, make([]byte, 256<<10))
				return err
			}()
		}()
		c, err := tls.Dial("tcp", ln.Addr().String(), id.ClientConfig("", nil))
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		f, err := os.Create(dest)
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		n, err := io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{c}, make([]byte, 256<<10))
		if err != nil || n != benchSize() {
			b.Fatal(n, err)
		}
		if err := <-sent; err != nil {
			b.Fatal(err)
		}
	})
}

// benchEnd is one host of the benchmark. It knows one other.
type benchEnd struct {
	store  *store.Store
	other  placement.HostID
	addr   string
	dialer *netlink.Dialer
}

func (e *benchEnd) Get(id content.Digest) (File, bool)              { return e.store.Get(id) }
func (e *benchEnd) Holders(content.Digest) (all []placement.HostID) { return append(all, e.other) }
func (e *benchEnd) Place(placement.HostID) Place                    { return Place{} }
func (e *benchEnd) Dial(ctx context.Context, _ placement.HostID) (net.Conn, error) {
	return e.dialer.Dial(ctx, e.addr, netlink.ProtoWire, "")
}

func (e *benchEnd) start(b *testing.B, self int, dir string) *Swarm {
	b.Helper()
	var err error
	if e.store, err = store.Open(store.Options{Dir: dir}); err != nil {
		b.Fatal(err)
	}
	s, err := New(Config{Self: labID(self), Store: e, Directory: e, Dialer: e})
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func benchFetch(b *testing.B, id *pki.Identity, src *os.File) {
	ctx := context.Background()
	holder := &benchEnd{other: labID(2)}
	serving := holder.start(b, 1, filepath.Join(b.TempDir(), "holder"))
	defer holder.store.Close()
	defer serving.Close()
	held, err := holder.store.Import(ctx, src, store.ImportOptions{})
	if err != nil {
		b.Fatal(err)
	}
	ln, err := netlink.OS.Listen(ctx, "tcp://127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	mux := netlink.NewMux(ln, netlink.MuxConfig{Identity: id})
	conns := mux.Listen(netlink.ProtoWire)
	go mux.Serve()
	defer mux.Close()
	go func() {
		for {
			c, err := conns.Accept()
			if err != nil {
				return
			}
			go serving.Serve(ctx, c, labID(2))
		}
	}()

	measure(b, func(dest string) {
		end := &benchEnd{other: labID(1), addr: ln.Addr().String(), dialer: &netlink.Dialer{Identity: id}}
		s := end.start(b, 2, dest)
		defer end.store.Close()
		defer s.Close()
		m, err := s.Manifest(ctx, held.ID())
		if err != nil {
			b.Fatal(err)
		}
		f, err := end.store.Create(ctx, m)
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Fetch(ctx, f, content.Bits{}, Distribute, nil); err != nil {
			b.Fatal(err)
		}
	})
}

// measure runs a copy to a fresh destination and reports the processor time of both ends together.
func measure(b *testing.B, copyTo func(dest string)) {
	b.SetBytes(benchSize())
	dir := b.TempDir()
	before := cpuSeconds()
	for b.Loop() {
		dest := filepath.Join(dir, "dest")
		copyTo(dest)
		b.StopTimer()
		if err := os.RemoveAll(dest); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric((cpuSeconds()-before)/float64(b.N)/(float64(benchSize())/(1<<30)), "cpu-s/GiB")
}

func cpuSeconds() float64 {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return float64(r.Utime.Nano()+r.Stime.Nano()) / 1e9
}
