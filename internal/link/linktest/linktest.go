// Package linktest has what tests of links need. [Conn] checks that a kind of connection behaves as net.Conn says,
// where the protocols of this project rely on it: every byte once and in order however small or large the writes and
// however many goroutines use it at once, deadlines that interrupt and do no harm, an end of either side that is
// noticed, and Close that frees whoever waits. A new kind of link joins with one call of Conn in its tests.
//
// [Fabric] is a network of hosts within the process with all that goes wrong in networks, [Memory] one in which nothing
// does, and [Pipe] a single connection. All of them work in a testing/synctest bubble.
package linktest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A Kind of connection.
type Kind struct {
	// Pair returns the two ends of a connection. They are closed for it.
	Pair func(t testing.TB) (a, b net.Conn)
	// Kill ends a connection at one end as a crash does; nil means Close.
	Kill func(c net.Conn)
	// Bubble says that it works without sockets: every check runs in a testing/synctest bubble then, so that goroutines
	// that stay are found.
	Bubble bool
	// Sealed says that a Write that was interrupted breaks the connection, as it does TLS.
	Sealed bool
}

// soon is the time to a deadline that a test waits for; long is one that it does not.
const soon, long = 20 * time.Millisecond, time.Hour

// Conn runs all checks.
func Conn(t *testing.T, k Kind) {
	if k.Kill == nil {
		k.Kill = func(c net.Conn) { c.Close() }
	}
	for _, check := range []struct {
		name string
		run  func(t *testing.T, k Kind, a, b net.Conn)
	}{
		{"Bytes", checkBytes},
		{"TinyWrites", checkTinyWrites},
		{"LargeWrites", checkLargeWrites},
		{"Addresses", checkAddresses},
		{"WholeWrites", checkWholeWrites},
		{"ManyAtOnce", checkManyAtOnce},
		{"EndOfStream", checkEndOfStream},
		{"HalfClose", checkHalfClose},
		{"HalfCloseBoth", checkHalfCloseBoth},
		{"CloseFreesRead", checkCloseFreesRead},
		{"CloseFreesWrite", checkCloseFreesWrite},
		{"CloseFreesAll", checkCloseFreesAll},
		{"CloseTwice", checkCloseTwice},
		{"Death", checkDeath},
		{"ReadDeadline", checkReadDeadline},
		{"WriteDeadline", checkWriteDeadline},
		{"DeadlineFrees", checkDeadlineFrees},
		{"InterruptedReads", checkInterruptedReads},
		{"InterruptedWrites", checkInterruptedWrites},
	} {
		t.Run(check.name, func(t *testing.T) {
			run := func(t *testing.T) {
				a, b := k.Pair(t)
				defer b.Close()
				defer a.Close()
				check.run(t, k, a, b)
			}
			if k.Bubble {
				synctest.Test(t, run)
			} else {
				run(t)
			}
		})
	}
}

// text returns n bytes in which a swap, loss or repetition shows.
func text(n int, seed byte) []byte {
	p := make([]byte, n)
	x := uint32(seed) + 1
	for i := range p {
		x = x*1664525 + 1013904223
		p[i] = byte(x >> 24)
	}
	return p
}

func send(t *testing.T, c net.Conn, p []byte) {
	t.Helper()
	if n, err := c.Write(p); n != len(p) || err != nil {
		t.Errorf("write: %d of %d bytes, %v", n, len(p), err)
	}
}

func receive(t *testing.T, c net.Conn, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil {
		t.Errorf("read: %d of %d bytes, %v", n, len(want), err)
	} else if !bytes.Equal(got, want) {
		t.Errorf("%d bytes differ", len(want))
	}
}

// checkBytes moves pieces of many sizes in both directions at the same time.
func checkBytes(t *testing.T, _ Kind, a, b net.Conn) {
	sizes := []int{1, 2, 100, 16<<10 - 1, 16 << 10, 16<<10 + 1, 256<<10 + 12, 3<<20 + 7}
	var wg sync.WaitGroup
	for i, c := range []net.Conn{a, b} {
		wg.Go(func() {
			for _, n := range sizes {
				send(t, c, text(n, byte(i)))
			}
		})
		wg.Go(func() {
			for _, n := range sizes {
				receive(t, c, text(n, byte(1-i)))
			}
		})
	}
	wg.Wait()
}

func checkTinyWrites(t *testing.T, _ Kind, a, b net.Conn) {
	want := text(3000, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range want {
			send(t, a, want[i:i+1])
		}
		send(t, a, nil)
	})
	receive(t, b, want)
	wg.Wait()
}

func checkAddresses(t *testing.T, _ Kind, a, b net.Conn) {
	for _, addr := range []net.Addr{a.LocalAddr(), a.RemoteAddr(), b.LocalAddr(), b.RemoteAddr()} {
		if addr == nil || addr.Network() == "" {
			t.Errorf("address %v", addr)
		}
	}
}

// checkWholeWrites has several writers at once; no write may end up within another.
func checkWholeWrites(t *testing.T, _ Kind, a, b net.Conn) {
	const writers, writes, size = 6, 20, 40_000
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for range writes {
				send(t, a, bytes.Repeat([]byte{byte('a' + w)}, size))
			}
		})
	}
	p := make([]byte, size)
	for range writers * writes {
		if _, err := io.ReadFull(b, p); err != nil {
			t.Fatal(err)
		}
		if bytes.Count(p, p[:1]) != size {
			t.Fatal("two writes are mixed")
		}
	}
	wg.Wait()
}

func checkEndOfStream(t *testing.T, _ Kind, a, b net.Conn) {
	var wg sync.WaitGroup
	wg.Go(func() {
		send(t, a, text(100_000, 1))
		if err := a.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	receive(t, b, text(100_000, 1))
	for range 2 {
		if n, err := b.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("at the end: %d bytes, %v", n, err)
		}
	}
	wg.Wait()
}

func checkHalfClose(t *testing.T, _ Kind, a, b net.Conn) {
	half, ok := a.(interface{ CloseWrite() error })
	if !ok {
		t.Skip("no half-close")
	}
	send(t, a, text(1000, 1))
	if err := half.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	receive(t, b, text(1000, 1))
	if n, err := b.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("at the end: %d bytes, %v", n, err)
	}
	send(t, b, text(1000, 2))
	receive(t, a, text(1000, 2))
	if _, err := a.Write([]byte{1}); err == nil {
		t.Error("wrote after CloseWrite")
	}
}

func checkCloseFreesRead(t *testing.T, _ Kind, a, b net.Conn) {
	done := make(chan error)
	go func() {
		_, err := a.Read(make([]byte, 1))
		done <- err
	}()
	a.Close()
	if err := <-done; err == nil {
		t.Error("a Read succeeds on a closed connection")
	}
}

// fill writes until it fails.
func fill(c net.Conn) <-chan error {
	done := make(chan error, 1)
	go func() {
		p := make([]byte, 100_000)
		for {
			if _, err := c.Write(p); err != nil {
				done <- err
				return
			}
		}
	}()
	return done
}

func checkCloseFreesWrite(t *testing.T, k Kind, a, b net.Conn) {
	done := fill(a)
	receive(t, b, make([]byte, 100_000))
	a.Close()
	<-done

	a, b = k.Pair(t)
	defer a.Close()
	done = fill(a)
	receive(t, b, make([]byte, 100_000))
	b.Close() // the other end may do it too
	<-done
}

func checkCloseTwice(t *testing.T, _ Kind, a, b net.Conn) {
	a.Close()
	a.Close()
	if _, err := a.Write([]byte{1}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("wrote to a closed connection: %v", err)
	}
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read from a closed connection: %v", err)
	}
}

// checkDeath ends either side while both directions are busy; the other side's reader and writer must both hear of it.
func checkDeath(t *testing.T, k Kind, a, b net.Conn) {
	death(t, k, a, b)
	b, a = k.Pair(t)
	defer b.Close()
	defer a.Close()
	death(t, k, a, b)
}

func death(t *testing.T, k Kind, left, dies net.Conn) {
	t.Helper()
	read := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, left)
		read <- err
	}()
	written := fill(left)
	receive(t, dies, make([]byte, 100_000))
	k.Kill(dies)
	<-read
	<-written
	if n, err := left.Read(make([]byte, 1)); n != 0 || err == nil || isTimeout(err) {
		t.Errorf("read after the other side's death: %d bytes, %v", n, err)
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) && errors.As(err, &ne) && ne.Timeout()
}

func checkReadDeadline(t *testing.T, _ Kind, a, b net.Conn) {
	p := make([]byte, 1)
	for _, at := range []time.Time{time.Now().Add(soon), time.Now().Add(-long), time.Unix(1, 0)} {
		a.SetReadDeadline(at)
		for range 2 {
			if n, err := a.Read(p); n != 0 || !isTimeout(err) {
				t.Fatalf("read past its deadline: %d bytes, %v", n, err)
			}
		}
	}
	a.SetDeadline(time.Time{})
	send(t, b, text(10, 1))
	receive(t, a, text(10, 1))
	a.SetReadDeadline(time.Now().Add(-long))
	send(t, a, text(10, 2)) // writing is another matter
	receive(t, b, text(10, 2))
}

func checkWriteDeadline(t *testing.T, k Kind, a, b net.Conn) {
	a.SetWriteDeadline(time.Now().Add(soon))
	if err := <-fill(a); !isTimeout(err) {
		t.Fatalf("write past its deadline: %v", err)
	}
	if k.Sealed {
		return
	}
	go io.Copy(io.Discard, b)
	a.SetWriteDeadline(time.Time{})
	send(t, a, text(1000, 1))
}

// checkDeadlineFrees sets a deadline while somebody waits already.
func checkDeadlineFrees(t *testing.T, _ Kind, a, b net.Conn) {
	for _, at := range []time.Duration{-long, soon} {
		a.SetReadDeadline(time.Now().Add(long))
		done := make(chan error)
		go func() {
			_, err := a.Read(make([]byte, 1))
			done <- err
		}()
		a.SetReadDeadline(time.Now().Add(at))
		if err := <-done; !isTimeout(err) {
			t.Errorf("read: %v", err)
		}
	}
	done := fill(a)
	receive(t, b, make([]byte, 100_000))
	a.SetWriteDeadline(time.Now().Add(-long))
	if err := <-done; !isTimeout(err) {
		t.Errorf("write: %v", err)
	}
}

// checkInterruptedReads interrupts reads by deadlines all the time, which must lose nothing.
func checkInterruptedReads(t *testing.T, _ Kind, a, b net.Conn) {
	want := text(2<<20, 1)
	var wg sync.WaitGroup
	wg.Go(func() { send(t, b, want) })
	var got []byte
	p := make([]byte, 5000)
	interrupted := 0
	for len(got) < len(want) {
		if interrupted < 1000 {
			a.SetReadDeadline(time.Now().Add(time.Duration(interrupted%50) * time.Microsecond))
		}
		n, err := a.Read(p)
		got = append(got, p[:n]...)
		if isTimeout(err) {
			interrupted++
			a.SetReadDeadline(time.Time{})
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes differ after %d interruptions", len(got), interrupted)
	}
	wg.Wait()
}
