package shmring

import (
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A pattern is a stream in which every loss, swap or repetition shows.
type pattern uint64

func (p *pattern) next(b []byte) []byte {
	for i := range b {
		x := uint64(*p) / 8
		x = (x ^ x>>31) * 0x9e3779b97f4a7c15
		b[i] = byte(x >> (8 * (uint64(*p) % 8)))
		*p++
	}
	return b
}

// check reports whether b comes next.
func (p *pattern) check(b []byte) bool {
	want := p.next(make([]byte, len(b)))
	return string(want) == string(b)
}

// TestStream moves random pieces both ways, with deadlines in between, and reads them by Read and by Peek.
func TestStream(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for _, spin := range []time.Duration{-1, 0} {
		host, guest := newPair(t, MinSize, Options{Spin: spin})
		if c := len(host.in.data); c&(c-1) == 0 {
			t.Fatalf("capacity %d is a power of two: choose another region", c)
		}
		const total = 8 << 20
		var all sync.WaitGroup
		for i, c := range []*Conn{host, guest} {
			all.Go(func() { writeRandomly(t, c, rand.New(rand.NewPCG(seed, uint64(i))), total) })
			all.Go(func() { readRandomly(t, c, rand.New(rand.NewPCG(seed, uint64(2+i)))) })
		}
		all.Wait()
		host.Close()
		guest.Close()
	}
}

// size is small, of a few pages, or larger than the ring.
func size(r *rand.Rand) int { return 1 + r.IntN([]int{10, 5000, 40_000, 300_000}[r.IntN(4)]) }

func writeRandomly(t *testing.T, c *Conn, r *rand.Rand, total int) {
	var p pattern
	for int(p) < total {
		b := p.next(make([]byte, size(r)))
		for len(b) > 0 {
			if r.IntN(4) == 0 {
				c.SetWriteDeadline(time.Now().Add(time.Duration(r.IntN(100)) * time.Microsecond))
			}
			n, err := c.Write(b)
			b = b[n:]
			if errors.Is(err, os.ErrDeadlineExceeded) {
				c.SetWriteDeadline(time.Time{})
			} else if err != nil {
				t.Error(err)
				return
			}
		}
	}
	if err := c.CloseWrite(); err != nil {
		t.Error(err)
	}
}

func readRandomly(t *testing.T, c *Conn, r *rand.Rand) {
	var p pattern
	for {
		if r.IntN(4) == 0 {
			c.SetReadDeadline(time.Now().Add(time.Duration(r.IntN(100)) * time.Microsecond))
		}
		var b []byte
		var err error
		if r.IntN(2) == 0 {
			b = make([]byte, size(r))
			var n int
			n, err = c.Read(b)
			b = b[:n]
			if !p.check(b) {
				t.Errorf("bytes before %d differ", p)
				return
			}
		} else {
			b, err = c.Peek(size(r))
			n := 0
			if err == nil {
				n = r.IntN(len(b) + 1)
			}
			if !p.check(b[:n]) {
				t.Errorf("peeked bytes before %d differ", p)
				return
			}
			c.Discard(n)
		}
		switch {
		case err == io.EOF:
			return
		case errors.Is(err, os.ErrDeadlineExceeded):
			c.SetReadDeadline(time.Time{})
		case err != nil:
			t.Errorf("after %d bytes: %v", p, err)
			return
		}
	}
}

// TestPeekStays closes a connection, and the listener, while peeked bytes are in use.
func TestPeekStays(t *testing.T) {
	l := newListener(t, newRegion(t, MinSize), Options{})
	host, guest := connect(t, l, Options{})
	for _, c := range []*Conn{host, guest} {
		c.Write([]byte("in use"))
	}
	atHost, err := host.Peek(100)
	if err != nil {
		t.Fatal(err)
	}
	atGuest, err := guest.Peek(3)
	if err != nil {
		t.Fatal(err)
	}
	host.Close()
	guest.Close()
	l.Close()
	if string(atHost) != "in use" || string(atGuest) != "in " || cap(atGuest) != 3 {
		t.Errorf("%q, %q", atHost, atGuest)
	}
	newListener(t, l.addr.Path, Options{Channels: 1})
	again, err := Dial(t.Context(), l.addr.Path, Options{}) // nor does it keep the locks
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	for _, c := range []*Conn{host, guest} {
		if c.m.refs.Load() != 1 {
			t.Errorf("%d users of the mapping", c.m.refs.Load())
		}
		c.Discard(1)
		c.Discard(1)
		if c.m.refs.Load() != 0 {
			t.Errorf("%d users of the mapping at the end", c.m.refs.Load())
		}
		if _, err := c.Peek(1); err == nil {
			t.Error("peek at a closed connection")
		}
	}
}

// asleep waits until c's reader sleeps.
func asleep(c *Conn) {
	for c.own.readerAsleep.Load()&1 == 0 || !c.in.sleeping.Load() {
		runtime.Gosched()
	}
}

// TestBell has a bell wake whom the hub does not: it is kept busy.
func TestBell(t *testing.T) {
	l := newListener(t, newRegion(t, MinSize), Options{Spin: -1})
	var rings atomic.Int32
	host, guest := connect(t, l, Options{Spin: -1, Ring: func() { rings.Add(1) }})
	read := make(chan error)
	receive := func() {
		_, err := io.ReadFull(host, make([]byte, 1))
		read <- err
	}
	go receive()
	asleep(host)
	theHub.mu.Lock()
	rings.Store(0) // Dial rang too
	for range 3 {
		guest.Write([]byte{1})
	}
	if n := rings.Load(); n != 1 {
		t.Errorf("%d rings for one sleep", n)
	}
	host.Wake()
	err := <-read
	theHub.mu.Unlock()
	if err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(host, make([]byte, 2)); err != nil {
		t.Error(err)
	}
	rings.Store(0)
	guest.Write([]byte{1})
	if n := rings.Load(); n != 0 {
		t.Errorf("%d rings for one who is awake", n)
	}
	io.ReadFull(host, make([]byte, 1))

	go receive()
	asleep(host)
	theHub.mu.Lock()
	guest.CloseWrite()
	if n := rings.Load(); n != 1 {
		t.Errorf("%d rings at the end", n)
	}
	host.Wake()
	err = <-read
	theHub.mu.Unlock()
	if err != io.EOF {
		t.Error(err)
	}
}

// TestListenerWake has a listener take a call long before its time.
func TestListenerWake(t *testing.T) {
	l := newListener(t, newRegion(t, MinSize), Options{})
	theHub.mu.Lock()
	theHub.timer.set(time.Hour, false)
	l.m.word(callsPage).Store(1234)
	theHub.mu.Unlock()
	l.Wake()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// TestFrozen has the process stand still for an hour, which is nobody else's fault.
func TestFrozen(t *testing.T) {
	host, guest := newPair(t, MinSize, Options{})
	theHub.mu.Lock()
	heard := host.heard
	before := time.Now().Add(-time.Hour)
	theHub.pass(&pacer{timer: theHub.timer, period: coarseTick, last: before, lastBeat: before, lastBusy: before})
	theHub.mu.Unlock()
	if host.silence > longestStep || guest.silence > longestStep {
		t.Errorf("silence %v and %v, counter from %d to %d", host.silence, guest.silence, heard, host.heard)
	}
	if host.over.Load() || guest.over.Load() {
		t.Error("the connection is over")
	}
}

// TestFlippingGenerations has a guest call as fast as it can; the host has no more connections than channels.
func TestFlippingGenerations(t *testing.T) {
	l := newListener(t, newRegion(t, MinSize), Options{Channels: 2})
	stop := make(chan struct{})
	var guest, all sync.WaitGroup
	for i := range 2 {
		guest.Go(func() {
			for g := uint64(1); ; g++ {
				select {
				case <-stop:
					return
				default:
					l.m.word(callsPage + 8*i).Store(g)
					runtime.Gosched()
				}
			}
		})
	}
	var open atomic.Int32
	for range 50 {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if n := open.Add(1); n > 2 {
			t.Errorf("%d connections", n)
		}
		all.Go(func() {
			if err := readError(c.(*Conn)); !errors.Is(err, ErrGone) {
				t.Errorf("%v", err)
			}
			open.Add(-1)
			c.Close()
		})
	}
	close(stop)
	guest.Wait() // or it writes where nothing is mapped any more
	l.Close()
	all.Wait()
}
