package guest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/virtswarm/virtswarm/acceptance/nested"
	"github.com/virtswarm/virtswarm/acceptance/netlab"
)

// rival is a way to bring a file to the guest's disk. Where it is /disk/got afterwards, it is made durable within the
// clock.
type rival struct {
	key, name, note string
	inside          []string                     // programs of this machine that the guest needs
	outside         []string                     // and that the host needs
	modules         []string                     // of the guest's kernel
	limit           int64                        // bytes of the file that it is given, 0: all
	files           func(*lab) map[string]string // more that the guest needs
	devices         func(*lab) ([]string, error) // QEMU's arguments
	begin           func(*lab) error             // before the first delivery
	bring           func(context.Context, *guest, string) error
}

// got is where it comes to in the guest.
const got = "/disk/got"

// curl fetches the file of a name.
const curl = "curl -sS -o " + got + " http://" + hostAddr + "/%s"

var rivals = []rival{
	{key: "shm", name: "virtswarm-agent, shm", note: "verified at both ends", bring: byCommand("virtswarm-agent pull %s " + got)},
	{key: "nginx", name: "curl from nginx, virtio-net", note: "tap, no vhost; not verified", inside: []string{"curl"}, outside: []string{"nginx"},
		begin: startNginx, bring: byCommand(curl + " && sync " + got)},
	{key: "checked", name: "curl, then sha256sum", note: "verified in the end", inside: []string{"curl"}, outside: []string{"nginx"},
		begin: startNginx, bring: byCommand(curl + " && sync " + got + " && sha256sum " + got)},
	{key: "scp", name: "scp, virtio-net", note: "dropbear in the guest; authenticated, not compared", inside: []string{"dropbear", "scp"}, outside: []string{"dropbearkey", "ssh-keygen"},
		files: scpKeys, bring: scp},
	{key: "virtiofs", name: "cp from virtiofs", note: "not verified", outside: []string{virtiofsd}, modules: []string{"virtiofs"},
		devices: virtiofsDevices, bring: byCommand("echo 3 >/proc/sys/vm/drop_caches; mount -t virtiofs share /share && cp /share/%s " + got + " && sync " + got + " && umount /share")},
	{key: "9p", name: "cp from 9p", note: "not verified", modules: []string{"9p", "9pnet_virtio"},
		devices: func(l *lab) ([]string, error) {
			return []string{"-fsdev", "local,id=share9p,security_model=none,readonly=on,path=" + l.path("share"), "-device", "virtio-9p-pci,fsdev=share9p,mount_tag=share9p"}, nil
		},
		bring: byCommand("mount -t 9p -o trans=virtio,version=9p2000.L,msize=1048576 share9p /share && cp /share/%s " + got + " && sync " + got + " && umount /share")},
	{key: "qga", name: "QEMU guest agent", note: "guest-file-write, 1 MiB each; not verified", inside: []string{"qemu-ga"}, limit: 16 << 20,
		devices: func(l *lab) ([]string, error) {
			return []string{"-chardev", "socket,id=qga,server=on,wait=off,path=" + l.path("qga"), "-device", "virtserialport,chardev=qga,name=org.qemu.guest_agent.0"}, nil
		},
		bring: qga},
}

// virtiofsd is where Debian 12 has it; later ones have a package of that name.
const virtiofsd = "/usr/lib/qemu/virtiofsd"

// missing is what this machine or the guest's kernel lacks for it.
func (r rival) missing(kernel *nested.Kernel) string {
	for _, program := range append(r.inside, r.outside...) {
		if _, err := exec.LookPath(program); err != nil {
			return err.Error()
		}
	}
	index, _ := filepath.Glob(filepath.Join(filepath.Dir(kernel.Image), "../lib/modules/*/modules.dep"))
	for _, module := range r.modules {
		found := false
		for _, file := range index {
			text, _ := os.ReadFile(file)
			found = found || strings.Contains(string(text), "/"+module+".ko")
		}
		if !found {
			return "Debian's kernel for virtual machines has no module " + module
		}
	}
	return ""
}

// byCommand brings the file by a command in the guest, with the file's name in it.
func byCommand(command string) func(context.Context, *guest, string) error {
	return func(_ context.Context, g *guest, name string) error {
		_, err := g.run(fmt.Sprintf(command, name))
		return err
	}
}

func startNginx(l *lab) error {
	if _, err := os.Stat(l.path("nginx")); err == nil {
		return nil // it is there
	}
	conf := fmt.Sprintf(`daemon off; worker_processes 1; pid %[1]s/pid; error_log %[1]s/error.log; user root;
events {}
http { access_log off; sendfile on; tcp_nopush on; client_body_temp_path %[1]s/t1; proxy_temp_path %[1]s/t2; fastcgi_temp_path %[1]s/t3;
	uwsgi_temp_path %[1]s/t4; scgi_temp_path %[1]s/t5; server { listen %[2]s:80; root %[3]s; } }`, l.path("nginx"), hostAddr, l.path("share"))
	if err := os.MkdirAll(l.path("nginx"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(l.path("nginx/conf"), []byte(conf), 0o644); err != nil {
		return err
	}
	p, err := l.start("nginx", "nginx", "-c", l.path("nginx/conf"), "-p", l.path("nginx"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return p.AwaitListener(ctx, 80)
}

// scpKeys makes the keys of both sides.
func scpKeys(l *lab) map[string]string {
	own, host := l.path("ssh"), l.path("dropbear")
	exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", own).Run() // if that fails, the first use says so
	exec.Command("dropbearkey", "-t", "ed25519", "-f", host).Run()
	return map[string]string{"/root/.ssh/authorized_keys": own + ".pub", "/etc/dropbear.key": host}
}

func scp(ctx context.Context, g *guest, name string) error {
	l := g.lab
	_, err := l.output(ctx, "scp", "-O", "-B", "-q", "-i", l.path("ssh"), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
		"-o", "GlobalKnownHostsFile=/dev/null", filepath.Join(l.path("share"), name), "root@"+guestAddr+":"+got)
	if err == nil {
		_, err = g.run("sync " + got)
	}
	return err
}

// virtiofsDevices starts the server, which ends with the guest.
func virtiofsDevices(l *lab) ([]string, error) {
	if _, err := l.start("virtiofsd", virtiofsd, "-f", "--socket-path="+l.path("virtiofs"), "-o", "source="+l.path("share")); err != nil {
		return nil, err
	}
	if err := await(context.Background(), "virtiofsd listens", func() bool { _, err := os.Stat(l.path("virtiofs")); return err == nil }); err != nil {
		return nil, l.said("virtiofsd", err)
	}
	return []string{"-chardev", "socket,id=virtiofs,path=" + l.path("virtiofs"), "-device", "vhost-user-fs-pci,chardev=virtiofs,tag=share"}, nil
}

// qga writes the file by QEMU's guest agent, which takes it as text in JSON.
func qga(ctx context.Context, g *guest, name string) error {
	p, err := os.ReadFile(filepath.Join(g.lab.path("share"), name))
	if err != nil {
		return err
	}
	conn, err := net.Dial("unix", g.lab.path("qga"))
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	in := json.NewDecoder(conn)
	do := func(command string, args map[string]any, answer any) error {
		if err := json.NewEncoder(conn).Encode(map[string]any{"execute": command, "arguments": args}); err != nil {
			return err
		}
		var said struct {
			Return json.RawMessage
			Error  *struct{ Desc string }
		}
		if err := in.Decode(&said); err != nil {
			return fmt.Errorf("%s: %w", command, err)
		}
		if said.Error != nil {
			return fmt.Errorf("%s: %s", command, said.Error.Desc)
		}
		return json.Unmarshal(said.Return, answer)
	}
	var handle int
	var done any
	if err := do("guest-file-open", map[string]any{"path": got, "mode": "w"}, &handle); err != nil {
		return err
	}
	const piece = 1 << 20
	for len(p) > 0 {
		n := min(len(p), piece)
		if err := do("guest-file-write", map[string]any{"handle": handle, "buf-b64": base64.StdEncoding.EncodeToString(p[:n])}, &done); err != nil {
			return err
		}
		p = p[n:]
	}
	if err := do("guest-file-close", map[string]any{"handle": handle}, &done); err != nil {
		return err
	}
	_, err = g.run("sync " + got)
	return err
}

// cpu is the time that all that runs for the guest has used: QEMU, and whoever serves it.
func cpu(procs []*netlab.Process) (total float64) {
	for _, p := range procs {
		total += p.CPU()
	}
	return total
}
