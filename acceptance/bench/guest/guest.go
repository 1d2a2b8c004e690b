package guest

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
	"time"

	"github.com/virtswarm/virtswarm/acceptance/nested"
	"github.com/virtswarm/virtswarm/acceptance/netlab"
	"github.com/virtswarm/virtswarm/internal/shmring"
)

// The guest's network: a cable to the host and nothing else.
const (
	hostAddr  = "10.78.0.1"
	guestAddr = "10.78.0.2"
)

const (
	guestName = "guest"
	guestUUID = "0b9d7c52-3d2e-4a55-9b62-bb5c0f3e1a01"
	// Two devices: one for bare channels, and before it that of the agent, which takes the first.
	rawSlot, agentSlot = "0x9", "0x8"
	rawBAR             = "/sys/bus/pci/devices/0000:00:09.0/resource2"
	regionSize         = shmring.DefaultSize
)

// commandPatience bounds the time of one command in the guest.
const commandPatience = 10 * time.Minute

// ready is what the guest's console says when it takes commands.
const ready = "benchguest: ready"

// guestScript is what the guest runs: it mounts its disk, takes its network, starts what rivals need, and then does
// what comes by the second serial line.
const guestScript = `ip addr add ` + guestAddr + `/24 dev eth0 && ip link set eth0 up
mkdir -p /disk /share
mount -t ext4 /dev/vda /disk || echo "benchguest: no disk"
[ -x /usr/sbin/dropbear ] && dropbear -E -r /etc/dropbear.key
if [ -x /usr/sbin/qemu-ga ]; then
	port=$(grep -l org.qemu.guest_agent.0 /sys/class/virtio-ports/*/name)
	qemu-ga -t /run -m virtio-serial -p /dev/$(basename $(dirname $port)) &
fi
stty -F /dev/ttyS1 raw -echo
echo "` + ready + `"
while :; do while read -r command; do eval "$command"; done; done </dev/ttyS1 >/dev/ttyS1 2>&1
`

// guest is a machine that QEMU emulates. Its calls are made one at a time.
type guest struct {
	lab  *lab
	qemu *netlab.Process
	line net.Conn
	in   *bufio.Reader
	last int
	left map[string]string // rivals that it lacks, and why
}

// bootGuest starts a guest with all that is wanted, and waits until it is up.
func (l *lab) bootGuest(ctx context.Context) (*guest, error) {
	if err := nested.Missing(); err != nil {
		return nil, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	kernel, err := nested.FindKernel(ctx, filepath.Join(cache, "virtswarm-acceptance"))
	if err != nil {
		return nil, err
	}
	g := &guest{lab: l, left: map[string]string{}}
	files, modules := g.inside(kernel)
	if err := kernel.Pack(l.path("initrd"), nested.Guest{Script: guestScript, Files: files, Modules: modules}); err != nil {
		return nil, err
	}
	args, err := g.machine(ctx)
	if err != nil {
		return nil, err
	}
	args = append(args, "-kernel", kernel.Image, "-initrd", l.path("initrd"))
	if g.qemu, err = l.start("qemu", "qemu-system-x86_64", args...); err != nil {
		return nil, err
	}
	up := func() bool {
		text, _ := os.ReadFile(l.path("console.log"))
		return strings.Contains(string(text), ready)
	}
	if err := await(ctx, "the guest is up", up); err != nil {
		return nil, l.said("console", l.said("qemu", err))
	}
	if g.line, err = net.Dial("unix", l.path("line")); err != nil {
		return nil, err
	}
	g.in = bufio.NewReader(g.line)
	context.AfterFunc(ctx, func() { g.line.Close() })
	_, err = g.run("grep -q ' /disk ext4 ' /proc/mounts")
	return g, err
}

// machine makes what the guest needs of the host, and returns QEMU's arguments.
func (g *guest) machine(ctx context.Context) ([]string, error) {
	l := g.lab
	disk := l.path("disk")
	shell := fmt.Sprintf(`set -e
truncate -s %d %s; mke2fs -q -t ext4 -E lazy_itable_init=0,lazy_journal_init=0 %[2]s
ip tuntap add tap0 mode tap; ip addr add %s/24 dev tap0; ip link set tap0 up`, 2*l.size+(256<<20), disk, hostAddr)
	if _, err := l.output(ctx, "sh", "-c", shell); err != nil {
		return nil, err
	}
	args := []string{"-machine", "q35,memory-backend=memory", "-cpu", "max", "-accel", "tcg,thread=multi", "-smp", strconv.Itoa(l.cpus),
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-name", guestName, "-uuid", guestUUID,
		"-m", fmt.Sprintf("%dM", 768+2*l.size>>20),
		"-object", fmt.Sprintf("memory-backend-memfd,id=memory,share=on,size=%dM", 768+2*l.size>>20), // virtiofsd must see it
		"-append", "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable",
		"-serial", "file:" + l.path("console.log"), "-serial", "unix:" + l.path("line") + ",server=on,wait=off",
		"-qmp", "unix:" + filepath.Join(l.path("qmp"), "guest.sock") + ",server=on,wait=off",
		"-netdev", "tap,id=net,ifname=tap0,script=no,downscript=no", "-device", "virtio-net-pci,netdev=net,mac=52:54:00:00:00:01,romfile=",
		"-drive", "if=none,id=disk,format=raw,cache=writeback,file=" + disk, "-device", "virtio-blk-pci,drive=disk",
		"-device", "virtio-serial-pci"}
	for _, m := range []memory{{"raw", "raw", "raw-memory", rawSlot}, agentMemory(guestUUID)} {
		more, err := l.plug(m)
		if err != nil {
			return nil, err
		}
		args = append(args, more...)
	}
	for _, r := range rivals {
		if r.devices == nil || !l.wants(r.key) || g.left[r.key] != "" {
			continue
		}
		more, err := r.devices(l)
		if err != nil {
			return nil, fmt.Errorf("make %s ready: %w", r.name, err)
		}
		args = append(args, more...)
	}
	return args, nil
}

// memory is one device of shared memory: its file in /dev/shm, its names for QEMU, and its place on the bus.
type memory struct{ file, id, backend, slot string }

// agentMemory is what the daemon takes for memory that it has plugged itself (package qmp).
func agentMemory(uuid string) memory {
	return memory{"virtswarm-" + uuid, "virtswarm-shm", "virtswarm-shm-backend-00000000", agentSlot}
}

// plug makes the memory, and returns QEMU's arguments.
func (l *lab) plug(m memory) ([]string, error) {
	err := shmring.Create(l.shm(m.file), regionSize, -1, -1)
	return []string{"-object", fmt.Sprintf("memory-backend-file,id=%s,share=on,size=%d,mem-path=/dev/shm/%s", m.backend, regionSize, m.file),
		"-device", fmt.Sprintf("ivshmem-plain,id=%s,memdev=%s,addr=%s,master=on", m.id, m.backend, m.slot)}, err
}

// inside is what is in the guest. What this machine has not is left out, with a reason.
func (g *guest) inside(kernel *nested.Kernel) (files map[string]string, modules []string) {
	l := g.lab
	files = map[string]string{"/usr/bin/virtswarm-agent": l.agent, "/usr/bin/peer": l.peer}
	modules = []string{"virtio_pci", "virtio_net", "virtio_blk", "virtio_console"}
	for _, r := range rivals {
		if !l.wants(r.key) {
			continue
		}
		if why := r.missing(kernel); why != "" {
			g.left[r.key] = why
			continue
		}
		modules = append(modules, r.modules...)
		for _, program := range r.inside {
			path, _ := exec.LookPath(program)
			files[path] = path
		}
		if r.files != nil {
			for at, from := range r.files(l) {
				files[at] = from
			}
		}
	}
	return files, modules
}

// run runs a command in the guest, and wants exit code 0. It returns what it said on either output.
func (g *guest) run(command string) (string, error) {
	g.last++
	if err := g.line.SetDeadline(time.Now().Add(commandPatience)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(g.line, "( %s ) </dev/null; code=$?; echo; echo done-%d-$code\n", command, g.last); err != nil {
		return "", err
	}
	mark, out := fmt.Sprintf("done-%d-", g.last), ""
	for {
		line, err := g.in.ReadString('\n')
		if err != nil {
			return "", fmt.Errorf("in the guest: %s: it says no more: %w; so far: %s", command, err, out)
		}
		line = strings.ReplaceAll(line, "\r", "")
		if code, ok := strings.CutPrefix(line, mark); ok {
			if strings.TrimSpace(code) != "0" {
				return out, fmt.Errorf("in the guest: %s: exit code %s: %s", command, strings.TrimSpace(code), out)
			}
			return strings.TrimSpace(out), nil
		}
		out += line
	}
}

// busy is the time that the guest's processors have worked, in seconds (proc(5): stat, in clock ticks).
func (g *guest) busy() (float64, error) {
	const ticksPerSecond, idle, wait = 100, 3, 4
	out, err := g.run("head -n1 /proc/stat")
	if err != nil {
		return 0, err
	}
	total := 0.0
	for i, field := range strings.Fields(out)[1:] {
		n, _ := strconv.ParseFloat(field, 64)
		if i != idle && i != wait && i < 8 { // what guests of it took is in there twice
			total += n / ticksPerSecond
		}
	}
	return total, nil
}

func (g *guest) stop() {
	if g.line != nil {
		g.line.Close()
	}
	g.qemu.Kill()
}
