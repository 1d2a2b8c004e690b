package link_test

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/virtswarm/virtswarm/internal/link"
	"github.com/virtswarm/virtswarm/internal/link/linktest"
)

func TestSplit(t *testing.T) {
	for url, want := range map[string]string{
		"tcp://host:7":                  "tcp host:7",
		"host:7":                        "tcp host:7",
		":7":                            "tcp :7",
		"tcp://[fe80::1]:7":             "tcp [fe80::1]:7",
		"unix:///run/x.sock":            "unix /run/x.sock",
		"unix:///with space/ä":          "unix /with space/ä",
		"":                              "",
		"host":                          "",
		"tcp://host":                    "",
		"tcp://host:7/path":             "",
		"tcp://user@host:7":             "",
		"tcp://host:7?x=y":              "",
		"unix://relative":               "",
		"unix://host/path":              "",
		"vsock://2:7":                   "vsock 2:7",
		"vsock://:7":                    "vsock :7",
		"vsock://2:0":                   "vsock 2:0",
		"vsock://4294967294:4294967294": "vsock 4294967294:4294967294",
		"vsock://4294967295:7":          "", // these would mean any
		"vsock://2:4294967295":          "",
		"vsock://2":                     "",
		"vsock://2:":                    "",
		"vsock://-2:7":                  "",
		"vsock://host:7":                "",
		"vsock://2:7/x":                 "",
		"vsock:///2:7":                  "",
		"hybrid:///run/vm.sock:7":       "hybrid /run/vm.sock:7",
		"hybrid:///a:b/vm:7":            "hybrid /a:b/vm:7",
		"hybrid:///run/vm.sock":         "",
		"hybrid:///run/vm.sock:":        "",
		"hybrid:///run/vm.sock:x":       "",
		"hybrid://:7":                   "",
		"hybrid://run/vm.sock:7":        "",
		"shm:///dev/shm/ring":           "shm /dev/shm/ring",
		"shm://ring":                    "",
		"http://host:7":                 "",
		"tcp://host:port":               "",
		"tcp://ho\nst:7":                "",
		strings.Repeat("x", 1000) + "/": "",
	} {
		network, address, err := link.Split(url)
		if got := strings.TrimSpace(network + " " + address); got != want || (err == nil) != (want != "") {
			t.Errorf("%.50q: %q, %v", url, got, err)
		}
		if err != nil && (!errors.Is(err, link.ErrBadURL) || len(err.Error()) > 400) {
			t.Errorf("%.50q: %v", url, err)
		}
	}
}

func TestUnixSocket(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	url := "unix://" + path
	old, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := link.OS.Listen(t.Context(), url); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), path) {
		t.Errorf("in use: %v", err)
	}
	old.SetUnlinkOnClose(false)
	old.Close() // as if killed: the socket stays

	l, err := link.OS.Listen(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if l.Addr().String() != path {
		t.Errorf("address %v", l.Addr())
	}
	c, err := link.OS.Dial(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	l.Close()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	if _, err := link.OS.Dial(t.Context(), url); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nobody there: %v", err)
	}

	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := link.OS.Listen(t.Context(), url); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a file: %v", err)
	}
	if p, err := os.ReadFile(path); string(p) != "precious" {
		t.Errorf("the file is %q, %v", p, err)
	}
}

func TestPortInUse(t *testing.T) {
	for name, n := range map[string]link.Network{"os": link.OS, "memory": linktest.NewMemory()} {
		l, err := n.Listen(t.Context(), "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.Listen(t.Context(), l.Addr().String()); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), l.Addr().String()) {
			t.Errorf("%s: %v", name, err)
		}
		l.Close()
		if l, err = n.Listen(t.Context(), l.Addr().String()); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		l.Close()
	}
}

func TestDialGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := linktest.NewMemory()
		l, err := n.Listen(t.Context(), "tcp://a:1") // which nobody accepts from
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		d := &link.Dialer{Network: n, Identity: newCluster(t, "one"), Timeout: time.Minute}
		begin := time.Now()
		if _, err := d.Dial(t.Context(), "a:1", link.ProtoWire, ""); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := d.Dial(ctx, "a:1", link.ProtoWire, ""); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
