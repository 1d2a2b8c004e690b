package link_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/internal/link"
)

// A vmm does with a unix socket what Firecracker, Cloud Hypervisor and vhost-device-vsock do: whoever connects names a
// port of the guest, is answered, and then talks to the guest. The guest's ports are unix sockets in a directory.
type vmm struct {
	socket string
	guest  string
}

func newVMM(t testing.TB) *vmm {
	t.Helper()
	dir := t.TempDir()
	v := &vmm{socket: filepath.Join(dir, "vm.sock"), guest: filepath.Join(dir, "guest")}
	if err := os.Mkdir(v.guest, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", v.socket)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { v.serve(c.(*net.UnixConn)) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return v
}

// port is where the guest's port listens.
func (v *vmm) port(n uint32) string { return filepath.Join(v.guest, fmt.Sprint(n)) }

func (v *vmm) serve(host *net.UnixConn) {
	defer host.Close()
	var port uint32
	in := bufio.NewReader(host)
	line, err := in.ReadString('\n')
	if _, bad := fmt.Sscanf(line, "CONNECT %d\n", &port); err != nil || bad != nil {
		return
	}
	c, err := net.Dial("unix", v.port(port))
	if err != nil {
		return // which is how the real ones say that nobody listens
	}
	defer c.Close()
	guest := c.(*net.UnixConn)
	fmt.Fprintf(host, "OK %d\n", 1<<30)
	var wg sync.WaitGroup
	wg.Go(func() { pump(guest, in, host) })
	wg.Go(func() { pump(host, guest, guest) })
	wg.Wait()
}

// pump copies one direction and passes on how it ended.
func pump(to *net.UnixConn, from io.Reader, source *net.UnixConn) {
	if _, err := io.Copy(to, from); err != nil {
		to.Close()
		source.Close()
		return
	}
	to.CloseWrite()
}

// hostCalls is a connection that the host makes into a guest.
func hostCalls(t testing.TB) (host, guest net.Conn) {
	t.Helper()
	v := newVMM(t)
	l, err := net.Listen("unix", v.port(7117))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if host, err = link.OS.Dial(t.Context(), "hybrid://"+v.socket+":7117"); err != nil {
		t.Fatal(err)
	}
	if guest, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return host, guest
}

// guestCalls is a connection that a guest makes to its host.
func guestCalls(t testing.TB) (guest, host net.Conn) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "vm.sock")
	l, err := link.OS.Listen(t.Context(), "hybrid://"+socket+":7117")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if guest, err = net.Dial("unix", socket+"_7117"); err != nil {
		t.Fatal(err)
	}
	if host, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return guest, host
}

func TestHybridListens(t *testing.T) {
	dir := t.TempDir()
	url := "hybrid://" + filepath.Join(dir, "vm.sock") + ":7117"
	l, err := link.OS.Listen(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	if got := l.Addr().Network() + "://" + l.Addr().String(); got != url {
		t.Errorf("listens at %s", got)
	}
	if info, err := os.Stat(filepath.Join(dir, "vm.sock_7117")); err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := link.OS.Listen(t.Context(), url); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), url) {
		t.Errorf("in use: %v", err)
	}
	l.Close()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// TestHybridAnswers gives all kinds of answers to CONNECT.
func TestHybridAnswers(t *testing.T) {
	for name, x := range map[string]struct {
		answer string
		stay   bool // instead of closing
		want   error
	}{
		"good":       {answer: "OK 1073741824\nfirst\nbytes"},
		"nobody":     {answer: "", want: syscall.ECONNREFUSED},
		"cut off":    {answer: "OK 10", want: link.ErrAnswer},
		"refuses":    {answer: "NO\n", want: link.ErrAnswer},
		"no number":  {answer: "OK ten\n", want: link.ErrAnswer},
		"empty line": {answer: "\n", want: link.ErrAnswer},
		"too long":   {answer: "OK " + strings.Repeat("1", 1000), stay: true, want: link.ErrAnswer},
		"64 bytes":   {answer: "OK " + strings.Repeat("0", 59) + "1\n"},
		"65 bytes":   {answer: "OK " + strings.Repeat("0", 60) + "1\n", want: link.ErrAnswer},
		"silent":     {answer: "", stay: true, want: context.DeadlineExceeded},
		"slow":       {answer: "OK 1", stay: true, want: context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			socket := filepath.Join(t.TempDir(), "s")
			l, err := net.Listen("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			var wg sync.WaitGroup
			defer wg.Wait()
			wg.Go(func() {
				c, err := l.Accept()
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				if line, err := bufio.NewReader(c).ReadString('\n'); line != "CONNECT 7\n" || err != nil {
					t.Errorf("asks %q, %v", line, err)
				}
				io.WriteString(c, x.answer)
				if x.stay {
					io.Copy(io.Discard, c)
				}
			})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if errors.Is(x.want, context.DeadlineExceeded) {
				ctx, cancel = context.WithTimeout(ctx, 50*time.Millisecond)
				defer cancel()
			}
			c, err := link.OS.Dial(ctx, "hybrid://"+socket+":7")
			if !errors.Is(err, x.want) || err != nil && (!strings.Contains(err.Error(), socket+":7") || len(err.Error()) > 500) {
				t.Fatalf("%v, want %v", err, x.want)
			}
			if err != nil {
				return
			}
			defer c.Close()
			cancel() // which concerns only the call
			_, rest, _ := strings.Cut(x.answer, "\n")
			if got, err := io.ReadAll(c); string(got) != rest || err != nil {
				t.Errorf("reads %q, %v behind the answer", got, err)
			}
		})
	}
}

func TestHybridWithoutHypervisor(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	if _, err := link.OS.Dial(t.Context(), "hybrid://"+socket+":7"); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), socket) {
		t.Error(err)
	}
	v := newVMM(t)
	if _, err := link.OS.Dial(t.Context(), "hybrid://"+v.socket+":7"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := link.OS.Dial(ctx, "hybrid://"+v.socket+":7"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
