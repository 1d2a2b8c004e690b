package linktest

import (
	"bytes"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// large is one Write that no kind of link takes at once: more than any buffer, and no multiple of anything.
const large = 9<<20 + 13

// checkLargeWrites has both sides write at once what fits nowhere; neither may wait for the other to read first.
func checkLargeWrites(t *testing.T, _ Kind, a, b net.Conn) {
	var wg sync.WaitGroup
	for i, c := range []net.Conn{a, b} {
		wg.Go(func() { send(t, c, text(large, byte(i))) })
		wg.Go(func() { receive(t, c, text(large, byte(1-i))) })
	}
	wg.Wait()
	wg.Go(func() { // and as a program would copy a file, whatever shortcuts the connection takes
		if n, err := io.Copy(a, bytes.NewReader(text(large, 2))); n != large || err != nil {
			t.Errorf("copy: %d of %d bytes, %v", n, large, err)
		}
	})
	receive(t, b, text(large, 2))
	wg.Wait()
}

// checkManyAtOnce has many goroutines write and read on both ends, with deadlines set and addresses asked for in
// between. Who reads what is left to chance, but every byte must be read by somebody, once.
func checkManyAtOnce(t *testing.T, _ Kind, a, b net.Conn) {
	const each, many, size = 8, 60, 3001
	var wg sync.WaitGroup
	var read [2][256]atomic.Int64 // how often each byte has come to each end
	for i, c := range []net.Conn{a, b} {
		var left atomic.Int64
		left.Store(each * many * size)
		for w := range each {
			wg.Go(func() {
				p := bytes.Repeat([]byte{byte(w)}, size)
				for range many {
					send(t, c, p)
					c.SetWriteDeadline(time.Now().Add(long))
					c.RemoteAddr()
				}
			})
			wg.Go(func() {
				p := make([]byte, 1000+100*w)
				for left.Load() > 0 {
					n, err := c.Read(p)
					for _, x := range p[:n] {
						read[i][x].Add(1)
					}
					if left.Add(-int64(n)) == 0 {
						c.SetReadDeadline(time.Unix(1, 0)) // all is here; the others wait for nothing
					}
					if err != nil && left.Load() > 0 {
						t.Errorf("read: %v with %d bytes to come", err, left.Load())
						return
					}
				}
			})
		}
	}
	wg.Wait()
	for i := range read {
		for x := range read[i] {
			want := int64(0)
			if x < each {
				want = many * size
			}
			if got := read[i][x].Load(); got != want {
				t.Errorf("end %d has read byte %d %d times, want %d", i, x, got, want)
			}
		}
	}
}

// checkCloseFreesAll closes under many goroutines that wait in both directions.
func checkCloseFreesAll(t *testing.T, _ Kind, a, b net.Conn) {
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := a.Read(make([]byte, 1)); err == nil {
				t.Error("a Read succeeds though nothing was written")
			}
		})
		done := fill(a)
		wg.Go(func() { <-done })
	}
	receive(t, b, make([]byte, 100_000))
	a.Close()
	wg.Wait()
}

// checkHalfCloseBoth ends the directions one after the other, with much on the way: nothing may be cut off.
func checkHalfCloseBoth(t *testing.T, _ Kind, a, b net.Conn) {
	type halfCloser interface{ CloseWrite() error }
	if _, ok := a.(halfCloser); !ok {
		t.Skip("no half-close")
	}
	var wg sync.WaitGroup
	for i, c := range []net.Conn{a, b} {
		wg.Go(func() {
			send(t, c, text(3<<20, byte(i)))
			if err := c.(halfCloser).CloseWrite(); err != nil {
				t.Errorf("close for writing: %v", err)
			}
		})
		wg.Go(func() {
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, text(3<<20, byte(1-i))) {
				t.Errorf("read %d bytes, %v", len(got), err)
			}
		})
	}
	wg.Wait()
}

// checkInterruptedWrites interrupts writes by deadlines. Each says how much it has sent, and whoever goes on from there
// loses and repeats nothing.
func checkInterruptedWrites(t *testing.T, k Kind, a, b net.Conn) {
	if k.Sealed {
		t.Skip("an interrupted write breaks this connection")
	}
	want := text(4<<20, 1)
	var wg sync.WaitGroup
	wg.Go(func() { receive(t, b, want) })
	interrupted := 0
	for rest := want; len(rest) > 0; {
		if interrupted < 1000 {
			a.SetWriteDeadline(time.Now().Add(time.Duration(interrupted%50) * time.Microsecond))
		}
		n, err := a.Write(rest)
		rest = rest[n:]
		if isTimeout(err) {
			interrupted++
			a.SetWriteDeadline(time.Time{})
			continue
		}
		if err != nil {
			t.Errorf("write: %v", err)
			a.Close() // or the reader waits for ever
			break
		}
	}
	wg.Wait()
}
