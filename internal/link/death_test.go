package link_test

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/internal/link"
)

// TestPeerKilled kills the process at the other end, once as the one that called and once as the one that was called,
// while both directions are busy. No program of its own can say good-bye then; whoever is left must hear of it.
func TestPeerKilled(t *testing.T) {
	killed := map[string]string{
		"tcp":  "tcp://127.0.0.1:0",
		"unix": "unix://" + filepath.Join(t.TempDir(), "s"),
	}
	for name, url := range killed {
		t.Run(name, func(t *testing.T) { peerKilled(t, url, url) })
	}
	for _, name := range []string{"guest", "host"} { // after the time that a guest may stand still
		t.Run("shm-"+name, func(t *testing.T) {
			t.Parallel()
			url := region(t)
			if name == "guest" {
				callerDies(t, url, url)
			} else {
				calledDies(t, url, url)
			}
		})
	}
	t.Run("hybrid", func(t *testing.T) {
		v := newVMM(t) // it lives on, and passes on what happens to the guest's program
		t.Run("called", func(t *testing.T) { calledDies(t, "unix://"+v.port(7117), "hybrid://"+v.socket+":7117") })
		t.Run("caller", func(t *testing.T) { callerDies(t, "hybrid://"+v.socket+":7118", "unix://"+v.socket+"_7118") })
	})
}

func TestVsockPeerKilled(t *testing.T) {
	needVsock(t)
	peerKilled(t, "vsock://:8999", "vsock://1:8999")
}

func peerKilled(t *testing.T, listen, dial string) {
	t.Run("caller", func(t *testing.T) { callerDies(t, listen, dial) })
	t.Run("called", func(t *testing.T) { calledDies(t, listen, dial) })
}

// callerDies listens for a process that calls.
func callerDies(t *testing.T, listen, dial string) {
	l, err := link.OS.Listen(t.Context(), listen)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if strings.HasSuffix(dial, ":0") {
		dial = l.Addr().Network() + "://" + l.Addr().String()
	}
	child, _ := startChild(t, "dial "+dial)
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	endsWith(t, c, child)
}

// calledDies calls a process that listens.
func calledDies(t *testing.T, listen, dial string) {
	child, addr := startChild(t, "listen "+listen)
	if strings.HasSuffix(dial, ":0") {
		dial = addr
	}
	c, err := link.OS.Dial(t.Context(), dial)
	if err != nil {
		t.Fatal(err)
	}
	endsWith(t, c, child)
}

// endsWith wants a busy connection to end, for its reader and its writer, when a process is killed.
func endsWith(t *testing.T, c net.Conn, child *os.Process) {
	t.Helper()
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second)) // should it not end
	write := make(chan error, 1)
	go func() {
		p := make([]byte, 64<<10)
		for {
			if _, err := c.Write(p); err != nil {
				write <- err
				return
			}
		}
	}()
	if _, err := io.CopyN(io.Discard, c, 1<<20); err != nil {
		t.Fatal(err)
	}
	child.Kill()
	begin := time.Now()
	_, err := io.Copy(io.Discard, c)
	werr := <-write
	for _, err := range []error{err, werr} {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("it is not noticed that the process at the other end is dead")
		}
	}
	t.Logf("noticed within %v: read %v, write %v", time.Since(begin).Round(time.Millisecond), err, werr)
}

const childDoes = "VIRTSWARM_LINK_CHILD"

// startChild runs this program as a process that does as told, and returns at which URL it listens.
func startChild(t *testing.T, what string) (child *os.Process, addr string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestChild$")
	cmd.Env = append(os.Environ(), childDoes+"="+what)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	if strings.HasPrefix(what, "listen ") {
		p := make([]byte, 1000)
		n, err := out.Read(p)
		if addr = strings.TrimSpace(string(p[:n])); err != nil || !strings.Contains(addr, "://") {
			t.Fatalf("the child says %q, %v", addr, err)
		}
	}
	return cmd.Process, addr
}

// TestChild is not a test but the other process of TestPeerKilled.
func TestChild(t *testing.T) {
	what, url, ok := strings.Cut(os.Getenv(childDoes), " ")
	if !ok {
		t.Skip("this is the other process of tests that kill it")
	}
	var c net.Conn
	var err error
	if what == "listen" {
		l, lerr := link.OS.Listen(t.Context(), url)
		if lerr != nil {
			t.Fatal(lerr)
		}
		os.Stdout.WriteString(l.Addr().Network() + "://" + l.Addr().String() + "\n")
		c, err = l.Accept()
	} else {
		c, err = link.OS.Dial(t.Context(), url)
	}
	if err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, c)
	for p := make([]byte, 64<<10); err == nil; {
		_, err = c.Write(p)
	}
	t.Fatal(err)
}
