package guestlink_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/virtswarm/virtswarm/internal/guestlink"
	"github.com/virtswarm/virtswarm/internal/link/linktest"
)

// ends makes a session of a pipe.
func ends(t testing.TB) (guest, host *guestlink.Session) {
	g, h := linktest.Pipe()
	return sessions(t, g, h)
}

// echo answers every frame on a stream with itself.
func echo(x *guestlink.Stream) {
	c := guestlink.NewConn(x)
	for {
		f, err := c.Receive()
		if err != nil || c.Send(f.Kind, f.ID, f.Payload) != nil {
			return
		}
	}
}

// ping checks that a conversation goes both ways.
func ping(t testing.TB, c *guestlink.Conn, text string) {
	t.Helper()
	if err := c.Send(guestlink.Ping, 1, []byte(text)); err != nil {
		t.Fatal(err)
	}
	if f, err := c.Receive(); err != nil || string(f.Payload) != text {
		t.Fatalf("the answer to %q is %q, %v", text, f.Payload, err)
	}
}

func TestGreeting(t *testing.T) {
	for name, c := range map[string]struct {
		answer func(c *guestlink.Conn, hello guestlink.HelloRequest) error
		want   error
	}{
		"welcome": {func(c *guestlink.Conn, hello guestlink.HelloRequest) error {
			if hello.Version != guestlink.Version || hello.Agent != "test" {
				return fmt.Errorf("it greets with %+v", hello)
			}
			return c.SendMessage(guestlink.Hello, 1, guestlink.Welcome{Version: guestlink.Version, Domain: "web", Features: []string{"later"}})
		}, nil},
		"a host of version 1, as it says so": {func(c *guestlink.Conn, _ guestlink.HelloRequest) error {
			return errors.Join(c.Send(guestlink.Beat, 0, nil), c.SendMessage(guestlink.Failed, 0, guestlink.Fail(guestlink.CodeVersion, "speaks version 1")))
		}, &guestlink.Failure{Code: guestlink.CodeVersion}},
		"a host of version 3": {func(c *guestlink.Conn, _ guestlink.HelloRequest) error {
			return c.SendMessage(guestlink.Hello, 1, guestlink.Welcome{Version: 3})
		}, &guestlink.Failure{Code: guestlink.CodeVersion}},
		"no host": {func(c *guestlink.Conn, _ guestlink.HelloRequest) error { return c.Send(guestlink.Pong, 1, nil) }, guestlink.ErrProtocol},
		"nobody":  {func(c *guestlink.Conn, _ guestlink.HelloRequest) error { return c.Close() }, io.EOF},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := linktest.Pipe()
			defer a.Close()
			defer b.Close()
			answered := make(chan error, 1)
			go func() {
				host := guestlink.NewConn(b)
				hello, err := guestlink.Greeted(host)
				if err == nil {
					err = c.answer(host, hello)
				}
				answered <- err
			}()
			w, err := guestlink.Greet(a, "test")
			if !errors.Is(err, c.want) || err == nil && w.Domain != "web" {
				t.Errorf("%+v, %v, want %v", w, err, c.want)
			}
			if err := <-answered; err != nil {
				t.Error(err)
			}
		})
	}
}

// TestStreams: either side opens streams, each says what it is for, and they do not mix.
func TestStreams(t *testing.T) {
	guest, host := ends(t)
	var all sync.WaitGroup
	for _, from := range []*guestlink.Session{guest, host} {
		to := host
		if from == host {
			to = guest
		}
		all.Go(func() {
			for {
				x, err := to.Accept()
				if err != nil {
					return
				}
				go func() {
					if purpose, err := x.Started(); err != nil || purpose != guestlink.ForPush {
						t.Errorf("it is for %s, %v", purpose, err)
					}
					echo(x)
					x.Close()
				}()
			}
		})
		var asking sync.WaitGroup
		for i := range 100 { // more than there may be at a time: some wait
			asking.Go(func() {
				x, err := from.Open(t.Context(), guestlink.ForPush)
				if err != nil {
					t.Error(err)
					return
				}
				defer x.Close()
				c, text := guestlink.NewConn(x), bytes.Repeat(fmt.Appendf(nil, "stream %d ", i), 100)
				for range 10 {
					if err := c.Send(guestlink.Ping, 1, text); err != nil {
						t.Error(err)
						return
					}
					if f, err := c.Receive(); err != nil || !bytes.Equal(f.Payload, text) {
						t.Errorf("stream %d hears %.20q, %v", i, f.Payload, err)
						return
					}
				}
			})
		}
		asking.Wait()
	}
	guest.Close()
	host.Close()
	all.Wait()
}

// TestControlPassesBulk: streams whose readers take nothing hold up no other, neither while their windows fill nor when
// they are full. No clock is looked at: if they did, the ping would never come back.
func TestControlPassesBulk(t *testing.T) {
	guest, host := ends(t)
	for _, from := range []*guestlink.Session{guest, host} {
		to := host
		if from == host {
			to = guest
		}
		x, y := pair(t, from, to, guestlink.ForRequests)
		go echo(y)
		asks := guestlink.NewConn(x)
		var sent atomic.Int64
		for range guestlink.MaxStreams - 1 {
			bulk, _ := pair(t, from, to, guestlink.ForPush)
			go func() {
				p := make([]byte, guestlink.MaxPiece)
				for {
					n, err := bulk.Write(p)
					sent.Add(int64(n))
					if err != nil {
						return
					}
				}
			}()
		}
		for full := int64(guestlink.MaxStreams-1) * (guestlink.HostWindow - guestlink.MaxPiece); ; { // the last piece of each is stuck
			ping(t, asks, "and control?")
			if sent.Load() >= full {
				break
			}
		}
		ping(t, asks, "and now?")
	}
}

// TestCancel: a side that closes a stream frees whoever writes to it, and what was said before can be read.
func TestCancel(t *testing.T) {
	guest, host := ends(t)
	a, b := pair(t, guest, host, guestlink.ForPush)
	wrote := make(chan error, 1)
	go func() {
		for {
			if _, err := a.Write(make([]byte, 1<<20)); err != nil {
				wrote <- err
				return
			}
		}
	}()
	if err := guestlink.NewConn(b).SendMessage(guestlink.Failed, 1, guestlink.Fail(guestlink.CodeDenied, "no")); err != nil {
		t.Fatal(err)
	}
	b.Close()
	if err := <-wrote; !errors.Is(err, syscall.EPIPE) {
		t.Errorf("written to a stream that is closed at the other side: %v", err)
	}
	<-a.Gone()
	c := guestlink.NewConn(a)
	if f, err := c.Receive(); err != nil || f.Kind != guestlink.Failed {
		t.Errorf("what was said before: %v, %v", f.Kind, err)
	}
	if _, err := c.Receive(); err != io.EOF {
		t.Errorf("and then: %v", err)
	}
	// One's own Close frees one's own Read.
	x, _ := pair(t, guest, host, guestlink.ForPull)
	read := make(chan error, 1)
	go func() {
		_, err := x.Read(make([]byte, 1))
		read <- err
	}()
	x.Close()
	if err := <-read; !errors.Is(err, net.ErrClosed) {
		t.Errorf("read from a stream that is closed here: %v", err)
	}
}

// TestSlowGuest: a stream that the host has closed is closed at the guest though whoever has it there is busy for long,
// and what came before can be read then.
func TestSlowGuest(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		guest, host := ends(t)
		x, y := pair(t, guest, host, guestlink.ForPull)
		if _, err := y.Write([]byte("before")); err != nil {
			t.Fatal(err)
		}
		y.Close()
		time.Sleep(time.Hour)
		if got, err := io.ReadAll(x); err != nil || string(got) != "before" {
			t.Errorf("an hour later: %q, %v", got, err)
		}
		if host.Err() != nil || guest.Err() != nil {
			t.Errorf("the link has ended: %v, %v", host.Err(), guest.Err())
		}
		guest.Close()
		host.Close()
	})
}

// TestEnds: the reason of one side is the other's error, in streams too.
func TestEnds(t *testing.T) {
	guest, host := ends(t)
	x, y := pair(t, guest, host, guestlink.ForPull)
	go func() { // bulk is under way
		for err := error(nil); err == nil; _, err = y.Write(make([]byte, 1<<20)) {
		}
	}()
	host.End(guestlink.Fail(guestlink.CodeGone, "moved"))
	_, err := io.Copy(io.Discard, x)
	want := &guestlink.Failure{Code: guestlink.CodeGone}
	if !errors.Is(err, want) {
		t.Errorf("the stream ends with %v", err)
	}
	<-guest.Done()
	if _, opened := guest.Open(t.Context(), guestlink.ForPull); !errors.Is(guest.Err(), want) || !errors.Is(opened, want) {
		t.Errorf("the session ends with %v, and opens with %v", guest.Err(), opened)
	}
}

// TestLimitOfStreams: there are never more than MaxStreams of a side's, and whoever opens more regardless is ended.
func TestLimitOfStreams(t *testing.T) {
	guest, host := ends(t)
	var open []*guestlink.Stream
	for range guestlink.MaxStreams {
		x, _ := pair(t, guest, host, guestlink.ForRequests)
		open = append(open, x)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := guest.Open(ctx, guestlink.ForRequests); !errors.Is(err, context.Canceled) {
		t.Errorf("one more: %v", err)
	}
	open[0].Close() // of which the other side has not closed its end: it counts
	if _, err := guest.Open(ctx, guestlink.ForRequests); !errors.Is(err, context.Canceled) {
		t.Errorf("one more, of which one side is closed: %v", err)
	}
}

// TestAdmission: a side that the other does not let open a stream is told that it is busy; what was let in is given
// back.
func TestAdmission(t *testing.T) {
	g, h := linktest.Pipe()
	var in atomic.Int64
	guest, err := guestlink.NewSession(g, guestlink.Config{Guest: true})
	if err != nil {
		t.Fatal(err)
	}
	defer guest.Close()
	host, err := guestlink.NewSession(h, guestlink.Config{
		Admit: func() bool { return in.Add(1) <= 3 }, Release: func() { in.Add(-1) },
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		pair(t, guest, host, guestlink.ForRequests)
	}
	_, _ = guest.Open(t.Context(), guestlink.ForRequests)
	<-host.Done()
	var busy *guestlink.Failure
	if !errors.As(host.Err(), &busy) || busy.Code != guestlink.CodeBusy {
		t.Fatal(host.Err())
	}
	host.End(busy)
	<-guest.Done()
	if !errors.Is(guest.Err(), &guestlink.Failure{Code: guestlink.CodeBusy}) || in.Load() != 1 { // the one that was refused
		t.Errorf("the guest hears %v, %d streams are held", guest.Err(), in.Load())
	}
}

// inBubble runs a test of sessions in virtual time. yamux keeps timers in a pool, of which none may come from another
// time: two collections empty it.
func inBubble(t *testing.T, f func(t *testing.T)) {
	empty := func() { runtime.GC(); runtime.GC() }
	empty()
	synctest.Test(t, f)
	empty()
}

// TestSilence: a link is given up after StallTimeout if the other side says nothing; not while it is paused, for
// however long, and not if it only has nothing to say.
func TestSilence(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		guest, host := ends(t)
		x, y := pair(t, guest, host, guestlink.ForRequests)
		go echo(y)
		time.Sleep(time.Hour)
		ping(t, guestlink.NewConn(x), "after an hour")
		guest.Close()
		host.Close()
	})
	inBubble(t, func(t *testing.T) {
		g, h := linktest.Pipe()
		defer g.Close() // at which nobody says anything
		var paused atomic.Bool
		paused.Store(true)
		host, err := guestlink.NewSession(h, guestlink.Config{Paused: paused.Load})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if err := host.Err(); err != nil {
			t.Errorf("of a guest that is paused it says %v", err)
		}
		paused.Store(false)
		resumed := time.Now()
		<-host.Done()
		took := time.Since(resumed)
		if !errors.Is(host.Err(), guestlink.ErrStalled) || took < guestlink.StallTimeout-3*time.Second || took > guestlink.StallTimeout+3*time.Second {
			t.Errorf("given up after %s: %v", took, host.Err())
		}
		host.Close()
	})
}

// TestUntaken: a stream that nobody reads ends for its writer after IdleTimeout, and the link goes on; a stream that
// says nothing of what it is for is given up; one that the other side never closes ends the link.
func TestUntaken(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		guest, host := ends(t)
		x, _ := pair(t, guest, host, guestlink.ForPush)
		if _, err := x.Write(make([]byte, 8<<20)); !errors.Is(err, guestlink.ErrStalled) {
			t.Errorf("nobody takes it: %v", err)
		}
		_, y := pair(t, host, guest, guestlink.ForPush)
		y.SetPatience(guestlink.StartTimeout)
		if _, err := y.Read(make([]byte, 1)); !errors.Is(err, guestlink.ErrStalled) {
			t.Errorf("nobody says anything: %v", err)
		}
		if guest.Err() != nil || host.Err() != nil {
			t.Fatal(guest.Err(), host.Err())
		}
		x.Close()
		<-guest.Done()
		if !errors.Is(guest.Err(), guestlink.ErrStalled) {
			t.Errorf("a stream is never closed: %v", guest.Err())
		}
		guest.Close()
		host.Close()
	})
}

// TestMemoryOfStreams: what a hostile side can have held is a window for each stream, whatever it sends.
func TestMemoryOfStreams(t *testing.T) {
	guest, host := ends(t)
	before := inUse()
	asks, y := pair(t, guest, host, guestlink.ForRequests)
	go echo(y)
	var sent atomic.Int64
	for range guestlink.MaxStreams - 1 {
		x, _ := pair(t, guest, host, guestlink.ForPush)
		go func() {
			p := make([]byte, guestlink.MaxPiece)
			for {
				n, err := x.Write(p)
				sent.Add(int64(n))
				if err != nil {
					return
				}
			}
		}()
	}
	for full := int64(guestlink.MaxStreams-1) * (guestlink.HostWindow - guestlink.MaxPiece); sent.Load() < full; {
		ping(t, guestlink.NewConn(asks), "are they full?")
	}
	const most = 5 * guestlink.MaxStreams * guestlink.HostWindow / 2 // buffers grow by doubling
	if grown := int64(inUse()) - int64(before); grown > most {
		t.Errorf("%d streams hold %d bytes", guestlink.MaxStreams, grown)
	}
}

func inUse() uint64 {
	runtime.GC()
	runtime.GC() // what is allocated while one collection runs is freed by the next
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
