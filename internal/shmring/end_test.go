package shmring

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// short is a Timeout that a test waits for.
var short = Options{Timeout: minTimeout}

// readError reads until it fails.
func readError(c *Conn) error {
	_, err := io.Copy(io.Discard, onlyReader{c})
	return err
}

type onlyReader struct{ io.Reader }

// fillRing writes until nothing more goes in.
func fillRing(t *testing.T, c *Conn) {
	t.Helper()
	c.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
	p := make([]byte, 100_000)
	for {
		if _, err := c.Write(p); errors.Is(err, os.ErrDeadlineExceeded) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	c.SetWriteDeadline(time.Time{})
}

func TestBusy(t *testing.T) {
	l := newListener(t, newRegion(t, DefaultSize), short)
	path := l.addr.Path
	child := startChild(t, "hold", "shm", path, 0, l.Channels()-1)
	var theirs []*Conn
	accept := func() *Conn {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c.(*Conn)
	}
	for range l.Channels() - 1 {
		theirs = append(theirs, accept())
	}
	mine, err := Dial(t.Context(), path, short)
	if err != nil {
		t.Fatal(err)
	}
	accept().Close()
	if _, err := Dial(t.Context(), path, short); !errors.Is(err, ErrBusy) {
		t.Errorf("with all channels taken: %v", err)
	}
	mine.Close()
	if mine, err = Dial(t.Context(), path, short); err != nil {
		t.Fatalf("with one channel free: %v", err)
	}
	defer mine.Close()
	accept()

	child.Process.Kill()
	child.Wait()
	next := make(chan error, 1)
	go func() { // at once: the next one takes the channel of one that died, before that is noticed by its silence
		c, err := Dial(t.Context(), path, short)
		if err == nil {
			defer c.Close()
		}
		next <- err
	}()
	for _, c := range theirs {
		if err := readError(c); !errors.Is(err, ErrGone) {
			t.Errorf("the connection of a process that died: %v", err)
		}
		c.Close()
	}
	if err := <-next; err != nil {
		t.Error(err)
	}
	accept()
}

func TestHostRestarts(t *testing.T) {
	l := newListener(t, newRegion(t, MinSize), Options{})
	host, guest := connect(t, l, Options{Timeout: time.Hour})
	host.Write([]byte("unread"))
	l.Close()
	if _, err := host.Read(make([]byte, 1)); !errors.Is(err, ErrGone) {
		t.Errorf("at the host: %v", err)
	}
	if err := readError(guest); !errors.Is(err, ErrGone) {
		t.Errorf("after the host closed: %v", err)
	}
	if _, err := guest.Write([]byte{1}); !errors.Is(err, ErrGone) {
		t.Errorf("writing after the host closed: %v", err)
	}

	guest.Close()

	// A host that dies says nothing; the next one does.
	l = newListener(t, l.addr.Path, Options{})
	_, guest = connect(t, l, Options{Timeout: time.Hour})
	done := make(chan error)
	go func() { done <- readError(guest) }()
	l.muted.Store(true)
	unix.Flock(int(l.file.Fd()), unix.LOCK_UN)
	next := newListener(t, l.addr.Path, Options{Channels: 2})
	if err := <-done; !errors.Is(err, ErrGone) {
		t.Errorf("after the host was replaced: %v", err)
	}
	guest.Close()
	connect(t, next, Options{})
}

func TestGuestIsReplaced(t *testing.T) {
	l := newListener(t, newRegion(t, MinSize), Options{Timeout: time.Hour, Channels: 1})
	host, guest := connect(t, l, Options{Timeout: time.Hour})
	guest.Write([]byte("of the old"))
	done := make(chan error)
	go func() {
		_, err := io.ReadFull(host, make([]byte, 100))
		done <- err
	}()
	// As if the process had died: it says nothing, and its lock is gone.
	mute(guest)
	guest.free()
	next := make(chan *Conn)
	go func() {
		c, err := Dial(context.Background(), l.addr.Path, Options{})
		if err != nil {
			t.Error(err)
		}
		next <- c
	}()
	if err := <-done; !errors.Is(err, ErrGone) {
		t.Errorf("%v", err)
	}
	host.Close()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	guest = <-next
	defer guest.Close()
	guest.Write([]byte("of the new"))
	p := make([]byte, 10)
	if _, err := io.ReadFull(c, p); err != nil || string(p) != "of the new" {
		t.Errorf("%q, %v", p, err)
	}
}

// TestGuestLeaves has a guest write, close and call again, before the host has read anything.
func TestGuestLeaves(t *testing.T) {
	l := newListener(t, newRegion(t, MinSize), Options{Channels: 1})
	host, guest := connect(t, l, Options{})
	if _, err := guest.Write([]byte("farewell")); err != nil {
		t.Fatal(err)
	}
	guest.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, l.addr.Path, Options{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("before the host has read: %v", err)
	}
	if b, err := io.ReadAll(host); string(b) != "farewell" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := host.Write([]byte{1}); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("write to a closed peer: %v", err)
	}
	host.Close()
	connect(t, l, Options{})
}

// TestHostLeaves has a host write, close the connection and stop, before the guest has read anything.
func TestHostLeaves(t *testing.T) {
	l := newListener(t, newRegion(t, MinSize), Options{})
	host, guest := connect(t, l, short)
	host.Write([]byte("farewell"))
	host.Close()
	l.Close()
	if b, err := io.ReadAll(guest); string(b) != "farewell" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	var op *net.OpError
	if _, err := guest.Write([]byte{1}); !errors.Is(err, syscall.EPIPE) || !errors.As(err, &op) {
		t.Errorf("write to a closed peer: %v", err)
	}
}

// TestCorruptPositions writes positions that a peer cannot have.
func TestCorruptPositions(t *testing.T) {
	for _, kind := range []struct {
		name  string
		value func(now, capacity uint64) uint64
	}{
		{"TooFar", func(now, capacity uint64) uint64 { return now + capacity + 1 }},
		{"Huge", func(_, _ uint64) uint64 { return 1<<64 - 1 }},
		{"Backwards", func(now, _ uint64) uint64 { return now - 1 }},
	} {
		t.Run(kind.name, func(t *testing.T) {
			for _, atHost := range []bool{true, false} {
				l := newListener(t, newRegion(t, MinSize), Options{Timeout: time.Hour})
				other, guestOther := connect(t, l, Options{})
				a, b := connect(t, l, Options{Timeout: time.Hour})
				if !atHost {
					a, b = b, a
				}
				b.Write(make([]byte, 100))
				io.ReadFull(a, make([]byte, 100))
				b.own.written.Store(kind.value(100, uint64(len(a.in.data))))
				if err := readError(a); !errors.Is(err, ErrCorrupt) {
					t.Errorf("read, at host %v: %v", atHost, err)
				}
				if err := readError(b); !errors.Is(err, ErrGone) {
					t.Errorf("the one who did it: %v", err)
				}
				// The others go on.
				other.Write([]byte{7})
				if n, err := guestOther.Read(make([]byte, 1)); n != 1 || err != nil {
					t.Errorf("another connection: %v", err)
				}

				a, b = connect(t, l, Options{Timeout: time.Hour})
				if !atHost {
					a, b = b, a
				}
				fillRing(t, a)
				done := make(chan error)
				go func() {
					_, err := a.Write(make([]byte, 1))
					done <- err
				}()
				io.ReadFull(b, make([]byte, 1))
				b.own.read.Store(kind.value(b.own.read.Load(), uint64(len(a.in.data))))
				if err := <-done; !errors.Is(err, ErrCorrupt) && kind.name != "Backwards" {
					t.Errorf("write, at host %v: %v", atHost, err)
				}
			}
		})
	}
}

// TestTruncated makes the file shorter while everything is in use.
func TestTruncated(t *testing.T) {
	path := newRegion(t, DefaultSize)
	l := newListener(t, path, Options{})
	l2 := newListener(t, newRegion(t, MinSize), Options{})
	host2, guest2 := connect(t, l2, Options{})
	host, guest := connect(t, l, Options{})
	idleHost, _ := connect(t, l, Options{})
	errs := make(chan error, 5)
	for _, c := range []*Conn{host, guest} {
		go func() { errs <- readError(c) }()
		go func() {
			_, err := io.Copy(c, zeros{})
			errs <- err
		}()
	}
	go func() {
		_, err := l.Accept()
		errs <- err
	}()
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := <-errs; !errors.Is(err, ErrGone) {
			t.Errorf("%v", err)
		}
	}
	if err := readError(idleHost); !errors.Is(err, ErrGone) {
		t.Errorf("one that waited: %v", err)
	}
	if _, err := idleHost.Write([]byte{1}); !errors.Is(err, ErrGone) {
		t.Errorf("write: %v", err)
	}
	for _, c := range []io.Closer{host, guest, idleHost, l} {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	if _, err := Listen(path, Options{}); err == nil {
		t.Error("listen at an empty file")
	}
	host2.Write([]byte{1})
	if n, err := guest2.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("another region: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// TestOverwritten puts an older content of the region in its place, as a restored snapshot does.
func TestOverwritten(t *testing.T) {
	path := newRegion(t, MinSize)
	l := newListener(t, path, Options{})
	connect(t, l, Options{}) // something is in it
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	host, guest := connect(t, l, Options{Timeout: time.Hour})
	for range 10 {
		guest.Write(make([]byte, 1000))
		io.ReadFull(host, make([]byte, 1000))
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(old); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*Conn{"host": host, "guest": guest} {
		if err := readError(c); !errors.Is(err, ErrGone) && !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
		c.Close()
	}
	connect(t, l, Options{})
}

// TestHeaderOverwritten: whichever word of the header a guest destroys, it is served again.
func TestHeaderOverwritten(t *testing.T) {
	path := newRegion(t, MinSize)
	l := newListener(t, path, Options{})
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, w := range append([]int64{offEpoch, offBeat}, offMagic, offVersion, offSize, offCapacity, offUUID, offUUID+8) {
		host, guest := connect(t, l, Options{})
		if _, err := f.WriteAt([]byte("nonsense"), w); err != nil {
			t.Fatal(err)
		}
		for name, c := range map[string]*Conn{"host": host, "guest": guest} {
			if err := readError(c); !errors.Is(err, ErrGone) {
				t.Errorf("word at %d: %s: %v", w, name, err)
			}
			c.Close()
		}
	}
	connect(t, l, Options{})
}

func TestTwoListeners(t *testing.T) {
	l := newListener(t, newRegion(t, MinSize), Options{})
	if _, err := Listen(l.addr.Path, Options{}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second listener: %v", err)
	}
	connect(t, l, Options{}) // it did no harm
	l.Close()
	connect(t, newListener(t, l.addr.Path, Options{}), Options{})
}

func TestListenerClose(t *testing.T) {
	l := newListener(t, newRegion(t, MinSize), Options{})
	host, guest := connect(t, l, Options{})
	pending, err := Dial(t.Context(), l.addr.Path, Options{}) // answered, not accepted
	if err != nil {
		t.Fatal(err)
	}
	defer pending.Close()
	errs := make(chan error, 3)
	go func() { errs <- readError(host) }()
	go func() { errs <- readError(guest) }()
	go func() { errs <- readError(pending) }()
	if _, err := l.Accept(); err != nil {
		t.Fatal(err)
	}
	accepted := make(chan error, 1)
	go func() {
		_, err := l.Accept()
		accepted <- err
	}()
	for range 2 {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := <-accepted; !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept: %v", err)
	}
	for range 3 {
		if err := <-errs; !errors.Is(err, ErrGone) {
			t.Errorf("read: %v", err)
		}
	}
}

// TestStandsStill dials a region whose host has died.
func TestStandsStill(t *testing.T) {
	l := newListener(t, newRegion(t, MinSize), Options{})
	l.muted.Store(true)
	if _, err := Dial(t.Context(), l.addr.Path, short); !errors.Is(err, ErrNotServed) {
		t.Errorf("%v", err)
	}
}

// TestHubEnds sees that a process without regions has no goroutine for them.
func TestHubEnds(t *testing.T) {
	l := newListener(t, newRegion(t, MinSize), Options{})
	host, guest := connect(t, l, Options{})
	for _, c := range []io.Closer{host, guest, l} {
		c.Close()
	}
	running := func() bool {
		theHub.mu.Lock()
		defer theHub.mu.Unlock()
		if len(theHub.all) > 0 {
			t.Fatalf("%d are watched", len(theHub.all))
		}
		return theHub.timer != nil
	}
	for running() {
		runtime.Gosched()
	}
}

// TestPausedGuest: a guest that stands still because it is paused is not given up, for however long; after that it is.
func TestPausedGuest(t *testing.T) {
	var paused atomic.Bool
	paused.Store(true)
	host, guest := newPair(t, MinSize, Options{Timeout: minTimeout, Paused: paused.Load})
	mute(guest)
	host.SetReadDeadline(time.Now().Add(10 * minTimeout))
	if _, err := host.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("of a guest that is paused the host says %v", err)
	}
	paused.Store(false)
	host.SetReadDeadline(time.Time{})
	if _, err := host.Read(make([]byte, 1)); !errors.Is(err, ErrGone) {
		t.Errorf("of a guest that is dead the host says %v", err)
	}
}
