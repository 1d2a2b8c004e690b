package guestlink_test

import (
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/virtswarm/virtswarm/internal/guestlink"
)

// What the multiplexer does without what is around it here: the figures of docs/decisions/guest-link.md.

// bare makes sessions of yamux alone.
func bare(b *testing.B, g, h net.Conn, window uint32) (guest, host *yamux.Session) {
	cfg := yamux.DefaultConfig()
	cfg.MaxStreamWindowSize, cfg.LogOutput = window, io.Discard
	guest, err := yamux.Client(g, cfg)
	if err != nil {
		b.Fatal(err)
	}
	if host, err = yamux.Server(h, cfg); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { guest.Close(); host.Close() })
	return guest, host
}

// BenchmarkYamux moves bulk over yamux alone, as BenchmarkBulk does over sessions.
func BenchmarkYamux(b *testing.B) {
	for _, link := range links {
		for name, window := range map[string]uint32{"256 KiB": 256 << 10, "2 MiB": 2 << 20} {
			b.Run(link.name+"/"+name, func(b *testing.B) {
				g, h := link.open(b)
				guest, host := bare(b, g, h, window)
				to, err := guest.OpenStream()
				if err != nil {
					b.Fatal(err)
				}
				from, err := host.AcceptStream()
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(batch)
				buf := make([]byte, chunk)
				for b.Loop() {
					go func() {
						p := make([]byte, guestlink.MaxPiece)
						for range batch / len(p) {
							if _, err := from.Write(p); err != nil {
								return
							}
						}
					}()
					for n := 0; n < batch; {
						k, err := to.Read(buf)
						if err != nil {
							b.Fatal(err)
						}
						n += k
					}
				}
			})
		}
	}
}

// BenchmarkYamuxHostile says what one side can make yamux hold at the other: for streams that are closed at once and of
// which it does not close its end, and for pings whose answers it does not read.
func BenchmarkYamuxHostile(b *testing.B) {
	b.Run("streams", func(b *testing.B) {
		for b.Loop() {
			g, h := openSocket(b)
			guest, host := bare(b, g, h, 256<<10)
			go func() {
				for {
					x, err := host.Accept()
					if err != nil {
						return
					}
					x.Close()
				}
			}()
			before := inUse()
			for range 1000 {
				x, err := guest.OpenStream()
				if err == nil {
					_, err = x.Write(make([]byte, 256<<10))
				}
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(host.NumStreams()), "streams")
			b.ReportMetric(float64(inUse()-before)/1e6, "MB")
			guest.Close()
			host.Close()
		}
	})
	b.Run("pings", func(b *testing.B) {
		for b.Loop() {
			g, h := openSocket(b)
			cfg := yamux.DefaultConfig()
			cfg.LogOutput = io.Discard
			host, err := yamux.Server(h, cfg)
			if err != nil {
				b.Fatal(err)
			}
			before := runtime.NumGoroutine()
			ping := []byte{0, 2, 0, 1}
			ping = binary.BigEndian.AppendUint64(ping, 7)
			g.SetWriteDeadline(time.Now().Add(time.Second))
			for range 500_000 {
				if _, err := g.Write(ping); err != nil {
					break
				}
			}
			b.ReportMetric(float64(runtime.NumGoroutine()-before), "goroutines")
			g.Close()
			host.Close()
		}
	})
}
