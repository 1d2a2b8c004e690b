package acceptance

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/acceptance/nested"
)

// nestedLab is a machine with a working vhost-vsock, see package nested. Fill it with Add, AddText and AddGuest, then
// run.
type nestedLab struct {
	nested.Machine
	t *testing.T
}

// newNested prepares a machine, or skips the test where that cannot be.
func newNested(t *testing.T) *nestedLab {
	t.Helper()
	if err := nested.Missing(); err != nil {
		t.Skipf("no nested guests here: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*patience)
	defer cancel()
	kernel, err := findKernel(ctx)
	if err != nil {
		t.Skipf("no kernel for nested guests: %v", err)
	}
	return &nestedLab{t: t, Machine: nested.Machine{Dir: t.TempDir(), Kernel: kernel}}
}

// program builds a program of this module as it is for guests, static, and returns its path: for Add, or a guest's
// files. Its build tags are none: libvirt cannot be loaded by a static program.
func (n *nestedLab) program(pkg string) string {
	n.t.Helper()
	return n.goBuild(filepath.Base(pkg), "build", pkg)
}

// testProgram does so with the tests of a package.
func (n *nestedLab) testProgram(pkg string) string {
	n.t.Helper()
	return n.goBuild(filepath.Base(pkg)+".test", "test", "-c", pkg)
}

func (n *nestedLab) goBuild(name, verb string, args ...string) string {
	n.t.Helper()
	out := filepath.Join(n.Dir, name)
	last := len(args) - 1
	cmd := exec.Command("go", append(append([]string{verb}, args[:last]...), "-o", out, args[last])...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if text, err := cmd.CombinedOutput(); err != nil {
		n.t.Fatalf("build %s: %v\n%s", name, err, text)
	}
	return out
}

// boot starts the machine to run a script. When the test fails the console is shown.
func (n *nestedLab) boot(script string) *nested.Run {
	n.t.Helper()
	run, err := n.Start(script)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		run.Kill()
		if n.t.Failed() {
			n.t.Logf("the console:\n%s", run.Console())
		}
	})
	return run
}

// run boots the machine, runs a script in it to its end, and returns what came out of the console. The script has to
// end with exit code 0.
func (n *nestedLab) run(script string) string {
	n.t.Helper()
	run := n.boot(script)
	ctx, cancel := context.WithTimeout(n.t.Context(), 20*patience)
	defer cancel()
	begin := time.Now()
	code, err := run.Wait(ctx)
	if err != nil || code != 0 {
		n.t.Fatalf("the script ends with exit code %d, %v", code, err)
	}
	for _, up := range regexp.MustCompile(`(?m)^.*nested: up after.*$`).FindAllString(run.Console(), -1) {
		n.t.Log(up)
	}
	n.t.Logf("all in %v", time.Since(begin).Round(time.Millisecond))
	return run.Console()
}

// TestVsockConformance runs the tests of vsock links where there is a vsock: over the loopback of a guest's kernel.
func TestVsockConformance(t *testing.T) {
	t.Parallel()
	n := newNested(t)
	n.Add("/bin/link.test", n.testProgram("../internal/link"))
	out := n.run("VIRTSWARM_VSOCK=loopback link.test -test.run Vsock -test.v -test.timeout 5m")
	for _, test := range []string{"TestVsockConns", "TestVsockConns/vsock", "TestVsockConns/vsock+tls", "TestVsockNames", "TestVsockPeerKilled"} {
		if !regexp.MustCompile(`(?m)^ *--- PASS: ` + regexp.QuoteMeta(test) + ` `).MatchString(out) {
			t.Errorf("%s did not pass", test)
		}
	}
	for line := range strings.Lines(out) {
		if strings.Contains(line, "--- SKIP") && !strings.Contains(line, "tls/InterruptedWrites") {
			t.Errorf("skipped: %s", line)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
}

// TestNestedDaemon runs a daemon in L1, as tests of guests need it, and asks it.
func TestNestedDaemon(t *testing.T) {
	t.Parallel()
	n := newNested(t)
	n.Add("/bin/virtswarmd", n.program("../cmd/virtswarmd"))
	n.Add("/bin/virtswarm", n.program("../cmd/virtswarm"))
	n.AddText("/etc/virtswarm.yaml", noLibvirt)
	out := n.run(`set -e
virtswarmd --config /etc/virtswarm.yaml --name l1 --listen 127.0.0.1:7117 --data /var/lib/virtswarm --socket /run/virtswarm.sock 2>log || cat log &
virtswarm --socket /run/virtswarm.sock status --wait 2m
head -c 3000000 /dev/urandom >file
virtswarm --socket /run/virtswarm.sock publish file a/file
virtswarm --socket /run/virtswarm.sock pull a/file /tmp/copy
cmp file copy
echo "the same"`)
	if !strings.Contains(out, "\nthe same\n") {
		t.Errorf("no copy:\n%s", out)
	}
}
