package acceptance

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// These tests move real domains about real libvirts: after each step the catalogue of every host is right, and a
// watcher has heard of each change once and in order.

// aDisk is a disk of a domain, an image at a path of its host.
func aDisk(path string) string {
	return fmt.Sprintf("<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='%s'/><target dev='vda' bus='virtio'/></disk>", path)
}

// needing is the metadata of a domain that needs a file, at a path if it is not empty.
func needing(name, path string, tags ...string) string {
	at := ""
	if path != "" {
		at = fmt.Sprintf(" path='%s'", path)
	}
	text := fmt.Sprintf("<virtswarm:domain xmlns:virtswarm='urn:virtswarm:domain:1'><virtswarm:file name='%s'%s/>", name, at)
	for _, tag := range tags {
		text += "<virtswarm:tag>" + tag + "</virtswarm:tag>"
	}
	return text + "</virtswarm:domain>"
}

func TestDomainsAreFollowed(t *testing.T) {
	t.Parallel()
	l, v := newHypervisors(t, 3, "")
	stop := v[2].watchGuests()
	stopReading := l.readDomains()
	defer stopReading()

	v[0].define("vm", "", "")
	l.everywhere("define", "vm", "h1", "off")
	v[0].virsh("start", "vm")
	l.everywhere("start", "vm", "h1", "running")
	v[0].virsh("suspend", "vm")
	l.everywhere("suspend", "vm", "h1", "paused")
	v[0].virsh("resume", "vm")
	l.everywhere("resume", "vm", "h1", "running")

	if r := v[0].migrate("vm", v[1]); r.code != 0 {
		t.Fatalf("migrate: %s%s", r.stdout, r.stderr)
	}
	l.everywhere("migrate", "vm", "h2", "running")
	if r := v[1].migrate("vm", v[0]); r.code != 0 {
		t.Fatalf("migrate back: %s%s", r.stdout, r.stderr)
	}
	l.everywhere("migrate back", "vm", "h1", "running")

	v[0].killLibvirt()
	syscall.Kill(v[0].qemu("vm"), syscall.SIGKILL)
	v[0].startLibvirt()
	l.everywhere("QEMU killed while libvirtd was dead", "vm", "h1", "crashed|off") // libvirt may not know why it is gone
	v[0].virsh("start", "vm")
	l.everywhere("start again", "vm", "h1", "running")
	v[0].killLibvirt()
	v[0].startLibvirt()
	v[0].virsh("suspend", "vm")
	l.everywhere("suspend after libvirtd was killed", "vm", "h1", "paused")
	v[0].virsh("resume", "vm")
	l.everywhere("resume", "vm", "h1", "running")

	syscall.Kill(v[0].qemu("vm"), syscall.SIGKILL)
	l.everywhere("QEMU killed", "vm", "h1", "crashed")
	v[0].virsh("start", "vm")
	l.everywhere("start", "vm", "h1", "running")

	v[0].kill()
	v[0].virsh("suspend", "vm") // nobody is there to see it
	l.everywhere("daemon killed", "vm", "h1", "unknown")
	v[0].start()
	l.everywhere("daemon back", "vm", "h1", "paused")
	v[0].virsh("destroy", "vm")
	l.everywhere("destroy", "vm", "h1", "off")
	v[0].virsh("undefine", "vm")
	l.everywhere("undefine", "vm", "", "")

	v[1].define("gone", "", "")
	v[1].virsh("start", "gone")
	l.everywhere("start", "gone", "h2", "running")
	v[1].libvirtd.Kill()
	syscall.Kill(v[1].qemu("gone"), syscall.SIGKILL)
	v[1].kill() // all of the host
	l.everywhere("host killed", "gone", "h2", "unknown")

	heard := stop()
	linearizable(t, stopReading(), heard)
	heardInOrder(t, heard, "off running paused running running(h2) running running paused running crashed running unknown paused off gone")
}

// heardInOrder checks what a watcher heard of vm: indexes ascend, nothing comes twice, and the states follow one
// another as they came to be. The host stands behind a state if it is not h1; what lies between two states while a
// domain moves may be heard, too.
func heardInOrder(t *testing.T, heard []guestEvent, want string) {
	t.Helper()
	var story []string
	last := guestEvent{}
	for _, e := range heard {
		if e.Guest == nil || e.Guest.Name != "vm" {
			continue
		}
		if e.Index < last.Index || last.Guest != nil && !last.Gone && e.Index == last.Index {
			t.Errorf("event of index %d after that of %d", e.Index, last.Index)
		}
		text := e.Guest.State
		if e.Gone {
			text = "gone"
		}
		if e.Guest.Host != "h1" {
			text += "(" + e.Guest.Host + ")"
		}
		story, last = append(story, text), e
	}
	rest := story
	for _, state := range strings.Fields(want) {
		i := slices.Index(rest, state)
		if i < 0 {
			t.Fatalf("%q was not heard, or not in order, in: %s", state, strings.Join(story, " "))
		}
		rest = rest[i+1:]
	}
	if len(rest) > 0 {
		t.Errorf("heard after the end: %s", strings.Join(rest, " "))
	}
	t.Logf("heard: %s", strings.Join(story, " "))
}

// TestMigrationWithStorage copies the disk along, and cancels half way.
func TestMigrationWithStorage(t *testing.T) {
	t.Parallel()
	l, v := newHypervisors(t, 3, "")
	image := "/var/lib/libvirt/images/disk.qcow2"
	for _, h := range v[:2] {
		h.image(image, "", "256M")
	}
	v[0].write(image, 64<<20)
	v[0].define("vm", "", aDisk(image))
	v[0].virsh("start", "vm")
	l.everywhere("start", "vm", "h1", "running")

	// A cable of 8 Mbit/s: there is time to cancel it.
	l.check(v[0].at.SetRate(8_000_000, 8_000_000))
	done := make(chan result, 1)
	go func() { done <- v[0].migrate("vm", v[1], "--copy-storage-all") }()
	l.await("h2 is about to take it", func() bool {
		g, ok := v[2].guest("vm")
		return ok && g.Host == "h1" && slices.Contains(g.Others, "h2")
	})
	v[0].virsh("domjobabort", "vm")
	if r := <-done; r.code == 0 {
		t.Fatal("the migration that was cancelled succeeded")
	}
	l.check(v[0].at.SetRate(0, 0))
	l.everywhere("cancelled", "vm", "h1", "running")
	l.await("h2 knows nothing of it any more", func() bool {
		g, _ := v[2].guest("vm")
		return len(g.Others) == 0
	})
	if r := v[0].migrate("vm", v[1], "--copy-storage-all"); r.code != 0 {
		t.Fatalf("migrate: %s%s", r.stdout, r.stderr)
	}
	l.everywhere("migrate", "vm", "h2", "running")
}

// image makes a qcow2 image at a path of the hypervisor, over a backing file if there is one.
func (v *hypervisor) image(path, backing, size string) {
	v.lab.t.Helper()
	args := []string{"create", "-q", "-f", "qcow2"}
	if backing != "" {
		args = append(args, "-b", backing, "-F", "raw", "-u")
	}
	if r := collect(v.lab.t, v.command("qemu-img", append(args, path, size)...)); r.code != 0 {
		v.lab.t.Fatalf("qemu-img: %s", r.stderr)
	}
}

// write puts bytes into an image, so that there is something to move.
func (v *hypervisor) write(image string, bytes int) {
	v.lab.t.Helper()
	if r := collect(v.lab.t, v.command("qemu-io", "-c", fmt.Sprintf("write -P 7 0 %d", bytes), image)); r.code != 0 {
		v.lab.t.Fatalf("qemu-io: %s%s", r.stdout, r.stderr)
	}
}

// TestPresenceBeforeStart: the hook brings what a domain needs before it starts or arrives, or says why not.
func TestPresenceBeforeStart(t *testing.T) {
	t.Parallel()
	l, v := newHypervisors(t, 3, "hook: {deadline: 30s}\n")
	const base, image = "/var/lib/libvirt/images/base.raw", "/var/lib/libvirt/images/vm.qcow2"
	for _, h := range v[1:] {
		h.must("drain") // so that h1 alone keeps what it publishes
	}
	source := l.random("base", 24<<20, 7)
	v[0].must("publish", source, "images/base.raw", "--replicas", "1", "--wait", "committed")
	for _, h := range v[1:] {
		h.image(image, base, "24M")
	}
	v[1].define("vm", needing("images/base.raw", base), aDisk(image))
	v[1].virsh("start", "vm")
	l.same(source, v[1].path(base))
	l.everywhere("start", "vm", "h2", "running")
	if g, _ := v[0].guest("vm"); len(g.Disks) != 1 || !slices.Equal(g.Disks[0].Chain, []string{image, base}) {
		t.Errorf("disks: %+v", g.Disks)
	}

	if r := v[1].migrate("vm", v[2], "--unsafe"); r.code != 0 { // to a host that lacks the backing file
		t.Fatalf("migrate: %s%s", r.stdout, r.stderr)
	}
	l.same(source, v[2].path(base))
	l.everywhere("migrate", "vm", "h3", "running")
	v[2].virsh("destroy", "vm")

	// What is there stays as it is, also when there is a newer version: images build on it.
	v[0].must("publish", l.random("newer", 24<<20, 8), "images/base.raw", "--replicas", "1", "--wait", "committed")
	v[1].virsh("start", "vm")
	l.same(source, v[1].path(base))
	v[1].virsh("destroy", "vm")

	// Nobody holds it: virsh shows the file and the reason.
	lone := l.random("lone", 8<<20, 9)
	v[0].must("publish", lone, "images/lone.raw", "--replicas", "1", "--wait", "committed")
	v[2].define("wants", needing("images/lone.raw", "/var/lib/libvirt/images/lone.raw"), "")
	v[0].kill()
	refused(t, v[2].virshMay("start", "wants"), "images/lone.raw", "no live host holds the data")
	v[0].start()
	v[2].virsh("start", "wants")
	l.same(lone, v[2].path("/var/lib/libvirt/images/lone.raw"))
	v[2].virsh("destroy", "wants")

	// A start that waits is shown on every host, ended from any, and a prefetch has the next one find all.
	v[0].must("publish", l.random("slow", 16<<20, 11), "images/slow.raw", "--replicas", "1", "--wait", "committed")
	v[0].must("host", "set", "h1", "--up", "2Mbit")
	v[2].define("waits", needing("images/slow.raw", ""), "")
	started := make(chan result, 1)
	go func() { started <- v[2].virshMay("start", "waits") }()
	l.await("the start is shown to wait", func() bool { g, _ := v[1].guest("waits"); return g.Awaits == "images/slow.raw" })
	v[1].must("hook", "cancel", "waits")
	refused(t, <-started, "cancelled")
	v[0].must("host", "set", "h1", "--up", "none")
	v[1].must("prefetch", "waits")
	v[2].virsh("start", "waits")
	v[2].virsh("destroy", "waits")

	// The same for a migration to a host that lacks it, when nobody is left to give it: the domain runs on where it is.
	v[0].must("publish", l.random("far", 8<<20, 10), "images/far.raw", "--replicas", "1", "--wait", "committed")
	v[1].define("roams", needing("images/far.raw", ""), "")
	v[1].virsh("start", "roams")
	v[0].kill()
	v[1].kill()
	refused(t, v[1].migrate("roams", v[2], "--unsafe"), "images/far.raw", "holds")
	if state := strings.TrimSpace(v[1].virsh("domstate", "roams")); state != "running" {
		t.Errorf("the domain that could not migrate is %s", state)
	}
	v[0].start()
	v[1].start()
	v[1].virsh("destroy", "roams")

	// What somebody else put at the path stays, and is said.
	v[2].virsh("undefine", "wants")
	foreign := v[2].path("/var/lib/libvirt/images/foreign.raw")
	l.write(foreign, []byte("mine"))
	v[2].define("occupied", needing("images/lone.raw", "/var/lib/libvirt/images/foreign.raw"), "")
	refused(t, v[2].virshMay("start", "occupied"), "images/lone.raw", "foreign.raw")
	if text, _ := os.ReadFile(foreign); string(text) != "mine" {
		t.Error("a file that was there before was touched")
	}

	// Malformed metadata, and a name that nobody published.
	v[2].define("bad", "<virtswarm:domain xmlns:virtswarm='urn:virtswarm:domain:1'><virtswarm:file name='../x'/></virtswarm:domain>", "")
	refused(t, v[2].virshMay("start", "bad"), "../x")
	l.everywhere("a domain of bad metadata is seen", "bad", "h3", "off")
	v[2].define("unknown", needing("images/nothing.raw", ""), "")
	refused(t, v[2].virshMay("start", "unknown"), "images/nothing.raw", "no such")

	// Without a daemon it is as configured: refused, and then allowed.
	v[2].define("plain", "", "")
	v[2].define("needy", needing("images/lone.raw", ""), "")
	v[2].kill()
	v[2].virsh("start", "plain")
	v[2].define("tagged", ours("<virtswarm:tag>web</virtswarm:tag><virtswarm:push quota='1GiB'/>"), "")
	v[2].virsh("start", "tagged") // it needs nothing
	refused(t, v[2].virshMay("start", "needy"), "cannot be reached")
	v[1].virsh("start", "vm")
	refused(t, v[1].migrate("vm", v[2], "--unsafe"), "cannot be reached")
	if state := strings.TrimSpace(v[1].virsh("domstate", "vm")); state != "running" {
		t.Errorf("the domain that could not migrate is %s", state)
	}
	l.write(l.config, []byte(quick+"hook: {on_failure: allow}\n"))
	v[2].virsh("start", "needy")
}

// refused wants virsh to have failed, and to have shown why.
func refused(t *testing.T, r result, texts ...string) {
	t.Helper()
	if r.code == 0 {
		t.Error("it started")
		return
	}
	t.Logf("virsh: %s", strings.TrimSpace(r.stderr))
	for _, text := range texts {
		if !strings.Contains(r.stderr, text) {
			t.Errorf("virsh does not show %q: %s", text, r.stderr)
		}
	}
}

// TestTagsAndNeeds sets both by the operator's tool, at a host where the domain is not, and has a file follow a tag.
func TestTagsAndNeeds(t *testing.T) {
	t.Parallel()
	l, v := newHypervisors(t, 3, "")
	source := l.random("site", 8<<20, 3)
	v[0].must("publish", source, "site.raw", "--replicas", "1", "--wait", "committed")
	v[1].define("vm", "", "")
	v[1].virsh("start", "vm")
	l.everywhere("start", "vm", "h2", "running")

	v[0].must("guest", "needs", "vm", "add", "site.raw", "--path", "/var/lib/libvirt/images/site.raw")
	v[0].must("guest", "tags", "vm", "add", "web", "db")
	l.await("tags and needs are in the catalogue", func() bool {
		g, _ := v[2].guest("vm")
		return slices.Equal(g.Tags, []string{"db", "web"}) && len(g.Needs) == 1 && g.Needs[0].Path == "/var/lib/libvirt/images/site.raw"
	})
	v[0].must("guest", "tags", "vm", "rm", "db")
	if xml := v[1].virsh("dumpxml", "--inactive", "vm"); !strings.Contains(xml, "site.raw") || !strings.Contains(xml, "web") || strings.Contains(xml, ">db<") {
		t.Errorf("the definition says otherwise: %s", xml)
	}

	v[0].must("distribute", "site.raw", "--to", "tag:web", "--watch")
	holds := func(host string) bool {
		var show struct {
			Holdings []struct {
				Host   string `json:"host"`
				Target bool   `json:"target"`
				Shards int    `json:"shards"`
			} `json:"holdings"`
		}
		v[0].json(&show, "show", "site.raw")
		for _, h := range show.Holdings {
			if h.Host == host && h.Target && h.Shards > 0 {
				return true
			}
		}
		return false
	}
	l.await("h2 holds it", func() bool { return holds("h2") })
	if holds("h3") {
		t.Error("h3 was told to hold it")
	}
	if r := v[1].migrate("vm", v[2]); r.code != 0 {
		t.Fatalf("migrate: %s%s", r.stdout, r.stderr)
	}
	l.await("h3 holds it, as the domain runs there now", func() bool { return holds("h3") })
	if r := v[0].run("guest", "needs", "nobody"); r.code != 32 {
		t.Errorf("a guest that is not there: exit code %d: %s", r.code, r.stderr)
	}
}

// TestStrayQEMU: a QEMU that libvirt does not know appears by its QMP socket, and disappears when it dies.
func TestStrayQEMU(t *testing.T) {
	t.Parallel()
	l, v := newHypervisors(t, 3, "qmp: [/run/qmp]\n")
	for _, h := range v {
		l.check(os.MkdirAll(h.path("/run/qmp"), 0o755))
	}
	cmd := v[0].command("qemu-system-x86_64", "-name", "stray", "-uuid", "11111111-2222-4333-8444-555555555555", "-machine", "q35,accel=tcg",
		"-m", "64", "-display", "none", "-nodefaults", "-qmp", "unix:/run/qmp/stray.sock,server=on,wait=off")
	l.check(cmd.Start())
	l.everywhere("QEMU by hand", "stray", "h1", "running")
	if g, _ := v[1].guest("stray"); g.UUID != "11111111-2222-4333-8444-555555555555" {
		t.Errorf("its UUID is %s", g.UUID)
	}
	cmd.Process.Kill()
	cmd.Wait()
	l.everywhere("killed", "stray", "", "")

	// A socket that nobody answers at, or that talks nonsense, harms nobody.
	nonsense, err := net.Listen("unix", filepath.Join(v[0].path("/run/qmp"), "nonsense.sock"))
	l.check(err)
	defer nonsense.Close()
	go func() {
		for {
			c, err := nonsense.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			c.Write([]byte(strings.Repeat("{", 100_000)))
		}
	}()
	v[0].define("vm", "", "")
	l.everywhere("beside a socket of nonsense", "vm", "h1", "off")
}
