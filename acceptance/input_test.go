package acceptance

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// mount mounts a file system for the time of a test. It skips the test for a user who may not.
func (l *lab) mount(kind, dir, options string) {
	l.t.Helper()
	if os.Getuid() != 0 {
		l.t.Skip("mounting a small file system needs root")
	}
	if out, err := exec.Command("mount", "-t", kind, "-o", options, kind, dir).CombinedOutput(); err != nil {
		l.t.Fatalf("mount: %v: %s", err, out)
	}
	l.t.Cleanup(func() {
		for _, h := range l.hosts { // before the file system goes
			h.kill()
		}
		exec.Command("umount", "-l", dir).Run()
	})
}

// refused runs a command that must fail with an exit code of its own and a message that names what it is about, and
// says what to do.
func (h *host) refused(code int, about string, args ...string) {
	h.lab.t.Helper()
	r := h.run(args...)
	switch lines := strings.Split(strings.TrimSpace(r.stderr), "\n"); {
	case r.code != code:
		h.lab.t.Errorf("virtswarm %.80q: exit code %d, want %d\n%s%s", args, r.code, code, r.stdout, r.stderr)
	case !strings.Contains(r.stderr, about):
		h.lab.t.Errorf("virtswarm %.80q: %q does not name %q", args, r.stderr, about)
	case len(lines) < 2:
		h.lab.t.Errorf("virtswarm %.80q: %q does not say what to do", args, r.stderr)
	}
}

// Every kind of bad input has its own error, and leaves nothing behind.
func TestBadInput(t *testing.T) {
	l := newLab(t, 1, "")
	h := l.hosts[0]
	good := l.random("good", 1<<20, 1)
	h.must("publish", good, "good", "--replicas", "1")

	h.refused(10, "missing", "publish", filepath.Join(l.dir, "missing"), "x")
	h.refused(11, l.dir, "publish", l.dir, "x")
	for _, name := range []string{"../x", "a/../b", "/x", "x/", "a//b", "", "a\x01b", "a\x7fb", "a\xffb", ".", strings.Repeat("x", 513)} {
		h.refused(14, "", "publish", good, name)
	}
	h.refused(15, "nothing", "pull", "nothing", l.out("x"))
	h.refused(15, "good", "pull", "good@b3:"+strings.Repeat("0123456789abcdef", 4), l.out("x"))
	h.refused(15, "nothing", "rm", "nothing")
	h.refused(15, "nothing", "show", "nothing")
	h.refused(15, "nothing", "distribute", "nothing", "--to", "all")
	h.refused(30, "nobody", "distribute", "good", "--to", "nobody")
	h.refused(16, good, "pull", "good", good)
	h.refused(2, "", "publish")
	h.refused(2, "frobnicate", "frobnicate")
	h.refused(2, "--replicas", "publish", good, "x", "--replicas", "many")
	h.refused(2, "guests", "publish", good, "x", "--guests", "tag:")
	h.refused(21, "", "publish", good, "short", "--replicas", "3") // published all the same
	h.must("rm", "short")

	fifo := filepath.Join(l.dir, "fifo")
	l.check(exec.Command("mkfifo", fifo).Run())
	h.refused(11, fifo, "publish", fifo, "x")

	if names := strings.Fields(h.must("ls").stdout); len(names) == 0 || !strings.Contains(strings.Join(names, " "), "good") {
		t.Errorf("ls after all this: %q", names)
	}
	var files struct {
		Files []struct{ Name string } `json:"files"`
	}
	h.json(&files, "ls")
	if len(files.Files) != 1 {
		t.Errorf("the catalogue holds %+v, want one file", files)
	}
	left, err := filepath.Glob(filepath.Join(h.data, "store", "incoming", "*"))
	l.check(err)
	if len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	if out, err := filepath.Glob(filepath.Join(l.dir, "out-*")); err != nil || len(out) > 0 {
		t.Errorf("left behind: %q %v", out, err)
	}
}

// A file that cannot be read is told from one that is not there.
func TestUnreadableFile(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("running a command as another user needs root")
	}
	l := newLab(t, 1, "")
	h := l.hosts[0]
	secret := l.random("secret", 1000, 1)
	l.check(os.Chmod(secret, 0))
	l.check(os.Chmod(bin, 0o755))
	for dir := l.dir; dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		l.check(os.Chmod(dir, 0o755))
	}
	cmd := exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
		filepath.Join(bin, "virtswarm"), "--socket", h.socket, "publish", secret, "x")
	out, _ := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 12 || !strings.Contains(string(out), "secret") {
		t.Errorf("exit code %d: %s", cmd.ProcessState.ExitCode(), out)
	}
}

// A file that changes while it is published is refused.
func TestChangingFile(t *testing.T) {
	l := newLab(t, 1, "")
	h := l.hosts[0]
	path := l.random("busy", 300<<20, 1)
	ctx, cancel := context.WithCancel(context.Background())
	writing := make(chan struct{})
	go func() {
		defer close(writing)
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return
		}
		defer f.Close()
		for i := int64(0); ctx.Err() == nil; i++ {
			f.WriteAt([]byte(fmt.Sprint(i)), i*4096%(300<<20))
		}
	}()
	h.refused(13, path, "publish", path, "busy")
	cancel()
	<-writing
	h.refused(15, "busy", "show", "busy")
}

// Without a daemon the tool says so.
func TestNoDaemon(t *testing.T) {
	l := &lab{t: t, dir: t.TempDir()}
	h := l.newHost("h", "127.0.0.1:0")
	h.refused(19, h.socket, "ls")
}

// Tokens admit one host, once, and only to their own cluster.
func TestTokens(t *testing.T) {
	l := newLab(t, 1, "")
	member := l.hosts[0]
	token := strings.TrimSpace(member.must("token").stdout)
	addr := func(n string) string { return strings.Replace(member.addr, ".1:", "."+n+":", 1) }

	second := l.newHost("second", addr("2"))
	second.start("--join", member.addr, "--token", token)

	third := l.newHost("third", addr("3"))
	third.refusedToStart(18, "used", "--join", member.addr, "--token", token)
	third.refusedToStart(18, "", "--join", member.addr, "--token", token[:len(token)-5])
	third.refusedToStart(18, "", "--join", member.addr, "--token", "garbage")
	third.refusedToStart(28, "--token", "--join", member.addr)

	other := newLab(t, 1, "")
	foreign := strings.TrimSpace(other.hosts[0].must("token").stdout)
	third.refusedToStart(25, "", "--join", member.addr, "--token", foreign)
	if exists(filepath.Join(third.data, "pki", "host.crt")) {
		t.Error("a refused host has a certificate")
	}

	taken := l.newHost("second", addr("4"))
	taken.data += "-again"
	taken.args[7] = taken.data
	taken.socket += "-again"
	taken.args[9] = taken.socket
	taken.refusedToStart(29, "second", "--join", member.addr, "--token", strings.TrimSpace(member.must("token").stdout))

	// A host of another cluster gets nothing, also under an address that this cluster knows.
	if hosts := member.must("hosts").stdout; strings.Count(hosts, "\n") != 3 {
		t.Errorf("hosts:\n%s", hosts)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// refusedToStart starts the daemon, which must end by itself with a code and name what is wrong.
func (h *host) refusedToStart(code int, about string, args ...string) {
	h.lab.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r := execute(ctx, h.lab.t, "virtswarmd", append(append([]string{}, h.args...), args...)...)
	if r.code != code || !strings.Contains(r.stderr, about) {
		h.lab.t.Errorf("virtswarmd %.60q: exit code %d, want %d and %q named:\n%s", args, r.code, code, about, r.stderr)
	}
}

// A daemon that cannot start says why, with a code of its own.
// TestRelativeDirectory: --data is seen from where the daemon is started. The first publication does not wait.
func TestRelativeDirectory(t *testing.T) {
	l := newLab(t, 0, "")
	h := l.newHost("h1", network()+".1:7117")
	h.inside = func(program string, args ...string) *exec.Cmd {
		cmd := exec.Command(program, args...)
		cmd.Dir = l.dir
		return cmd
	}
	h.args[7] = "here"
	h.launch()
	l.await("the socket", func() bool { _, err := os.Stat(h.socket); return err == nil })
	h.must("publish", l.random("a", 1000, 1), "a", "--wait", "committed")
	if _, err := os.Stat(filepath.Join(l.dir, "here", "store")); err != nil {
		t.Error(err)
	}
	if code := h.stop(); code != 0 {
		t.Errorf("it ended with %d", code)
	}
	cmd := h.inside(filepath.Join(bin, "virtswarmd"), "recover", "--data", "here")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("recover: %v\n%s", err, out)
	}
}

func TestDaemonRefusesToStart(t *testing.T) {
	l := newLab(t, 1, "")
	running := l.hosts[0]

	twin := l.newHost("twin", strings.Replace(running.addr, ".1:", ".2:", 1))
	again := *twin
	again.args = append([]string{}, twin.args...)
	again.args[7] = running.data
	again.refusedToStart(31, running.data)

	busy, err := net.Listen("tcp", twin.addr)
	l.check(err)
	twin.refusedToStart(24, twin.addr)
	l.check(busy.Close())

	config := filepath.Join(l.dir, "bad.yaml")
	for text, about := range map[string]string{
		"frobnicate: 1\n":      "frobnicate",
		"weight: -1\n":         "weight",
		"quota: much\n":        "much",
		"host_timeout: 1ms\n":  "host_timeout",
		"log: {level: loud}\n": "loud",
		"listen: nowhere\n":    "",
		": {\n":                "bad.yaml",
	} {
		l.write(config, []byte(text))
		twin.args[1] = config
		if strings.HasPrefix(text, "listen") {
			continue // the flag stands over it
		}
		twin.refusedToStart(28, about)
	}
	twin.args[1] = filepath.Join(l.dir, "none.yaml")
	twin.refusedToStart(28, "none.yaml")
	twin.args[1] = l.config
	twin.refusedToStart(2, "--frobnicate", "--frobnicate")
	if exists(twin.data) {
		t.Errorf("a daemon that did not start left %s behind", twin.data)
	}
}

// A damaged store or Raft log is told at the start, with the path, and nothing is thrown away.
func TestDamagedDirectories(t *testing.T) {
	l := newLab(t, 1, "")
	h := l.hosts[0]
	file := l.random("a", 5<<20, 1)
	h.must("publish", file, "a", "--replicas", "1")
	h.kill()

	version := filepath.Join(h.data, "store", "VERSION")
	whole, err := os.ReadFile(version)
	l.check(err)
	l.write(version, []byte("from the future\n"))
	h.refusedToStart(26, filepath.Join(h.data, "store"))
	l.write(version, whole)

	segments, err := filepath.Glob(filepath.Join(h.data, "raft", "log", "*.log"))
	l.check(err)
	if len(segments) == 0 {
		t.Fatal("no log segments found")
	}
	log, err := os.ReadFile(segments[0])
	l.check(err)
	broken := append([]byte{}, log...)
	for i := range 64 { // the file's header and the first entries
		broken[i] ^= 0xff
	}
	l.write(segments[0], broken)
	h.refusedToStart(27, filepath.Join(h.data, "raft"))
	l.write(segments[0], log)

	h.start()
	out := l.out("a")
	h.must("pull", "a", out)
	l.same(file, out)
}

// A host leaves by itself once its data is elsewhere; a dead one is removed; neither gets in again.
func TestLeaving(t *testing.T) {
	l := newLab(t, 4, "")
	l.voters(3)
	file := l.random("image", 100<<20, 1)
	l.hosts[0].must("publish", file, "image", "--replicas", "2")

	leaver := l.hosts[3]
	leaver.must("leave")
	if code := leaver.wait(); code != 0 {
		t.Errorf("the daemon that left ended with %d", code)
	}
	l.replicated(l.hosts[0])

	l.hosts[0].refused(2, "h3", "leave", "h3") // it is up
	dead := l.hosts[2]
	dead.kill()
	l.await("h3 counts as dead", func() bool { return l.hosts[0].status().HostsAlive == 2 })
	l.hosts[0].must("leave", "h3")
	l.hosts[0].refused(30, "h3", "leave", "h3")
	dead.launch()
	if code := dead.wait(); code != 25 {
		t.Errorf("a removed host that starts again ends with %d, want 25", code)
	}
	for _, h := range l.hosts[:2] {
		out := l.out(h.name)
		h.must("pull", "image", out)
		l.same(file, out)
	}
	if s := l.hosts[0].status(); s.HostsAlive != 2 || s.UnderReplicatedFiles != 0 {
		t.Errorf("status: %+v", s)
	}
}

// An interrupted pull ends with 130 and leaves nothing behind; so does a publication before it is committed.
func TestInterrupt(t *testing.T) {
	l := newLab(t, 1, "")
	h := l.hosts[0]
	file := l.random("big", 1<<30, 1)
	cmd := exec.Command(filepath.Join(bin, "virtswarm"), "--socket", h.socket, "publish", file, "big")
	l.check(cmd.Start())
	l.await("the publication has begun", func() bool {
		found, _ := filepath.Glob(filepath.Join(h.data, "store", "incoming", "*"))
		return len(found) > 0
	})
	l.check(cmd.Process.Signal(os.Interrupt))
	done := make(chan struct{})
	go func() { cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("the interrupted command goes on")
	}
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit code %d, want 130", code)
	}
	l.await("nothing is left of it", func() bool {
		found, _ := filepath.Glob(filepath.Join(h.data, "store", "incoming", "*"))
		return len(found) == 0
	})
	h.refused(15, "big", "show", "big")
}

// A daemon whose log nobody reads any more, or whose terminal is gone, serves on.
func TestLogReaderAndTerminalEnd(t *testing.T) {
	l := newLab(t, 1, "")
	h := l.newHost("piped", strings.Replace(l.hosts[0].addr, ".1:", ".2:", 1))
	read, write, err := os.Pipe()
	l.check(err)
	cmd := exec.Command(filepath.Join(bin, "virtswarmd"), h.args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stdout, cmd.Stderr = write, write
	l.check(cmd.Start())
	exited := make(chan struct{})
	h.cmd, h.exited = cmd, exited
	go func() { cmd.Wait(); close(exited) }()
	l.check(write.Close())
	h.must("status", "--wait", patience.String())
	l.check(read.Close())
	l.check(cmd.Process.Signal(syscall.SIGHUP))
	for range 3 { // each call is a line of the log, at this level
		h.must("publish", l.random("f", 1<<20, 1), "f", "--wait", "committed")
		h.must("rm", "f")
	}
	if code := h.stop(); code != 0 {
		t.Errorf("told to end, it ended with %d", code)
	}
}
