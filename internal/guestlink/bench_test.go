package guestlink_test

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/internal/guestlink"
	"github.com/virtswarm/virtswarm/internal/shmring"
)

// links are the kinds that a process can have with itself.
var links = []struct {
	name string
	open func(tb testing.TB) (guest, host net.Conn)
}{
	{"shm", openRing},
	{"unix", openSocket},
}

const noSpin = -1

func openRing(tb testing.TB) (guest, host net.Conn) {
	path := filepath.Join(tb.TempDir(), "region")
	if err := shmring.Create(path, shmring.DefaultSize, -1, -1); err != nil {
		tb.Fatal(err)
	}
	ln, err := shmring.Listen(path, shmring.Options{Spin: noSpin})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { ln.Close() })
	if guest, err = shmring.Dial(context.Background(), path, shmring.Options{Spin: noSpin}); err == nil {
		host, err = ln.Accept()
	}
	if err != nil {
		tb.Fatal(err)
	}
	return guest, host
}

func openSocket(tb testing.TB) (guest, host net.Conn) {
	ln, err := net.Listen("unix", filepath.Join(tb.TempDir(), "socket"))
	if err != nil {
		tb.Fatal(err)
	}
	defer ln.Close()
	if guest, err = net.Dial("unix", ln.Addr().String()); err == nil {
		host, err = ln.Accept()
	}
	if err != nil {
		tb.Fatal(err)
	}
	return guest, host
}

// sessions makes a session of a link.
func sessions(tb testing.TB, g, h net.Conn) (guest, host *guestlink.Session) {
	guest, err := guestlink.NewSession(g, guestlink.Config{Guest: true})
	if err != nil {
		tb.Fatal(err)
	}
	if host, err = guestlink.NewSession(h, guestlink.Config{}); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { guest.Close(); host.Close() })
	return guest, host
}

// pair opens a stream, and accepts it.
func pair(tb testing.TB, from, to *guestlink.Session, purpose guestlink.Purpose) (a, b *guestlink.Stream) {
	a, err := from.Open(context.Background(), purpose)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err = a.Write(nil); err == nil {
		if b, err = to.Accept(); err == nil {
			_, err = b.Started()
		}
	}
	if err != nil {
		tb.Fatal(err)
	}
	return a, b
}

// chunk is what a pull sends at a time, and batch what one iteration moves.
const (
	chunk = 256 << 10
	batch = 64 << 20
)

// pump moves a batch from one conversation to another as a pull does.
func pump(tb testing.TB, from, to *guestlink.Conn, buf []byte) {
	go func() {
		p := make([]byte, chunk)
		for range batch / chunk {
			if from.SendData(1, p) != nil {
				return
			}
		}
	}()
	for n := 0; n < batch; {
		f, err := to.ReceiveInto(buf)
		if err != nil {
			tb.Fatal(err)
		}
		n += len(f.Payload)
	}
}

// BenchmarkBulk compares bulk on a stream with bulk in frames on the bare link, as version 1 had it.
func BenchmarkBulk(b *testing.B) {
	for _, link := range links {
		b.Run(link.name+"/bare", func(b *testing.B) {
			g, h := link.open(b)
			defer g.Close()
			defer h.Close()
			from, to, buf := guestlink.NewConn(h), guestlink.NewConn(g), make([]byte, chunk)
			b.SetBytes(batch)
			for b.Loop() {
				pump(b, from, to, buf)
			}
		})
		b.Run(link.name+"/stream", func(b *testing.B) {
			g, h := link.open(b)
			guest, host := sessions(b, g, h)
			to, from := pair(b, guest, host, guestlink.ForPull)
			x, y, buf := guestlink.NewConn(from), guestlink.NewConn(to), make([]byte, chunk)
			b.SetBytes(batch)
			for b.Loop() {
				pump(b, x, y, buf)
			}
		})
	}
}

// BenchmarkPing measures round trips on one stream of a link, alone and while others carry bulk without end.
func BenchmarkPing(b *testing.B) {
	for _, link := range links {
		for _, pulls := range []int{0, 1, 8} {
			b.Run(link.name+"/"+map[int]string{0: "alone", 1: "beside a pull", 8: "beside 8 pulls"}[pulls], func(b *testing.B) {
				g, h := link.open(b)
				guest, host := sessions(b, g, h)
				for range pulls {
					to, from := pair(b, guest, host, guestlink.ForPull)
					go func() {
						p := make([]byte, chunk)
						for c := guestlink.NewConn(from); c.SendData(1, p) == nil; {
						}
					}()
					go io.Copy(io.Discard, to)
				}
				x, y := pair(b, guest, host, guestlink.ForRequests)
				asks, answers := guestlink.NewConn(x), guestlink.NewConn(y)
				go func() {
					for {
						f, err := answers.Receive()
						if err != nil || answers.Send(guestlink.Pong, f.ID, f.Payload) != nil {
							return
						}
					}
				}()
				var all []time.Duration
				for b.Loop() {
					began := time.Now()
					if err := asks.Send(guestlink.Ping, 1, []byte("ping")); err != nil {
						b.Fatal(err)
					}
					if _, err := asks.Receive(); err != nil {
						b.Fatal(err)
					}
					all = append(all, time.Since(began))
					time.Sleep(time.Millisecond)
				}
				slices.Sort(all)
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(float64(all[len(all)/2].Microseconds()), "µs-median")
				b.ReportMetric(float64(all[len(all)*95/100].Microseconds()), "µs-p95")
			})
		}
	}
}
