package shmring

import (
	"context"
	"encoding/binary"
	"io"
	"runtime"
	"sync"
	"testing"
	"time"
)

// FuzzHostileRegion scribbles in a region while the host moves bytes through it. The host may end connections, but must
// not crash, nor wait for longer than the Timeout for a guest that has become silent. Of the input every 8 bytes are
// one thing that the guest does.
func FuzzHostileRegion(f *testing.F) {
	op := func(kind, where byte, value uint64) []byte {
		b := binary.LittleEndian.AppendUint64(nil, value)
		return append([]byte{kind, where}, b[:6]...)
	}
	f.Add([]byte{})
	f.Add(append(op(0, 0, 77), op(6, 0, 0)...))                    // another generation
	f.Add(append(op(1, offFlags/8, flagClosed), op(6, 0, 0)...))   // closed, though not at its end
	f.Add(append(op(1, offWritten/8, 1<<40), op(6, 0, 0)...))      // too far
	f.Add(append(op(4, offRead/8, 1), op(4, offWritten/8, 50)...)) // a little
	f.Add(append(op(2, offEpoch/8, 0), op(6, 0, 0)...))
	f.Add(append(op(3, 0, 0), op(5, 3, 1<<47)...))
	f.Fuzz(func(t *testing.T, input []byte) {
		path := newRegion(t, MinSize)
		l, err := Listen(path, Options{Channels: 2, Spin: -1})
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		all.Go(func() { serveAll(l, &all) })
		guest, err := Dial(context.Background(), path, Options{Spin: -1})
		if err != nil {
			t.Fatal(err)
		}
		guest.SetDeadline(time.Now().Add(time.Millisecond))
		for ; len(input) >= 8; input = input[8:] {
			scribble(guest, l.l, input[0], input[1], binary.LittleEndian.Uint64(input)>>16)
		}
		mute(guest)
		silence(l)
		guest.Close()
		l.Close()
		all.Wait()
		if refs := l.m.refs.Load(); refs != 0 {
			t.Errorf("%d users of the mapping at the end", refs)
		}
	})
}

// serveAll reads and writes whatever goes through each connection.
func serveAll(l *Listener, all *sync.WaitGroup) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		all.Go(func() {
			defer c.Close()
			var both sync.WaitGroup
			both.Go(func() { io.Copy(io.Discard, onlyReader{c}) })
			both.Go(func() { io.Copy(c, zeros{}) })
			both.Wait()
		})
	}
}

// scribble does one hostile thing.
func scribble(guest *Conn, l layout, kind, where byte, value uint64) {
	word := guest.m.word
	at := int(where) * 8 % 384
	switch kind % 8 {
	case 0:
		word(callsPage + 8*(int(where)%3)).Store(value)
	case 1:
		word(l.guestPage(guest.addr.Channel) + at).Store(value)
	case 2:
		word(at).Store(value)
	case 3:
		word(l.hostPage(guest.addr.Channel) + at).Store(value)
	case 4:
		word(l.guestPage(guest.addr.Channel) + at).Add(value % 1024)
	case 5:
		word(int(value % uint64(l.size) &^ 7)).Store(^value)
	case 6:
		runtime.Gosched()
		theHub.alarm.ring(true)
	case 7:
		guest.Write(make([]byte, value%100_000))
		io.ReadFull(guest, make([]byte, value%1000))
	}
}

// silence lets the time pass after which a host gives up a guest that does nothing.
func silence(l *Listener) {
	for range 2 {
		theHub.mu.Lock()
		l.pulse(2 * defaultTimeout)
		theHub.mu.Unlock()
	}
	l.mu.Lock()
	conns := l.conns()
	l.mu.Unlock()
	for _, c := range conns {
		for !c.vacant.Load() { // its reader and its writer leave, and it is closed
			runtime.Gosched()
		}
	}
}
