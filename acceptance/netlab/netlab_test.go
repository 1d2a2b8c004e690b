package netlab

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// roleVariable makes this test program act as something on a lab's host instead of running tests.
const roleVariable = "NETLAB_TEST_ROLE"

const port = 7000

func TestMain(m *testing.M) {
	flag.Parse()
	var err error
	switch os.Getenv(roleVariable) {
	case "":
		os.Exit(m.Run())
	case "receive":
		err = receive()
	case "send":
		err = send(flag.Arg(0), flag.Arg(1))
	case "own a lab":
		err = ownLab()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// receive takes what anybody sends and answers with a byte at the end.
func receive() error {
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			io.Copy(io.Discard, conn)
			conn.Write([]byte{1})
			conn.Close()
		}()
	}
}

// send sends bytes and waits for the answer.
func send(addr, bytes string) error {
	n, err := strconv.ParseInt(bytes, 10, 64)
	if err != nil {
		return err
	}
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(addr, fmt.Sprint(port)), time.Second)
	if err != nil {
		return err
	}
	if _, err := io.CopyN(conn, zeros{}, n); err != nil {
		return err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	_, err = io.ReadFull(conn, make([]byte, 1))
	return err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// ownLab makes a lab with a process in it and waits to be killed.
func ownLab() error {
	l, err := New(Config{Hosts: 1})
	if err != nil {
		return err
	}
	if _, err := l.Disk("disk", 1<<20); err != nil {
		return err
	}
	cmd := l.Hosts[0].Command("sleep", "1000")
	cmd.SysProcAttr.Pdeathsig = 0 // as one that slipped away
	if err := cmd.Start(); err != nil {
		return err
	}
	fmt.Println(l.id, cmd.Process.Pid)
	select {}
}

func newLab(t *testing.T, cfg Config) *Lab {
	t.Helper()
	l, err := New(cfg)
	if errors.Is(err, ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// role starts this test program as something else on a host.
func role(t *testing.T, h *Host, role string, args ...string) *Process {
	t.Helper()
	cmd := h.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	p, err := Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

func receiver(t *testing.T, h *Host) *Process {
	t.Helper()
	p := role(t, h, "receive")
	if err := p.AwaitListener(t.Context(), port); err != nil {
		t.Fatal(err)
	}
	return p
}

func hears(t *testing.T, to, from *Host) bool {
	t.Helper()
	_, err := role(t, from, "send", to.Addr, "1000").Wait(t.Context())
	return err == nil
}

func TestRatesAndCounters(t *testing.T) {
	const size = 2 << 20
	l := newLab(t, Config{Hosts: 3, Racks: []int{2, 1}, Rate: 80e6, Trunk: 40e6})
	receiver(t, l.Hosts[0])
	receiver(t, l.Hosts[2])
	send := func(from, to *Host) time.Duration {
		t.Helper()
		start := time.Now()
		at, err := role(t, from, "send", to.Addr, fmt.Sprint(size)).Wait(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return at.Sub(start)
	}
	// A link can be slower than its rate, never faster; the bucket holds 128 KiB.
	atLeast := func(took time.Duration, rate Rate) {
		t.Helper()
		if least := time.Duration(float64(size-256<<10) * 8 / float64(rate) * 1e9); took < least {
			t.Errorf("%d bytes took %v, faster than %d bit/s", size, took, rate)
		}
	}
	atLeast(send(l.Hosts[1], l.Hosts[0]), 80e6)
	if n, err := l.Trunk(0); err != nil || n.Sent > size/10 {
		t.Errorf("within a rack, %+v passed the trunk, %v", n, err)
	}
	atLeast(send(l.Hosts[1], l.Hosts[2]), 40e6)
	n, err := l.Trunk(0)
	if err != nil || n.Sent < size || n.Received > size/10 {
		t.Errorf("between racks, %+v passed the trunk, %v", n, err)
	}
	if back, err := l.Trunk(1); err != nil || back.Received < size || back.Sub(n).Sent > 0 {
		t.Errorf("between racks, %+v passed the other trunk, %v", back, err)
	}
	if n, err := l.Hosts[1].Traffic(); err != nil || n.Sent < 2*size || n.Sent > 3*size {
		t.Errorf("the sender counts %+v, %v", n, err)
	}
	if err := l.Hosts[1].SetRate(20e6, 20e6); err != nil {
		t.Fatal(err)
	}
	atLeast(send(l.Hosts[1], l.Hosts[0]), 20e6)
}

func TestCutsAndPartitions(t *testing.T) {
	l := newLab(t, Config{Hosts: 3})
	a, b, c := l.Hosts[0], l.Hosts[1], l.Hosts[2]
	for _, h := range l.Hosts {
		receiver(t, h)
	}
	expect := func(want bool, pairs ...[2]*Host) {
		t.Helper()
		for _, p := range pairs {
			if got := hears(t, p[1], p[0]); got != want {
				t.Errorf("%s reaches %s: %v", p[0].Name, p[1].Name, got)
			}
		}
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	expect(true, [2]*Host{a, b}, [2]*Host{b, c}, [2]*Host{c, a})
	do(l.Partition([]*Host{a}))
	expect(false, [2]*Host{a, b}, [2]*Host{c, a})
	expect(true, [2]*Host{b, c})
	do(l.Partition([]*Host{a, b}, []*Host{c}))
	expect(true, [2]*Host{a, b})
	expect(false, [2]*Host{b, c})
	do(l.Partition())
	do(a.Cut())
	expect(false, [2]*Host{a, b}, [2]*Host{c, a})
	do(a.Heal())
	expect(true, [2]*Host{a, b}, [2]*Host{b, c}, [2]*Host{c, a})
}

// A lab whose owner was killed is taken down by the next one; a living owner's is left alone.
func TestLeftovers(t *testing.T) {
	living := newLab(t, Config{Hosts: 1})
	owner := exec.Command(os.Args[0])
	owner.Env = append(os.Environ(), roleVariable+"=own a lab")
	owner.Stderr = os.Stderr
	out, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	owner.Process.Kill()
	owner.Wait()
	if err != nil {
		t.Fatal(err)
	}
	id, pid, _ := strings.Cut(strings.TrimSpace(line), " ")
	newLab(t, Config{Hosts: 1})
	for _, pattern := range []string{filepath.Join(namespaces, namespace(id, "*")), filepath.Join(root, id+"*")} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	}
	if left, err := mountsBelow(filepath.Join(root, id)); err != nil || len(left) > 0 {
		t.Errorf("left behind: mounts %q, %v", left, err)
	}
	n, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := awaitGone(t.Context(), n); err != nil {
		t.Errorf("the process on the dead lab's host: %v", err)
	}
	if living.Hosts[0].Command("true").Run() != nil {
		t.Error("the living owner's lab is gone")
	}
}

// awaitGone waits until a process has ended; it may be a zombie if nobody waits for it.
func awaitGone(ctx context.Context, pid int) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") || syscall.Kill(pid, 0) != nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("process %d still runs", pid)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	for _, cfg := range []Config{{}, {Hosts: MaxHosts + 1}, {Hosts: 3, Racks: []int{1, 1}}} {
		if l, err := New(cfg); err == nil {
			l.Close()
			t.Errorf("made a lab of %+v", cfg)
		} else if errors.Is(err, ErrUnavailable) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}
