package acceptance

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/acceptance/netlab"
)

// patience bounds every wait for an event. It decides no test: what is awaited either comes or never does.
const patience = 60 * time.Second

// bin is the directory of the programs under test, built once for all tests.
var bin string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "virtswarm-bin.")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		build := exec.Command("go", "build", "-race", "-tags", "libvirt_dlopen", "-o", dir+"/", "../cmd/...")
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "build the programs:", err)
			return 1
		}
		bin = dir
		return m.Run()
	}())
}

// noLibvirt keeps daemons from the libvirt of the machine that the tests run on.
const noLibvirt = "libvirt: {uri: none}\n"

// lab is a cluster of real daemons, on loopback addresses of its own or on hosts of a network lab.
type lab struct {
	t      *testing.T
	dir    string
	config string
	hosts  []*host
	net    *netlab.Lab // nil on loopback
}

// host is one daemon with its directory; it may be running or not.
type host struct {
	lab    *lab
	name   string
	addr   string
	data   string
	socket string
	args   []string                                       // of every start, before those of a single one
	at     *netlab.Host                                   // nil on loopback
	daemon string                                         // the program; virtswarmd if empty
	inside func(program string, args ...string) *exec.Cmd // how a program is run there; nil is as usual
	env    []string                                       // beside this process' own
	cmd    *exec.Cmd
	exited chan struct{} // closed once cmd has been waited for
}

// network gives each lab a /24 of 127.0.0.0/8 to itself, also beside another run of the tests on this machine.
var network = func() func() string {
	var next atomic.Uint32
	next.Store(rand.Uint32N(1 << 14))
	return func() string {
		n := next.Add(1)
		return fmt.Sprintf("127.%d.%d", 64+n>>8&63, n&255)
	}
}()

// newLab starts n daemons h1, h2, ... as one cluster. The yaml is added to their configuration.
func newLab(t *testing.T, n int, yaml string) *lab {
	t.Helper()
	l := &lab{t: t, dir: t.TempDir()}
	l.config = filepath.Join(l.dir, "virtswarm.yaml")
	l.write(l.config, []byte("host_timeout: 3s\ngrace: 3s\nlog: {level: debug}\n"+noLibvirt+yaml))
	net := network()
	for i := range n {
		l.hosts = append(l.hosts, l.newHost(fmt.Sprintf("h%d", i+1), fmt.Sprintf("%s.%d:7117", net, i+1)))
	}
	l.startAll()
	return l
}

// startAll makes all hosts one cluster.
func (l *lab) startAll() {
	l.t.Helper()
	for i, h := range l.hosts {
		if i == 0 {
			h.start()
			continue
		}
		h.join(l.hosts[0])
	}
}

// newHost makes a host that does not run yet.
func (l *lab) newHost(name, addr string) *host {
	h := &host{lab: l, name: name, addr: addr, data: filepath.Join(l.dir, name), socket: filepath.Join(l.dir, name+".sock")}
	h.args = []string{"--config", l.config, "--name", name, "--listen", addr, "--data", h.data, "--socket", h.socket}
	l.t.Cleanup(func() {
		h.kill()
		h.checkLog()
	})
	return h
}

// checkLog fails the test if the daemon panicked or raced, and shows the end of the log of a failed test.
func (h *host) checkLog() {
	path := filepath.Join(h.lab.dir, h.name+".log")
	p, _ := os.ReadFile(path) // none if it was never started
	for _, bad := range []string{"WARNING: DATA RACE", "panic: ", "fatal error: "} {
		if i := bytes.Index(p, []byte(bad)); i >= 0 {
			h.lab.t.Errorf("in the log of %s:\n%s", h.name, p[i:min(len(p), i+4000)])
		}
	}
	if h.lab.t.Failed() {
		h.lab.t.Logf("the log of %s ends:\n%s", h.name, tail(path, 40))
	}
}

// join starts the host with a token of a member.
func (h *host) join(member *host) {
	h.lab.t.Helper()
	token := strings.TrimSpace(member.must("token").stdout)
	h.start("--join", member.addr, "--token", token)
}

// start starts the daemon and waits until it is ready.
func (h *host) start(args ...string) {
	h.lab.t.Helper()
	h.launch(args...)
	if r := h.run("status", "--wait", patience.String()); r.code != 0 {
		h.lab.t.Fatalf("%s did not get ready: %s", h.name, r.stderr)
	}
}

// launch starts the daemon and does not wait.
func (h *host) launch(args ...string) {
	h.lab.t.Helper()
	log, err := os.OpenFile(filepath.Join(h.lab.dir, h.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	h.lab.check(err)
	defer log.Close()
	program := cmp.Or(h.daemon, filepath.Join(bin, "virtswarmd"))
	args = append(append([]string{}, h.args...), args...)
	cmd := exec.Command(program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	switch {
	case h.inside != nil:
		cmd = h.inside(program, args...)
	case h.at != nil:
		cmd = h.at.Command(program, args...)
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(append(os.Environ(), "GORACE=halt_on_error=1"), h.env...) // a race must not go by unseen
	h.lab.check(cmd.Start())
	exited := make(chan struct{})
	h.cmd, h.exited = cmd, exited
	go func() {
		cmd.Wait()
		close(exited)
	}()
}

// kill ends the daemon with SIGKILL, if it runs.
func (h *host) kill() {
	if h.cmd == nil {
		return
	}
	h.cmd.Process.Kill()
	<-h.exited
	h.cmd = nil
}

// stop ends the daemon with SIGTERM and returns its exit code.
func (h *host) stop() int {
	h.lab.t.Helper()
	h.lab.check(h.cmd.Process.Signal(syscall.SIGTERM))
	return h.wait()
}

// wait waits for the daemon to end by itself and returns its exit code.
func (h *host) wait() int {
	h.lab.t.Helper()
	select {
	case <-h.exited:
	case <-time.After(patience):
		h.lab.t.Fatalf("%s did not end", h.name)
	}
	code := h.cmd.ProcessState.ExitCode()
	h.cmd = nil
	return code
}

// result is what a command of the operator's tool printed and how it ended.
type result struct {
	stdout, stderr string
	code           int
}

// run runs the operator's tool at this host.
func (h *host) run(args ...string) result {
	h.lab.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	return h.runContext(ctx, args...)
}

func (h *host) runContext(ctx context.Context, args ...string) result {
	h.lab.t.Helper()
	return execute(ctx, h.lab.t, "virtswarm", append([]string{"--socket", h.socket}, args...)...)
}

func execute(ctx context.Context, t *testing.T, program string, args ...string) result {
	t.Helper()
	return collect(t, exec.CommandContext(ctx, filepath.Join(bin, program), args...))
}

// collect runs a command, however it ends.
func collect(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0") // a program built with -race waits a second at its end
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("run %s: %v", cmd, err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// must runs the tool and wants exit code 0.
func (h *host) must(args ...string) result {
	h.lab.t.Helper()
	r := h.run(args...)
	if r.code != 0 {
		h.lab.t.Fatalf("at %s: virtswarm %s: exit code %d\n%s%s", h.name, strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return r
}

// json runs the tool with --json, wants exit code 0 and reads the last line of its output.
func (h *host) json(v any, args ...string) {
	h.lab.t.Helper()
	out := strings.TrimSpace(h.must(append(args, "--json")...).stdout)
	last := out
	if !json.Valid([]byte(out)) { // a stream: one object a line
		last = out[strings.LastIndexByte(out, '\n')+1:]
	}
	if err := json.Unmarshal([]byte(last), v); err != nil {
		h.lab.t.Fatalf("at %s: virtswarm %s --json: %v in %q", h.name, strings.Join(args, " "), err, last)
	}
}

// metric sums the samples of a metric, over all its labels; wanted labels have the form key="value".
func (h *host) metric(name string, labels ...string) float64 {
	h.lab.t.Helper()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", h.socket)
		},
	}}
	resp, err := client.Get("http://virtswarm/metrics")
	h.lab.check(err)
	defer resp.Body.Close()
	sum, found := 0.0, false
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		sample, value, ok := strings.Cut(lines.Text(), " ")
		family, rest, _ := strings.Cut(sample, "{")
		if !ok || family != name || !containsAll(rest, labels) {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		h.lab.check(err)
		sum, found = sum+v, true
	}
	if !found && len(labels) == 0 {
		h.lab.t.Fatalf("%s has no metric %s", h.name, name)
	}
	return sum
}

func containsAll(s string, parts []string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}

// await polls until a condition holds, and fails the test if it never does.
func (l *lab) await(what string, cond func() bool) {
	l.t.Helper()
	deadline := time.Now().Add(patience)
	for !cond() {
		if time.Now().After(deadline) {
			l.t.Fatalf("waited %s in vain: %s", patience, what)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (l *lab) check(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) write(path string, p []byte) {
	l.t.Helper()
	l.check(os.WriteFile(path, p, 0o644))
}

// random makes a file of n random bytes, the same for the same seed.
func (l *lab) random(name string, n int64, seed byte) string {
	l.t.Helper()
	path := filepath.Join(l.dir, name)
	f, err := os.Create(path)
	l.check(err)
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{seed}), n)
	l.check(err)
	l.check(f.Close())
	return path
}

// same wants two files to have the same bytes.
func (l *lab) same(a, b string) {
	l.t.Helper()
	if sa, sb := l.sum(a), l.sum(b); sa != sb {
		l.t.Fatalf("%s and %s differ: sha256 %s and %s", a, b, sa, sb)
	}
}

func (l *lab) sum(path string) string {
	l.t.Helper()
	f, err := os.Open(path)
	l.check(err)
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	l.check(err)
	return fmt.Sprintf("%x", h.Sum(nil))
}

// out is a path that does not exist yet.
func (l *lab) out(name string) string { return filepath.Join(l.dir, "out-"+name) }

// allocated is the number of bytes of blocks that a file takes.
func (l *lab) allocated(path string) int64 {
	l.t.Helper()
	var st syscall.Stat_t
	l.check(syscall.Stat(path, &st))
	return st.Blocks * 512
}

// tail returns the last lines of a text file.
func tail(path string, lines int) string {
	p, _ := os.ReadFile(path)
	all := strings.Split(strings.TrimSpace(string(p)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
