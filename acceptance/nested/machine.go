package nested

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Missing returns which program this machine lacks for package nested, or nil.
func Missing() error {
	for _, program := range []string{"qemu-system-x86_64", "busybox", "depmod", "ldd", "apt-get", "dpkg"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%w (Debian: qemu-system-x86 busybox-static kmod)", err)
		}
	}
	return nil
}

// A Machine is L1 before it runs: what is in it. The zero value of all fields but Dir and Kernel will do.
type Machine struct {
	Dir     string // for the console's output and what else is needed; it belongs to the machine
	Kernel  *Kernel
	Memory  int      // MiB, half of it for files; 0 means 1536 with guests and 512 without
	Modules []string // to insert beside those of vsock

	files  []file
	guests []Guest
}

// A file of L1 or of a guest.
type file struct{ at, from, text string }

// A Guest is an L2. L1 boots it when its script says
//
//	guest CID [ARGS...]
//
// where ARGS are further arguments to QEMU. The command lasts as long as the guest, prints its console line by line
// behind the CID in brackets, and exits with the exit code of the guest's script: 255 if it has not come to its end.
// Meanwhile /run/guest-CID.pid holds the process id of its QEMU, and /run/guest-CID.qmp is the socket of its QMP.
type Guest struct {
	CID     uint32
	Script  string            // for busybox's sh, as root, in /tmp
	Files   map[string]string // path in the guest: path on this machine; programs bring their libraries along
	Modules []string          // to insert beside those of vsock
	Memory  int               // MiB; 0 means 128
}

// Add puts a file of this machine at a path in L1; programs bring their libraries along.
func (m *Machine) Add(at, from string) { m.files = append(m.files, file{at: at, from: from}) }

// AddText puts a text at a path in L1, as a file that may also be run.
func (m *Machine) AddText(at, text string) { m.files = append(m.files, file{at: at, text: text}) }

// AddGuest makes a guest ready to be booted by L1's script.
func (m *Machine) AddGuest(g Guest) { m.guests = append(m.guests, g) }

// initScript is the first process of L1 and of its guests. It starts as few programs as it can: each takes a tenth of a
// second in L2. Whoever reads the last line pulls the plug; the kernel would power off without waiting for the console.
const initScript = `#!/bin/busybox sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
hostname nested
ip link set lo up
while read -r module; do insmod "$module" || echo "nested: no module $module"; done </modules/order
cd /tmp
echo "nested: up after $(cut -d' ' -f1 /proc/uptime) s"
sh /script
printf '\nnested: exit %d\n' $?
sleep 3
poweroff -f
`

// guestScript is the command guest in L1.
const guestScript = `#!/bin/sh
cid=$1
shift
rm -f /run/guest-$cid.exit
sh -c 'echo $$ >/run/guest-'$cid'.pid; exec "$@" 2>&1' sh \
	qemu-system-x86_64 ` + qemuCommon + ` -accel tcg,tb-size=64 -m "$(cat /guests/$cid.memory)" -name guest-$cid \
	-kernel /guests/kernel -initrd /guests/$cid.initrd -append "` + commandLine + `" \
	-qmp unix:/run/guest-$cid.qmp,server=on,wait=off -device vhost-vsock-pci,guest-cid=$cid "$@" </dev/null |
while read -r line; do
	line=${line%"$(printf '\r')"}
	echo "[$cid] $line"
	case $line in "nested: exit "*) echo "${line##* }" >/run/guest-$cid.exit; kill -9 "$(cat /run/guest-$cid.pid)" ;; esac
done
exit "$(cat /run/guest-$cid.exit 2>/dev/null || echo 255)"
`

// qemuCommon is the same for L1 and L2: nothing that is not needed, and a processor with a source of random numbers,
// for which the kernel would wait otherwise.
const qemuCommon = "-machine q35 -cpu max -nodefaults -no-user-config -no-reboot -display none -serial stdio"

// commandLine leaves out what a guest does not need: it is a third of the time to boot.
const commandLine = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr lsm= apparmor=0 audit=0 cryptomgr.notests " +
	"no_timer_check tsc=reliable init_on_alloc=0 rcupdate.rcu_expedited=1 8250.nr_uarts=1 i8042.noaux i8042.nokbd"

// Start boots the machine to run a script in busybox's sh, as root, in /tmp.
func (m *Machine) Start(script string) (*Run, error) {
	initrd := filepath.Join(m.Dir, "l1.initrd")
	files := append(m.files, file{at: "/script", text: script})
	if len(m.guests) > 0 {
		files = append(files, file{at: "/bin/guest", text: guestScript}, file{at: "/guests/kernel", from: m.Kernel.Image})
		files = append(files, qemuFiles()...)
	}
	for _, g := range m.guests {
		name := filepath.Join(m.Dir, fmt.Sprintf("%d.initrd", g.CID))
		own := []file{{at: "/script", text: g.Script}}
		for at, from := range g.Files {
			own = append(own, file{at: at, from: from})
		}
		if err := m.pack(name, own, append([]string{"virtio_pci", "vmw_vsock_virtio_transport"}, g.Modules...)); err != nil {
			return nil, err
		}
		files = append(files, file{at: fmt.Sprintf("/guests/%d.initrd", g.CID), from: name},
			file{at: fmt.Sprintf("/guests/%d.memory", g.CID), text: strconv.Itoa(orElse(g.Memory, 128))})
	}
	if err := m.pack(initrd, files, append([]string{"vhost_vsock", "vsock_loopback"}, m.Modules...)); err != nil {
		return nil, err
	}
	memory := 512
	if len(m.guests) > 0 {
		memory = 1536
	}
	args := append(strings.Fields(qemuCommon), "-accel", "tcg,thread=multi", "-smp", "2", "-m", strconv.Itoa(orElse(m.Memory, memory)),
		"-kernel", m.Kernel.Image, "-initrd", initrd, "-append", commandLine)
	return start(filepath.Join(m.Dir, "console"), exec.Command("qemu-system-x86_64", args...))
}

func orElse(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}

// pack writes an initramfs.
func (m *Machine) pack(name string, files []file, modules []string) error {
	a, err := createArchive(name)
	if err != nil {
		return err
	}
	a.text("/init", initScript)
	a.text("/etc/hosts", "127.0.0.1 localhost\n")
	a.text("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
	for _, dir := range []string{"/proc", "/sys", "/dev/shm", "/dev/pts", "/tmp", "/run", "/root", "/var/lib", "/var/log"} {
		a.dir(dir)
	}
	err = errors.Join(addBusybox(a), m.Kernel.load(a, modules))
	for _, f := range files {
		if f.from != "" {
			a.file(f.at, f.from)
		} else {
			a.text(f.at, f.text)
		}
	}
	return errors.Join(err, a.close())
}

// addBusybox adds a shell and all else that busybox has.
func addBusybox(a *archive) error {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	names, err := command(context.Background(), "", busybox, "--list")
	if err != nil {
		return fmt.Errorf("list what busybox has: %w", err)
	}
	a.file("/bin/busybox", busybox)
	for _, name := range strings.Fields(names) {
		a.link("/bin/"+name, "busybox")
	}
	return nil
}

// qemuFiles are QEMU and what it loads for a guest that has no screen, network or disk.
func qemuFiles() (files []file) {
	program, _ := exec.LookPath("qemu-system-x86_64")
	files = append(files, file{at: "/usr/bin/qemu-system-x86_64", from: program})
	for _, pattern := range []string{"/usr/lib/x86_64-linux-gnu/qemu/accel-tcg-*.so", "/usr/share/seabios/bios-256k.bin",
		"/usr/share/qemu/linuxboot*.bin", "/usr/share/qemu/kvmvapic.bin", "/usr/share/qemu/pvh.bin"} {
		found, _ := filepath.Glob(pattern)
		for _, f := range found {
			files = append(files, file{at: f, from: f})
		}
	}
	return files
}

// A Run is a machine that runs, or has run.
type Run struct {
	path   string
	cmd    *exec.Cmd
	exited chan struct{}
}

func start(console string, cmd *exec.Cmd) (*Run, error) {
	out, err := os.Create(console)
	if err != nil {
		return nil, fmt.Errorf("start machine: %w", err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start machine: %w", err)
	}
	r := &Run{path: console, cmd: cmd, exited: make(chan struct{})}
	go func() {
		cmd.Wait()
		close(r.exited)
	}()
	return r, nil
}

// Console returns what has come out of L1's console, and behind prefixes out of those of its guests.
func (r *Run) Console() string {
	p, _ := os.ReadFile(r.path)
	return strings.ReplaceAll(string(p), "\r", "")
}

// Kill pulls the plug.
func (r *Run) Kill() {
	r.cmd.Process.Kill()
	<-r.exited
}

// endMark is at the beginning of a line: of L1, not of a guest.
var endMark = regexp.MustCompile(`(?m)^nested: exit (\d+)$`)

// Await waits until something matches on the console, and returns the match with its groups. It fails when ctx ends, or
// the script before that.
func (r *Run) Await(ctx context.Context, what *regexp.Regexp) ([]string, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var over error
		select {
		case <-ctx.Done():
			over = ctx.Err()
		case <-r.exited:
			over = errors.New("the machine is off")
		case <-tick.C:
		}
		console := r.Console()
		if match := what.FindStringSubmatch(console); match != nil {
			return match, nil
		}
		if over == nil && endMark.MatchString(console) {
			over = errors.New("the script has ended")
		}
		if over != nil {
			return nil, fmt.Errorf("wait for %q on the console: %w", what, over)
		}
	}
}

// Wait waits for the script's end, turns the machine off and returns the script's exit code.
func (r *Run) Wait(ctx context.Context) (code int, err error) {
	defer r.Kill()
	match, err := r.Await(ctx, endMark)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(match[1])
}
