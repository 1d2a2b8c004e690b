package acceptance

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/acceptance/nested"
)

// guestImage is the kernel and initramfs that the guests of tests boot, with the agent in it. They have no network
// card.
var guestImage = sync.OnceValues(func() (image struct{ kernel, initrd string }, err error) {
	if err := nested.Missing(); err != nil {
		return image, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*patience)
	defer cancel()
	kernel, err := findKernel(ctx)
	if err != nil {
		return image, err
	}
	dir := filepath.Join(bin, "guest")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return image, err
	}
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir+"/", "../cmd/virtswarm-agent", "./hostile")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		return image, fmt.Errorf("build the guests' programs: %w\n%s", err, out)
	}
	programs := map[string]string{}
	for _, name := range []string{"virtswarm-agent", "hostile"} {
		programs["/usr/bin/"+name] = filepath.Join(dir, name)
	}
	image.kernel, image.initrd = kernel.Image, filepath.Join(dir, "initrd")
	return image, kernel.Pack(image.initrd, nested.Guest{
		// Each line that comes by the second serial line is a command.
		Script:  "stty -F /dev/ttyS1 raw -echo\nwhile :; do while read -r command; do eval \"$command\"; done; done </dev/ttyS1 >/dev/ttyS1 2>&1",
		Files:   programs,
		Modules: []string{"virtio_pci", "virtio_balloon"},
	})
})

// findKernel returns the kernel that guests boot.
func findKernel(ctx context.Context) (*nested.Kernel, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	return nested.FindKernel(ctx, filepath.Join(cache, "virtswarm-acceptance"))
}

// shell is a guest that does as it is told over a serial line. Its calls are made one at a time.
type shell struct {
	t    *testing.T
	name string
	line net.Conn
	in   *bufio.Reader
	last int
}

// take takes a line on which the guest's shell listens.
func (m *shell) take(line net.Conn) { m.line, m.in = line, bufio.NewReader(line) }

// vm is a domain with such a guest.
type vm struct {
	shell
	uuid string
	at   *hypervisor // where it is now
}

// newVM boots a guest on a hypervisor, with some memory in MiB, metadata of the domain, and devices beside the usual.
func newVM(at *hypervisor, name string, memory int, metadata string, devices ...string) *vm {
	t := at.lab.t
	t.Helper()
	image, err := guestImage()
	if err != nil {
		t.Skipf("no guests here: %v", err)
	}
	file := at.at.Path(name + ".xml")
	at.lab.write(file, fmt.Appendf(nil, `<domain type='qemu'>
  <name>%s</name>
  <memory unit='MiB'>%d</memory>
  <vcpu>1</vcpu>
  <cpu mode='maximum'/>
  <metadata>%s</metadata>
  <os><type arch='x86_64' machine='q35'>hvm</type><kernel>%s</kernel><initrd>%s</initrd>
    <cmdline>console=ttyS0 quiet panic=-1 mitigations=off</cmdline></os>
  <features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='pci' index='0' model='pcie-root'/>
    <controller type='pci' index='1' model='pcie-root-port'/>
    <controller type='pci' index='2' model='pcie-to-pci-bridge'/>
    <serial type='file'><source path='/var/lib/libvirt/images/%[1]s.console'/><target port='0'/></serial>
    <serial type='unix'><source mode='bind' path='/var/lib/libvirt/images/%[1]s.sock'/><target port='1'/></serial>
    %[6]s
  </devices>
</domain>`, name, memory, metadata, image.kernel, image.initrd, strings.Join(devices, "")))
	at.virsh("define", file)
	m := &vm{shell: shell{t: t, name: name}, uuid: strings.TrimSpace(at.virsh("domuuid", name)), at: at}
	t.Cleanup(m.close)
	m.start()
	return m
}

func (m *vm) start() {
	m.t.Helper()
	m.at.virsh("start", m.name)
	m.at.lab.await(m.name+" is up", func() bool { return strings.Contains(m.console(), "nested: up after") })
	m.connect()
}

// console is what the guest's kernel and init have said on this host.
func (m *vm) console() string {
	p, _ := os.ReadFile(m.at.path("/var/lib/libvirt/images/" + m.name + ".console"))
	return string(p)
}

// connect takes the serial line where the guest is now.
func (m *vm) connect() {
	m.t.Helper()
	if m.line != nil {
		m.line.Close()
	}
	dir, err := os.Open(m.at.path("/var/lib/libvirt/images")) // the path of a socket must be short
	m.at.lab.check(err)
	defer dir.Close()
	line, err := net.Dial("unix", fmt.Sprintf("/proc/self/fd/%d/%s.sock", dir.Fd(), m.name))
	m.at.lab.check(err)
	m.take(line)
}

func (m *vm) close() {
	if m.line != nil {
		m.line.Close()
	}
	if m.t.Failed() {
		m.t.Logf("the console of %s: %s", m.name, m.console())
	}
}

// begin has the guest begin a command of its shell; end waits for it.
func (m *shell) begin(command string) {
	m.t.Helper()
	m.last++
	if _, err := fmt.Fprintf(m.line, "( %s ) </dev/null; code=$?; echo; echo done-%d-$code\n", command, m.last); err != nil {
		m.t.Fatalf("tell %s: %v", m.name, err)
	}
}

// end waits for the command that was begun, and returns what it said, on either output, and its exit code.
func (m *shell) end() (out string, code int) {
	m.t.Helper()
	if err := m.line.SetReadDeadline(time.Now().Add(5 * patience)); err != nil {
		m.t.Fatal(err)
	}
	mark := fmt.Sprintf("done-%d-", m.last)
	for {
		line, err := m.in.ReadString('\n')
		if err != nil {
			m.t.Fatalf("%s says no more: %v, so far: %s", m.name, err, out)
		}
		line = strings.ReplaceAll(line, "\r", "")
		if rest, ok := strings.CutPrefix(line, mark); ok {
			if code, err = strconv.Atoi(strings.TrimSpace(rest)); err != nil {
				m.t.Fatalf("%s says %q", m.name, line)
			}
			return strings.TrimSuffix(out, "\n"), code
		}
		out += line
	}
}

// may runs a command in the guest.
func (m *shell) may(command string) (string, int) {
	m.t.Helper()
	m.begin(command)
	return m.end()
}

// run runs a command in the guest and wants exit code 0.
func (m *shell) run(command string) string {
	m.t.Helper()
	out, code := m.may(command)
	if code != 0 {
		m.t.Fatalf("in %s: %s: exit code %d\n%s", m.name, command, code, out)
	}
	return out
}

// migrate moves the guest to another hypervisor while it runs.
func (m *vm) migrate(to *hypervisor) {
	m.t.Helper()
	if r := m.at.migrate(m.name, to); r.code != 0 {
		m.t.Fatalf("migrate %s to %s: %s%s", m.name, to.name, r.stdout, r.stderr)
	}
	m.at = to
	m.connect()
}

// attach plugs shared memory into the guest.
func (m *vm) attach(args ...string) {
	m.t.Helper()
	m.at.must(append([]string{"guest", "attach-shm", m.name}, args...)...)
}
