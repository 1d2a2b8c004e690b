package acceptance

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/acceptance/netlab"
)

// A hypervisor is a host of a network lab with a libvirtd of its own, which thinks that it has the machine for itself:
// it and the daemon beside it run in mount namespaces in which libvirt's directories, and /run, are this host's.
type hypervisor struct {
	*host
	root     string // what is mounted over the machine's directories
	libvirtd *netlab.Process
}

// ownDirs are the directories of which each hypervisor has its own.
const ownDirs = "etc/libvirt var/lib/libvirt var/cache/libvirt var/log/libvirt run dev/shm"

// enter is a script that runs a program with a hypervisor's own directories: enter LAB HOST PROGRAM ARGS... The lab's
// directory, which is below /run, stays where it is.
const enter = `set -e
lab=$1 host=$2
shift 2
mount --make-rprivate /
mount --bind "$lab" /mnt
for d in ` + ownDirs + `; do mount --bind "/mnt/$host/root/$d" "/$d"; done
mkdir -p "$lab"
mount --bind /mnt "$lab"
exec "$@"
`

// newHypervisors makes a cluster of n hosts, each with libvirt and the hook. The yaml is added to the configuration.
func newHypervisors(t *testing.T, n int, yaml string) (*lab, []*hypervisor) {
	t.Helper()
	for _, program := range []string{"libvirtd", "virsh", "qemu-system-x86_64", "qemu-img", "unshare"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("no real libvirt here: %v", err)
		}
	}
	var all []*hypervisor
	l := newNetLab(t, n, 0, func(l *lab) {
		l.write(l.config, []byte(quick+yaml))
		for i, h := range l.hosts {
			all = append(all, newHypervisor(l, h, i))
		}
	})
	return l, all
}

func newHypervisor(l *lab, h *host, i int) *hypervisor {
	v := &hypervisor{host: h, root: h.at.Path("root")}
	for _, d := range append(strings.Fields(ownDirs), "etc/libvirt/hooks/qemu.d", "var/lib/libvirt/images") {
		l.check(os.MkdirAll(filepath.Join(v.root, d), 0o755))
	}
	h.inside = func(program string, args ...string) *exec.Cmd { return v.command(program, args...) }
	l.write(v.path("/etc/libvirt/libvirtd.conf"), fmt.Appendf(nil, "auth_unix_rw = \"none\"\nauth_unix_ro = \"none\"\n"+
		"host_uuid = \"00000000-0000-4000-8000-0000000000%02x\"\nlisten_tls = 0\nlisten_tcp = 1\nauth_tcp = \"none\"\n", i+1))
	l.write(v.path("/etc/libvirt/qemu.conf"), fmt.Appendf(nil, "user = \"root\"\ngroup = \"root\"\nsecurity_driver = \"none\"\n"+
		"namespaces = []\ncgroup_controllers = []\nstdio_handler = \"file\"\nmigration_host = %q\n", h.at.Addr))
	shim, err := os.ReadFile("../packaging/libvirt/virtswarm")
	l.check(err)
	tool := filepath.Join(bin, "virtswarm")
	text := strings.NewReplacer("exec /usr/bin/virtswarm", "exec "+tool+" --socket "+h.socket, "/usr/bin/virtswarm", tool).Replace(string(shim))
	text = strings.ReplaceAll(text, " hook ", " hook --config "+l.config+" ")
	hook := v.path("/etc/libvirt/hooks/qemu.d/virtswarm")
	l.write(hook, []byte(text))
	l.check(os.Chmod(hook, 0o755))
	l.t.Cleanup(func() {
		if l.t.Failed() {
			l.t.Logf("libvirtd of %s: %s", v.name, tail(v.at.Path("libvirtd.log"), 20))
		}
		if v.libvirtd != nil {
			v.libvirtd.Kill()
		}
		for _, pid := range v.qemus() {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	v.startLibvirt()
	return v
}

// path is where a path of the hypervisor is on this machine.
func (v *hypervisor) path(p string) string { return filepath.Join(v.root, p) }

// command is a program on the hypervisor.
func (v *hypervisor) command(program string, args ...string) *exec.Cmd {
	return v.at.Command("unshare", append([]string{"--mount", "--", "sh", "-c", enter, "sh", v.lab.net.Dir, v.at.Name, program}, args...)...)
}

func (v *hypervisor) startLibvirt() {
	v.lab.t.Helper()
	log, err := os.OpenFile(v.at.Path("libvirtd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	v.lab.check(err)
	defer log.Close()
	cmd := v.command("libvirtd", "--listen")
	cmd.Stdout, cmd.Stderr = log, log
	v.libvirtd, err = netlab.Start(cmd)
	v.lab.check(err)
	v.lab.await("libvirtd of "+v.name+" answers", func() bool { return v.virshMay("list").code == 0 })
}

// killLibvirt ends libvirtd and leaves its domains running.
func (v *hypervisor) killLibvirt() {
	syscall.Kill(v.libvirtd.Pid(), syscall.SIGKILL)
	<-v.libvirtd.Ended()
}

// qemus are the processes of the domains that run here.
func (v *hypervisor) qemus() (pids []int) {
	files, _ := filepath.Glob(v.path("/run/libvirt/qemu/*.pid"))
	for _, f := range files {
		if pid := v.pidIn(f); pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (v *hypervisor) pidIn(file string) int {
	text, _ := os.ReadFile(file)
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return pid
}

// qemu is the process of a domain.
func (v *hypervisor) qemu(domain string) int {
	v.lab.t.Helper()
	pid := v.pidIn(v.path("/run/libvirt/qemu/" + domain + ".pid"))
	if pid == 0 {
		v.lab.t.Fatalf("no process of %s on %s", domain, v.name)
	}
	return pid
}

// virshMay runs virsh on the hypervisor.
func (v *hypervisor) virshMay(args ...string) result {
	v.lab.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	cmd := v.command("virsh", append([]string{"-q", "-c", "qemu:///system"}, args...)...)
	stop := context.AfterFunc(ctx, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer stop()
	return collect(v.lab.t, cmd)
}

// virsh runs virsh and wants it to succeed.
func (v *hypervisor) virsh(args ...string) string {
	v.lab.t.Helper()
	r := v.virshMay(args...)
	if r.code != 0 {
		v.lab.t.Fatalf("at %s: virsh %s: exit code %d\n%s%s", v.name, strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// define defines a domain, with what is to stand in it beside the usual: metadata, disks.
func (v *hypervisor) define(name, metadata, devices string) string {
	v.lab.t.Helper()
	file := v.at.Path(name + ".xml")
	v.lab.write(file, fmt.Appendf(nil, `<domain type='qemu'>
  <name>%s</name>
  <memory unit='MiB'>64</memory>
  <vcpu>1</vcpu>
  <metadata>%s</metadata>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    %s
  </devices>
</domain>`, name, metadata, devices))
	v.virsh("define", file)
	return strings.TrimSpace(v.virsh("domuuid", name))
}

// migrate moves a running domain to another hypervisor.
func (v *hypervisor) migrate(domain string, to *hypervisor, flags ...string) result {
	v.lab.t.Helper()
	return v.virshMay(append([]string{"migrate", "--live", domain, "qemu+tcp://" + to.at.Addr + "/system", "tcp://" + to.at.Addr}, flags...)...)
}

// guest is what the tests read of a domain.
type guest struct {
	UUID   string   `json:"uuid"`
	Name   string   `json:"name"`
	State  string   `json:"state"`
	Host   string   `json:"host"`
	Others []string `json:"others"`
	Split  bool     `json:"split"`
	Awaits string   `json:"awaits"`
	Shm    int64    `json:"shm"`
	Tags   []string `json:"tags"`
	Needs  []struct {
		Name string `json:"name"`
		Path string `json:"path"`
	} `json:"needs"`
	Disks []struct {
		Target string   `json:"target"`
		Chain  []string `json:"chain"`
	} `json:"disks"`
}

func (h *host) guests(args ...string) []guest {
	h.lab.t.Helper()
	var r struct {
		Guests []guest `json:"guests"`
	}
	h.json(&r, append([]string{"guests"}, args...)...)
	return r.Guests
}

// guest finds a domain by its name.
func (h *host) guest(name string) (guest, bool) {
	h.lab.t.Helper()
	for _, g := range h.guests() {
		if g.Name == name {
			return g, true
		}
	}
	return guest{}, false
}

// everywhere waits until the catalogue of every host that runs says of a domain that it is on a host, in a state (or
// another, as in off|crashed); an empty state: that there is no such domain. It logs how long that took since the fact.
func (l *lab) everywhere(what, domain, host, state string) {
	l.t.Helper()
	since := time.Now()
	for _, h := range l.hosts {
		if h.cmd == nil {
			continue
		}
		l.await(fmt.Sprintf("%s: %s sees %s %s on %s", what, h.name, domain, state, host), func() bool {
			g, known := h.guest(domain)
			return known == (state != "") && (!known || g.Host == host && slices.Contains(strings.Split(state, "|"), g.State) && !g.Split)
		})
	}
	l.t.Logf("%s: %s on every host after %v at most", what, strings.TrimSpace(domain+" "+state), time.Since(since).Round(time.Millisecond))
}

// guestEvent is a line of guests --watch --json.
type guestEvent struct {
	Index   uint64 `json:"index"`
	Guest   *guest `json:"guest"`
	Gone    bool   `json:"gone"`
	Initial bool   `json:"initial"`
}

// watchGuests follows the domains at a host until stop, which returns what was heard.
func (h *host) watchGuests() (stop func() []guestEvent) {
	h.lab.t.Helper()
	path := filepath.Join(h.lab.dir, h.name+".watch")
	out, err := os.Create(path)
	h.lab.check(err)
	cmd := exec.Command(filepath.Join(bin, "virtswarm"), "--socket", h.socket, "guests", "--watch", "--json")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stdout = out
	h.lab.check(cmd.Start())
	return func() (heard []guestEvent) {
		h.lab.t.Helper()
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
		out.Close()
		text, err := os.ReadFile(path)
		h.lab.check(err)
		for line := range strings.Lines(string(text)) {
			var e guestEvent
			h.lab.check(json.Unmarshal([]byte(line), &e))
			heard = append(heard, e)
		}
		return heard
	}
}
