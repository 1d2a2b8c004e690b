package shmring

import (
	"context"
	"path/filepath"
	"testing"
)

// newRegion makes the file of a region.
func newRegion(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "region")
	if err := Create(path, size, -1, -1); err != nil {
		t.Fatal(err)
	}
	return path
}

func newListener(t testing.TB, path string, o Options) *Listener {
	t.Helper()
	l, err := Listen(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// connect makes a connection of a region that l serves.
func connect(t testing.TB, l *Listener, o Options) (host, guest *Conn) {
	t.Helper()
	guest, err := Dial(context.Background(), l.addr.Path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guest.Close() })
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*Conn), guest
}

func newPair(t testing.TB, size int64, o Options) (host, guest *Conn) {
	t.Helper()
	return connect(t, newListener(t, newRegion(t, size), o), o)
}

// mute lets a side die without a word.
func mute(c *Conn) {
	c.muted.Store(true)
	if !c.host {
		return
	}
	theHub.mu.Lock()
	defer theHub.mu.Unlock()
	for _, w := range theHub.all {
		if l, ok := w.(*Listener); ok && l.m == c.m {
			l.muted.Store(true)
		}
	}
}
