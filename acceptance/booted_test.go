package acceptance

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/acceptance/nested"
)

// booted is a Debian that was booted with systemd, on the packages of this checkout.
type booted struct {
	shell
	dir string
}

// machineUnit runs what comes by the second serial line, as root.
const machineUnit = `[Unit]
After=multi-user.target
[Service]
Type=idle
ExecStart=/bin/sh -c 'stty -F /dev/ttyS1 raw -echo; echo booted; while :; do while read -r command; do eval "$command"; done; done'
StandardInput=file:/dev/ttyS1
StandardOutput=file:/dev/ttyS1
StandardError=file:/dev/ttyS1
[Install]
WantedBy=multi-user.target
`

// boot makes a copy of the Debian image, prepares it with commands that run in its root directory (by chroot, without a
// network), and boots it. It takes half a minute where guests are emulated.
func boot(t *testing.T, prepare ...string) *booted {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting an image takes root")
	}
	if err := nested.Missing(); err != nil {
		t.Skipf("no guests here: %v", err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	b := &booted{shell{t: t, name: "debian"}, t.TempDir()}
	image, disk := filepath.Join(cache, "virtswarm-acceptance", "debian-12.img"), filepath.Join(b.dir, "disk")
	b.command("./image.sh", image)
	b.command("cp", "--sparse=always", image, disk)
	root := filepath.Join(b.dir, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	b.command("mount", "-o", "loop", disk, root)
	func() {
		defer b.command("umount", root)
		if err := os.WriteFile(filepath.Join(root, "etc/systemd/system/machine.service"), []byte(machineUnit), 0o644); err != nil {
			t.Fatal(err)
		}
		version := strings.TrimSpace(string(b.command("sh", "-c", "cd .. && sed -n 's/^VERSION *?= *//p' Makefile")))
		b.command("../packaging/deb.sh", version, filepath.Join(root, "root"))
		for _, script := range append(prepare, "systemctl enable machine; rm -f /etc/systemd/system/*.wants/ssh.service") {
			b.command("chroot", root, "sh", "-ec", script)
		}
		b.command("sh", "-c", fmt.Sprintf("cp %[1]s/boot/vmlinuz-* %[2]s/kernel && cp %[1]s/boot/initrd.img-* %[2]s/initrd", root, b.dir))
	}()
	b.start(disk)
	return b
}

func (b *booted) command(name string, args ...string) []byte {
	b.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		b.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// start boots the machine and waits until its shell is there.
func (b *booted) start(disk string) {
	b.t.Helper()
	console, line := filepath.Join(b.dir, "console"), filepath.Join(b.dir, "line")
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "2", "-m", "1024", "-nodefaults",
		"-display", "none", "-no-reboot", "-kernel", filepath.Join(b.dir, "kernel"), "-initrd", filepath.Join(b.dir, "initrd"),
		"-append", "root=/dev/vda rw console=ttyS0 mitigations=off systemd.default_timeout_start_sec=600", "-device", "virtio-rng-pci",
		"-drive", "file="+disk+",format=raw,if=virtio,cache=unsafe", "-serial", "file:"+console, "-serial", "unix:"+line+",server=on,wait=off")
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	b.t.Cleanup(func() {
		cancel()
		<-ended
		if text, err := os.ReadFile(console); err == nil && b.t.Failed() {
			b.t.Logf("the end of the console:\n%s", text[max(0, len(text)-8000):])
		}
	})
	deadline := time.Now().Add(5 * patience)
	for {
		conn, err := net.Dial("unix", line)
		if err == nil {
			b.take(conn)
			break
		}
		select {
		case <-ended:
			b.t.Fatal("QEMU ends")
		case <-time.After(10 * time.Millisecond): // there is nothing else to wait for
		}
		if time.Now().After(deadline) {
			b.t.Fatal(err)
		}
	}
	if err := b.line.SetReadDeadline(deadline); err != nil {
		b.t.Fatal(err)
	}
	for said := ""; !strings.Contains(said, "booted"); {
		text, err := b.in.ReadString('\n')
		if said += text; err != nil {
			b.t.Fatalf("it does not come up: %v, it says %q", err, said)
		}
	}
}

// until runs a command until it succeeds.
func (b *booted) until(what, command string) string {
	b.t.Helper()
	out, code := b.may(fmt.Sprintf("n=0; until { %s; } >/tmp/until 2>&1; do n=$((n+1)); [ $n -lt 200 ] || { cat /tmp/until; exit 1; }; sleep 0.3; done", command))
	if code != 0 {
		log, _ := b.may("journalctl -u virtswarmd --no-pager -o cat | tail -40")
		b.t.Fatalf("never: %s\n%s\n%s", what, out, log)
	}
	return out
}

// pid is that of the daemon which is up.
func (b *booted) pid() string {
	b.t.Helper()
	b.until("the daemon answers", "virtswarm status --wait 1s >/dev/null 2>&1")
	return strings.TrimSpace(b.run("systemctl show -p MainPID --value virtswarmd"))
}

// TestUnitsInABootedDebian: what systemd makes of the daemon's ends, and of a machine that has just been installed.
func TestUnitsInABootedDebian(t *testing.T) {
	t.Parallel()
	b := boot(t,
		"dpkg -i /root/virtswarm_*_amd64.deb /root/virtswarm-agent_*_amd64.deb >/dev/null",
		"systemctl enable virtswarmd virtswarm-sync@site; mkdir -p /etc/systemd/system/virtswarmd.service.d",
		"printf '[Service]\\nWatchdogSec=6\\n' >/etc/systemd/system/virtswarmd.service.d/quick.conf",
		"sed -i 's/^# advertise:.*/advertise: 127.0.0.1:7117/' /etc/virtswarm/virtswarm.yaml") // it has no network

	if v := b.run("virtswarmd --version; virtswarm --version"); strings.Count(v, "version v") != 2 {
		t.Errorf("the programs of the package say %q", v)
	}
	// virtswarm-sync@ has no host here, and waits for it: but it has started.
	b.until("virtswarm-sync@site runs", "systemctl is-active virtswarm-sync@site && [ $(systemctl show -p NRestarts --value virtswarm-sync@site) = 0 ]")
	b.until("a cluster is made", "virtswarm init 2>&1 || virtswarm hosts")
	pid := b.pid()

	for _, signal := range []string{"HUP", "PIPE"} {
		b.run("systemctl kill -s " + signal + " virtswarmd")
		if now := b.pid(); now != pid {
			t.Errorf("SIG%s ends the daemon", signal)
			pid = now
		}
	}
	for _, signal := range []string{"KILL", "ABRT", "SEGV"} {
		b.run("systemctl kill -s " + signal + " virtswarmd")
		b.until("it runs again after SIG"+signal, "p=$(systemctl show -p MainPID --value virtswarmd); [ $p != 0 ] && [ $p != "+pid+" ]")
		pid = b.pid()
	}
	// Far more ends than systemd's own limit allows.
	b.run("for i in 1 2 3 4 5 6 7 8 9 10; do systemctl kill -s KILL virtswarmd || :; sleep 0.2; systemctl reset-failed nothing 2>/dev/null || :; systemctl start virtswarmd; done")
	b.pid()

	// Another program has its port for a while.
	b.run("systemctl stop virtswarmd; (virtswarmd --data /tmp/other --socket /tmp/other.sock --listen :7117 --advertise 127.0.0.1:7117 >/dev/null 2>&1 & echo $! >/tmp/other.pid)")
	b.until("the port is taken", "virtswarm --socket /tmp/other.sock hosts >/dev/null 2>&1")
	b.run("systemctl start --no-block virtswarmd")
	b.until("it has tried some times", "[ $(systemctl show -p NRestarts --value virtswarmd) -ge 6 ]")
	b.run("kill $(cat /tmp/other.pid)")
	pid = b.pid()

	// It stands still: only the watchdog notices.
	b.run("systemctl kill -s STOP virtswarmd")
	b.until("the watchdog has ended it", "p=$(systemctl show -p MainPID --value virtswarmd); [ $p != 0 ] && [ $p != "+pid+" ]")
	pid = b.pid()

	// The log goes away.
	b.run("systemctl stop systemd-journald.socket systemd-journald-dev-log.socket systemd-journald-audit.socket systemd-journald 2>&1; virtswarm publish /etc/hostname hostname")
	b.run("systemctl start systemd-journald")
	if now := b.pid(); now != pid {
		t.Error("the end of journald ends the daemon")
	}

	// A start in vain is not repeated: the unit says so.
	b.run("systemctl stop virtswarmd; echo nonsense: 1 >>/etc/virtswarm/virtswarm.yaml; systemctl start virtswarmd 2>/dev/null || :")
	b.until("a bad configuration is final", "systemctl is-failed virtswarmd")
	if code := strings.TrimSpace(b.run("systemctl show -p ExecMainStatus --value virtswarmd")); code != "28" {
		t.Errorf("a bad configuration ends with %s", code)
	}

	b.run("dpkg -r virtswarm >/dev/null 2>&1")
	b.run("echo '<domain><metadata><v:domain xmlns:v=\"urn:virtswarm:domain:1\"><v:file name=\"a\"/></v:domain></metadata></domain>' | " +
		"/etc/libvirt/hooks/qemu.d/virtswarm web prepare begin -")
}
