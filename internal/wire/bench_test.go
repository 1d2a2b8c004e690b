package wire

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/virtswarm/virtswarm/internal/content"
)

// BenchmarkLoopback compares the chunks of a session with a plain copy of the same bytes, both over TLS on loopback.
// One operation is one chunk of 256 KiB. The holder has its bytes in memory and nobody verifies: what is measured is
// the protocol.
func BenchmarkLoopback(b *testing.B) {
	b.Run("raw", benchmarkRaw)
	b.Run("session", benchmarkSession)
}

// pattern holds one chunk for all indexes.
type pattern struct {
	*holder
	chunk []byte
}

func (p *pattern) Open(context.Context, *Session, content.Digest, bool) (content.Bits, []PeerID, error) {
	return content.NewBits(content.MaxChunks), nil, nil
}

func (p *pattern) Pull(r *Pull) {
	go r.Send(r.First, r.Length, func(buf []byte) ([]byte, error) { return buf[:copy(buf, p.chunk)], nil })
}

func benchmarkSession(b *testing.B) {
	server, client := tlsPair(b)
	hold := NewSession(server, &pattern{newHolder(), make([]byte, content.DefaultChunkSize)}, Options{})
	fetch := NewSession(client, nil, Options{})
	var wg sync.WaitGroup
	wg.Go(func() { hold.Run(b.Context()) })
	wg.Go(func() { fetch.Run(b.Context()) })
	file := content.Digest{1}
	if _, _, err := fetch.Open(b.Context(), file, content.MaxChunks, true); err != nil {
		b.Fatal(err)
	}
	const inFlight = 16
	measure(b, func() {
		var fetchers sync.WaitGroup
		var next atomic.Int64
		for range inFlight {
			fetchers.Go(func() {
				buf := make([]byte, content.DefaultChunkSize)
				for {
					i := next.Add(1) - 1
					if i >= int64(b.N) {
						return
					}
					if err := fetch.Chunk(b.Context(), file, int(i%content.MaxChunks), len(buf), 2, buf); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		fetchers.Wait()
	})
	fetch.Close()
	wg.Wait()
}

func benchmarkRaw(b *testing.B) {
	server, client := tlsPair(b)
	var wg sync.WaitGroup
	wg.Go(func() {
		chunk := make([]byte, content.DefaultChunkSize)
		for range b.N {
			if _, err := server.Write(chunk); err != nil {
				b.Error(err)
				return
			}
		}
		server.Close()
	})
	measure(b, func() {
		buf := make([]byte, content.DefaultChunkSize)
		n, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{client}, buf)
		if want := int64(b.N) * content.DefaultChunkSize; err != nil || n != want {
			b.Fatalf("%d of %d bytes: %v", n, want, err)
		}
	})
	client.Close()
	wg.Wait()
}

// measure runs f and reports processor time besides.
func measure(b *testing.B, f func()) {
	b.SetBytes(content.DefaultChunkSize)
	b.ReportAllocs()
	b.ResetTimer()
	before := cpuSeconds()
	f()
	gib := float64(b.N) * content.DefaultChunkSize / (1 << 30)
	b.ReportMetric((cpuSeconds()-before)/gib, "cpu-s/GiB")
	b.StopTimer()
}

func cpuSeconds() float64 {
	var r syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return float64(r.Utime.Nano()+r.Stime.Nano()) / 1e9
}
