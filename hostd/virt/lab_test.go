//go:build libvirt_dlopen

package virt

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// lab is a libvirtd of its own with QEMU: it sees its own /run, /dev/shm, /etc/libvirt and /var/lib/libvirt, and its
// own host name.
type lab struct {
	t    *testing.T
	name string
	dir  string
	uuid string
	port int
	cmd  *exec.Cmd // the running libvirtd
}

// newLab makes one and starts it; n tells several apart. The test is skipped where it cannot be.
func newLab(t *testing.T, n int) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, for a mount namespace")
	}
	for _, tool := range []string{"libvirtd", "virsh", "qemu-system-x86_64", "qemu-img", "unshare", "mount", "hostname"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s (Debian's libvirt-daemon-system, libvirt-clients, qemu-system-x86, qemu-utils, util-linux)", tool)
		}
	}
	// Short, as there are sockets below it.
	dir, err := os.MkdirTemp("", "virt")
	must(t, err)
	l := &lab{t: t, name: fmt.Sprintf("lab%d", n), dir: dir, uuid: fmt.Sprintf("6ba7b810-9dad-11d1-80b4-00c04fd4300%d", n), port: 16600 + n}
	t.Cleanup(func() {
		l.stop(syscall.SIGTERM)
		l.killAll()
		if !t.Failed() {
			must(t, os.RemoveAll(dir))
		}
	})
	for _, d := range private {
		must(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	must(t, os.WriteFile(l.path("etc/libvirt/libvirtd.conf"), fmt.Appendf(nil, `auth_unix_rw="none"
host_uuid=%q
listen_tls=0
listen_tcp=1
listen_addr="127.0.0.1"
tcp_port="%d"
auth_tcp="none"
`, l.uuid, l.port), 0o644))
	must(t, os.WriteFile(l.path("etc/libvirt/qemu.conf"), fmt.Appendf(nil, `user="root"
group="root"
security_driver="none"
namespaces=[]
cgroup_controllers=[]
stdio_handler="file"
migration_port_min=%d
migration_port_max=%d
`, 49200+100*n, 49299+100*n), 0o644))
	l.start()
	return l
}

// private are the directories that each libvirtd has for itself.
var private = []string{"run", "etc/libvirt", "var/lib/libvirt", "var/cache/libvirt", "var/log/libvirt", "dev/shm"}

func (l *lab) path(name string) string { return filepath.Join(l.dir, name) }

func (l *lab) uri() string {
	return "qemu+unix:///system?socket=" + l.path("run/libvirt/libvirt-sock")
}

// start starts libvirtd; a watcher sees when it is there.
func (l *lab) start() {
	l.t.Helper()
	script := "set -e; mount --make-rprivate /; hostname " + l.name + "\n"
	for _, d := range private {
		script += fmt.Sprintf("mkdir -p /%[1]s; mount --bind %[2]s/%[1]s /%[1]s\n", d, l.dir)
	}
	log, err := os.OpenFile(l.path("libvirtd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	must(l.t, err)
	defer log.Close()
	l.cmd = exec.Command("unshare", "-m", "-u", "sh", "-c", script+"exec libvirtd --listen")
	l.cmd.Stdout, l.cmd.Stderr = log, log
	must(l.t, l.cmd.Start())
}

// stop ends libvirtd, not its domains.
func (l *lab) stop(how syscall.Signal) {
	if l.cmd == nil {
		return
	}
	_ = l.cmd.Process.Signal(syscall.SIGCONT)
	_ = l.cmd.Process.Signal(how)
	_ = l.cmd.Wait()
	l.cmd = nil
}

// pid is the process of a domain.
func (l *lab) pid(name string) int {
	l.t.Helper()
	text, err := os.ReadFile(l.path("run/libvirt/qemu/" + name + ".pid"))
	must(l.t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	must(l.t, err)
	return pid
}

// killAll kills the domains that are left.
func (l *lab) killAll() {
	files, _ := filepath.Glob(l.path("run/libvirt/qemu/*.pid"))
	for _, f := range files {
		l.kill(strings.TrimSuffix(filepath.Base(f), ".pid"))
	}
}

func (l *lab) kill(name string) {
	pid := l.pid(name)
	// A file may be older than the number's present owner.
	if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && strings.Contains(string(line), "guest="+name) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

func (l *lab) virsh(args ...string) string {
	l.t.Helper()
	out, err := exec.Command("virsh", append([]string{"-q", "-c", l.uri()}, args...)...).CombinedOutput()
	if err != nil {
		l.t.Fatalf("virsh %q: %v: %s", args, err, out)
	}
	return string(out)
}

// images makes images, each on the one before, the first raw, and returns their paths, the last first.
func (l *lab) images(names ...string) (chain []string) {
	l.t.Helper()
	for i, name := range names {
		args := []string{"create", "-q", "-f", "qcow2", "-F", "qcow2"}
		switch i {
		case 0:
			args = []string{"create", "-q", "-f", "raw", l.path(name), "1M"}
		case 1:
			args[5] = "raw"
			fallthrough
		default:
			args = append(args, "-b", chain[0], l.path(name))
		}
		if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
			l.t.Fatalf("qemu-img %q: %v: %s", args, err, out)
		}
		chain = append([]string{l.path(name)}, chain...)
	}
	return chain
}

// domain is the XML of a small one that runs its firmware, with a disk if image is not "".
func domain(name, image string) string {
	disk := ""
	if image != "" {
		disk = "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='" + image + "'/><target dev='vda' bus='virtio'/></disk>"
	}
	return "<domain type='qemu'><name>" + name + "</name><memory unit='MiB'>32</memory><vcpu current='1'>2</vcpu>" +
		"<metadata><vs:domain xmlns:vs='" + Namespace + "'><vs:file name='images/base' path='/images/base'/></vs:domain></metadata>" +
		"<os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>" +
		"<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>" + disk +
		"<controller type='pci' model='pcie-root'/>" + strings.Repeat("<controller type='pci' model='pcie-root-port'/>", 6) +
		"<controller type='pci' model='pcie-to-pci-bridge'/><controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"
}

// define defines a domain with virsh.
func (l *lab) define(name, image string) {
	l.t.Helper()
	file := l.path(name + ".xml")
	must(l.t, os.WriteFile(file, []byte(domain(name, image)), 0o644))
	l.virsh("define", file)
}
