package linktest

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestFabricConns checks connections over roads that take their time.
func TestFabricConns(t *testing.T) {
	slow := func(t testing.TB) (net.Conn, net.Conn) {
		f := NewFabric()
		f.Slow("a", "b", time.Millisecond, 0)
		f.Slow("b", "a", 3*time.Millisecond, 0)
		a, b, _, _ := meetOn(t, f)
		return a, b
	}
	// Without TLS: writers that wait for its mutex would stop the bubble's clock, and with it the road.
	Conn(t, Kind{Pair: slow, Bubble: true})
}

// meetOn connects two hosts of a fabric.
func meetOn(t testing.TB, f *Fabric) (a, b net.Conn, onA, onB *Plug) {
	t.Helper()
	onA, onB = f.Plug("a"), f.Plug("b")
	l, err := onB.Listen(t.Context(), "b:1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if a, err = onA.Dial(t.Context(), "b:1"); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b, onA, onB
}

// onFabric runs a test with two connected hosts in a bubble.
func onFabric(t *testing.T, do func(t *testing.T, f *Fabric, a, b net.Conn, onA, onB *Plug)) {
	synctest.Test(t, func(t *testing.T) {
		f := NewFabric()
		a, b, onA, onB := meetOn(t, f)
		do(t, f, a, b, onA, onB)
	})
}

// hear reads one byte and says how long that took.
func hear(t *testing.T, c net.Conn, patience time.Duration) (time.Duration, error) {
	t.Helper()
	begin := time.Now()
	c.SetReadDeadline(begin.Add(patience))
	_, err := io.ReadFull(c, make([]byte, 1))
	return time.Since(begin), err
}

func TestFabricDelaysAndPaces(t *testing.T) {
	onFabric(t, func(t *testing.T, f *Fabric, a, b net.Conn, _, _ *Plug) {
		f.Slow("a", "b", 2*time.Second, 1000)
		a.Write(make([]byte, 3000))
		begin := time.Now()
		if _, err := io.ReadFull(b, make([]byte, 3000)); err != nil || time.Since(begin) != 5*time.Second {
			t.Errorf("3000 bytes came after %v, %v", time.Since(begin), err)
		}
		b.Write([]byte{1})
		if took, err := hear(t, a, time.Second); err != nil || took != 0 {
			t.Errorf("the way back took %v, %v", took, err)
		}
	})
}

func TestFabricCutsOneWay(t *testing.T) {
	onFabric(t, func(t *testing.T, f *Fabric, a, b net.Conn, onA, _ *Plug) {
		f.Cut("a", "b", true)
		a.Write([]byte{1})
		b.Write([]byte{2})
		if _, err := hear(t, a, time.Second); err != nil {
			t.Errorf("the other way: %v", err)
		}
		if _, err := hear(t, b, time.Minute); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("over the cut: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := onA.Dial(ctx, "b:1"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a call over the cut: %v", err)
		}
		a.Close() // with nothing unread: an ordinary end, which does not get through either
		if _, err := hear(t, b, time.Minute); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the end came over the cut: %v", err)
		}
		f.Cut("a", "b", false)
		if _, err := hear(t, b, time.Second); err != nil {
			t.Errorf("healed: %v", err)
		}
		if _, err := hear(t, b, time.Second); err != io.EOF {
			t.Errorf("the end: %v", err)
		}
	})
}

func TestFabricHostDies(t *testing.T) {
	onFabric(t, func(t *testing.T, f *Fabric, a, b net.Conn, onA, onB *Plug) {
		onB.Unplug(false)
		if _, err := hear(t, a, time.Minute); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("killed: %v", err)
		}
		if _, err := b.Write([]byte{1}); err == nil {
			t.Error("a dead host writes")
		}
		if _, err := onA.Dial(t.Context(), "b:1"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("call: %v", err)
		}
		if _, err := onB.Dial(t.Context(), "b:1"); !errors.Is(err, syscall.ENETDOWN) {
			t.Errorf("a dead host calls: %v", err)
		}
		if _, err := onB.Listen(t.Context(), "b:1"); !errors.Is(err, syscall.ENETDOWN) {
			t.Errorf("a dead host listens: %v", err)
		}
	})
	onFabric(t, func(t *testing.T, f *Fabric, a, b net.Conn, _, onB *Plug) {
		b.Write([]byte{1}) // on its way, and lost
		onB.Unplug(true)
		b.Close()
		if took, err := hear(t, a, time.Hour); !errors.Is(err, os.ErrDeadlineExceeded) || took != time.Hour {
			t.Errorf("without power: %v after %v", err, took)
		}
		if _, err := a.Write([]byte{1}); err != nil {
			t.Errorf("write to nobody: %v", err)
		}
		f.Plug("b")
		if _, err := hear(t, a, time.Minute); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("back again: %v", err)
		}
	})
}

func TestFabricBreaks(t *testing.T) {
	onFabric(t, func(t *testing.T, f *Fabric, a, b net.Conn, _, _ *Plug) {
		f.Cut("a", "b", true)
		f.Cut("b", "a", true)
		f.Break("b", "a")
		for _, c := range []net.Conn{a, b} {
			if _, err := hear(t, c, time.Minute); !errors.Is(err, syscall.ECONNRESET) {
				t.Error(err)
			}
			if _, err := c.Write([]byte{1}); !errors.Is(err, syscall.ECONNRESET) {
				t.Error(err)
			}
		}
		a.Close()
		b.Close()
		f.mu.Lock()
		defer f.mu.Unlock()
		if len(f.cables) != 0 {
			t.Errorf("%d connections are remembered", len(f.cables))
		}
	})
}
