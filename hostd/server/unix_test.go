package server_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtswarm/virtswarm/hostd/server"
)

// socketPath is in a directory of its own, outside the test's, whose path may be too long for a socket.
func socketPath(t *testing.T) string {
	dir, err := os.MkdirTemp("", "vs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

func TestSocketIsPrivateAndGoes(t *testing.T) {
	path := socketPath(t)
	l, err := server.ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("mode %v, want a socket with 0600", info.Mode())
	}
	l.Close()
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after close: %v, want no socket", err)
	}
}

func TestSecondDaemonIsRefused(t *testing.T) {
	path := socketPath(t)
	l, err := server.ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := server.ListenUnix(path); !errors.Is(err, server.ErrAlreadyRunning) {
		t.Errorf("got %v, want %v", err, server.ErrAlreadyRunning)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the first daemon lost its socket: %v", err)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := socketPath(t)
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false) // as kill -9 leaves it
	dead.Close()
	l, err := server.ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("dial the new socket: %v", err)
	}
	c.Close()
}

func TestOtherFilesAreLeftAlone(t *testing.T) {
	path := socketPath(t)
	if err := os.WriteFile(path, []byte("thesis"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := server.ListenUnix(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want an error that names %s", err, path)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "thesis" {
		t.Errorf("the file is now %q, %v", text, err)
	}
}

func TestLongPathIsExplained(t *testing.T) {
	path := "/tmp/" + strings.Repeat("x", 200)
	if _, err := server.ListenUnix(path); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("got %v, want one about the length", err)
	}
}
