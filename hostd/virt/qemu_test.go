//go:build libvirt_dlopen

package virt

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/placement"
)

// TestQEMU watches a real libvirtd with real, emulated QEMUs.
func TestQEMU(t *testing.T) {
	open(t, testURI) // skips without libvirt
	l := newLab(t, 1)
	w, _ := watch(t, Config{URI: l.uri(), files: l.path("run/libvirt/qemu"), Reconcile: time.Hour})
	untilConnected(t, w, true)

	t.Run("life", func(t *testing.T) { testLife(t, l, w) })
	t.Run("metadata", func(t *testing.T) { testMetadata(t, l, w) })
	t.Run("device", func(t *testing.T) { testDevice(t, l, w) })
	t.Run("memory", func(t *testing.T) { testMemory(t, l, w) })
	t.Run("guests hang", func(t *testing.T) { testHungGuests(t, l, w) })
	t.Run("restart", func(t *testing.T) { testRestart(t, l, w) })
	t.Run("hang", func(t *testing.T) { testHang(t, l, w) })
}

func testLife(t *testing.T, l *lab, w *Watcher) {
	chain := l.images("base.raw", "mid.qcow2", "top.qcow2")
	l.define("life", chain[0])
	d := untilState(t, w, "life", placement.DomainOff)
	want := placement.Domain{
		UUID: d.UUID, Name: "life", State: placement.DomainOff, Manager: placement.ManagedByLibvirt, VCPUs: 1, Memory: 32 << 20,
		Disks: []placement.Disk{{Target: "vda", Chain: chain}}, Needs: []placement.Need{{Name: "images/base", Path: "/images/base"}},
	}
	if !d.Equal(want) {
		t.Errorf("off: got %+v\nwant %+v", d, want)
	}
	l.virsh("start", "life", "--paused")
	d = untilState(t, w, "life", placement.DomainPaused)
	if want.State = placement.DomainPaused; !d.Equal(want) {
		t.Errorf("paused: got %+v\nwant %+v", d, want)
	}
	l.virsh("resume", "life")
	untilState(t, w, "life", placement.DomainRunning)
	l.virsh("suspend", "life")
	untilState(t, w, "life", placement.DomainPaused)
	l.virsh("resume", "life")
	untilState(t, w, "life", placement.DomainRunning)

	// A block job takes the middle image out of the chain.
	l.virsh("blockpull", "life", "vda", "--base", chain[2], "--wait")
	until(t, w, "the shorter chain", func(m map[string]placement.Domain) bool {
		return len(m["life"].Disks) == 1 && slices.Equal(m["life"].Disks[0].Chain, []string{chain[0], chain[2]})
	})
	// libvirt has no event for an external snapshot.
	snapshot := filepath.Join(filepath.Dir(chain[0]), "snapshot.qcow2")
	l.virsh("snapshot-create-as", "life", "before", "--disk-only", "--no-metadata", "--diskspec", "vda,file="+snapshot)
	until(t, w, "the longer chain", func(m map[string]placement.Domain) bool {
		return slices.Equal(m["life"].Disks[0].Chain, []string{snapshot, chain[0], chain[2]})
	})
	l.virsh("blockcommit", "life", "vda", "--active", "--shallow", "--pivot", "--wait")
	until(t, w, "the shorter chain again", func(m map[string]placement.Domain) bool {
		return slices.Equal(m["life"].Disks[0].Chain, []string{chain[0], chain[2]})
	})
	l.virsh("destroy", "life")
	d = untilState(t, w, "life", placement.DomainOff)
	if !slices.Equal(d.Disks[0].Chain, []string{chain[0], chain[2]}) {
		t.Errorf("off again: chain %q", d.Disks[0].Chain)
	}
	l.virsh("start", "life")
	untilState(t, w, "life", placement.DomainRunning)
	l.kill("life")
	untilState(t, w, "life", placement.DomainCrashed)
	l.virsh("undefine", "life")
	untilState(t, w, "life", "")
}

func testMetadata(t *testing.T, l *lab, w *Watcher) {
	l.define("meta", "")
	l.virsh("start", "meta", "--paused")
	d := untilState(t, w, "meta", placement.DomainPaused)
	tags := func(d placement.Domain) []string { return d.Tags }
	l.virsh("metadata", "meta", "--uri", Namespace, "--key", MetadataKey, "--set", "<domain><tag>web</tag></domain>", "--live", "--config")
	until(t, w, "the tag of virsh", func(m map[string]placement.Domain) bool { return slices.Equal(tags(m["meta"]), []string{"web"}) })
	want := Metadata{
		Needs: []placement.Need{{Name: "a", ID: someDigest, Path: "/a b"}}, Tags: []string{"db", "web"}, Shm: 1 << 20,
		Push: &placement.Push{Quota: 10 << 30, Prefix: "builds/a&b", Guests: "tag:web"},
	}
	must(t, w.SetMetadata(t.Context(), d.UUID, func(m Metadata) (Metadata, error) {
		if !slices.Equal(m.Tags, []string{"web"}) {
			t.Errorf("was %+v", m)
		}
		return want, nil
	}))
	until(t, w, "both tags", func(m map[string]placement.Domain) bool {
		d := m["meta"]
		return slices.Equal(d.Tags, want.Tags) && d.WantShm == want.Shm && d.Push != nil && *d.Push == *want.Push
	})
	for _, where := range []string{"--live", "--config"} {
		got, err := ParseMetadata(l.virsh("metadata", "meta", "--uri", Namespace, where))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", where, got, err)
		}
	}
	// What somebody has planned for the next start stays planned, and does not come into force now.
	l.virsh("metadata", "meta", "--uri", Namespace, "--key", MetadataKey, "--config", "--set",
		"<domain><file name='two'/><tag>planned</tag></domain>")
	must(t, w.SetMetadata(t.Context(), d.UUID, func(m Metadata) (Metadata, error) { m.Tags = append(m.Tags, "new"); return m, nil }))
	for where, tags := range map[string][]string{"--live": {"db", "new", "web"}, "--config": {"new", "planned"}} {
		got, err := ParseMetadata(l.virsh("metadata", "meta", "--uri", Namespace, where))
		if err != nil || !slices.Equal(got.Tags, tags) || len(got.Needs) != 1 || (got.Needs[0].Name == "two") != (where == "--config") {
			t.Errorf("%s: %+v, %v", where, got, err)
		}
	}
	// Somebody else changes it between our reading and our writing.
	meddled := false
	must(t, w.SetMetadata(t.Context(), d.UUID, func(m Metadata) (Metadata, error) {
		if !meddled {
			meddled = true
			l.virsh("metadata", "meta", "--uri", Namespace, "--key", MetadataKey, "--config", "--set", "<domain><tag>meddled</tag></domain>")
		}
		m.Tags = append(m.Tags, "ours")
		return m, nil
	}))
	if got, err := ParseMetadata(l.virsh("metadata", "meta", "--uri", Namespace, "--config")); err != nil || !slices.Equal(got.Tags, []string{"meddled", "ours"}) {
		t.Errorf("after a concurrent change: %+v, %v", got, err)
	}
	must(t, w.SetMetadata(t.Context(), d.UUID, func(Metadata) (Metadata, error) { return Metadata{}, nil }))
	until(t, w, "no metadata", func(m map[string]placement.Domain) bool { return len(m["meta"].Tags)+len(m["meta"].Needs) == 0 })
	if xml := l.virsh("dumpxml", "meta"); strings.Contains(xml, Namespace) {
		t.Errorf("empty metadata is left in %s", xml)
	}
	l.virsh("undefine", "meta") // it becomes transient
	must(t, w.SetMetadata(t.Context(), d.UUID, func(Metadata) (Metadata, error) { return Metadata{Tags: []string{"last"}}, nil }))
	until(t, w, "the last tag", func(m map[string]placement.Domain) bool { return slices.Equal(tags(m["meta"]), []string{"last"}) })
	l.virsh("destroy", "meta")
	untilState(t, w, "meta", "")
}

// testDevice plugs a device into a guest without an operating system: it lets go only when it is reset.
func testDevice(t *testing.T, l *lab, w *Watcher) {
	const device = `<rng model='virtio'><backend model='random'>/dev/urandom</backend><alias name='ua-virtswarm'/></rng>`
	l.define("dev", "")
	d := untilState(t, w, "dev", placement.DomainOff)
	if err := w.Plug(t.Context(), d.UUID, device); !errors.Is(err, ErrNotRunning) {
		t.Errorf("plug into what is off: %v", err)
	}
	must(t, w.Unplug(t.Context(), d.UUID, "ua-virtswarm"))
	l.virsh("start", "dev")
	untilState(t, w, "dev", placement.DomainRunning)
	must(t, w.Plug(t.Context(), d.UUID, device))
	if xml := l.virsh("dumpxml", "dev"); !hasAlias(xml, "ua-virtswarm") {
		t.Fatalf("not plugged: %s", xml)
	}
	if err := w.Plug(t.Context(), d.UUID, "<rng"); err == nil {
		t.Error("plugged nonsense")
	}
	l.untilUnplugged("dev", func() error { return w.Unplug(t.Context(), d.UUID, "ua-virtswarm") })
	if xml := l.virsh("dumpxml", "dev"); hasAlias(xml, "ua-virtswarm") {
		t.Error("it is still plugged")
	}
	must(t, w.Unplug(t.Context(), d.UUID, "ua-virtswarm")) // it is not there
	if err := w.Unplug(t.Context(), someUUID, "x"); err != nil {
		t.Errorf("unplug from what is not there: %v", err)
	}
	l.virsh("destroy", "dev")
	l.virsh("undefine", "dev")
	untilState(t, w, "dev", "")
}

// untilUnplugged unplugs a device from a guest whose firmware never looks: a reset takes what is pending out. It must
// come after the request.
func (l *lab) untilUnplugged(name string, unplug func() error) {
	l.t.Helper()
	gone := make(chan error, 1)
	go func() { gone <- unplug() }()
	for {
		select {
		case err := <-gone:
			must(l.t, err)
			return
		case <-time.After(500 * time.Millisecond):
			l.virsh("reset", name)
		}
	}
}

// testMemory plugs the shared memory of a guest link: QEMU makes its file, the picture shows it, and the file stays.
func testMemory(t *testing.T, l *lab, w *Watcher) {
	l.define("mem", "")
	d := untilState(t, w, "mem", placement.DomainOff)
	path := filepath.Join(MemoryDir, MemoryPrefix+d.UUID)
	if err := w.PlugMemory(t.Context(), d.UUID, path, 16<<20); !errors.Is(err, ErrNotRunning) {
		t.Errorf("plug memory into what is off: %v", err)
	}
	if _, _, err := w.Owner(t.Context(), d.UUID); !errors.Is(err, ErrNotRunning) {
		t.Errorf("owner of what is off: %v", err)
	}
	l.virsh("start", "mem")
	untilState(t, w, "mem", placement.DomainRunning)
	if uid, gid, err := w.Owner(t.Context(), d.UUID); err != nil || uid != 0 || gid != 0 {
		t.Errorf("owner %d:%d, %v", uid, gid, err)
	}
	shm := func(size int64) func(map[string]placement.Domain) bool {
		return func(m map[string]placement.Domain) bool { return m["mem"].Shm == size }
	}
	for range 2 { // what comes a second time finds the file of the first
		must(t, w.PlugMemory(t.Context(), d.UUID, path, 16<<20))
		until(t, w, "the memory", shm(16<<20))
		if info, err := os.Stat(l.path(path)); err != nil || info.Size() != 16<<20 {
			t.Fatalf("its file: %v, %v", info, err)
		}
		if err := w.PlugMemory(t.Context(), d.UUID, path, 16<<20); err == nil {
			t.Error("plugged it twice")
		}
		must(t, w.UnplugMemory(t.Context(), d.UUID, path+"-another")) // it is not there
		l.untilUnplugged("mem", func() error { return w.UnplugMemory(t.Context(), d.UUID, path) })
		until(t, w, "no memory", shm(0))
	}
	if _, err := os.Stat(l.path(path)); err != nil {
		t.Errorf("its file is gone: %v", err)
	}
	l.virsh("destroy", "mem")
	l.virsh("undefine", "mem")

	l.define("full", "")
	xml := l.virsh("dumpxml", "full")
	file := l.path("full.xml")
	must(t, os.WriteFile(file, []byte(withoutBridge(t, xml)), 0o644))
	l.virsh("define", file)
	l.virsh("start", "full")
	d = untilState(t, w, "full", placement.DomainRunning)
	if err := w.PlugMemory(t.Context(), d.UUID, path, 1<<20); !errors.Is(err, ErrNoSlot) || !strings.Contains(err.Error(), "model='pcie-to-pci-bridge'") {
		t.Errorf("without a bridge: %v", err)
	}
	l.virsh("destroy", "full")
	l.virsh("undefine", "full")
	untilState(t, w, "full", "")
}

// withoutBridge takes the pcie-to-pci-bridge out of a domain's XML.
func withoutBridge(t *testing.T, text string) string {
	t.Helper()
	at := strings.Index(text, "model='pcie-to-pci-bridge'")
	begin := strings.LastIndex(text[:max(at, 0)], "<controller")
	end := strings.Index(text[max(at, 0):], "</controller>")
	if at < 0 || begin < 0 || end < 0 {
		t.Fatalf("no bridge in %s", text)
	}
	return text[:begin] + text[at+end+len("</controller>"):]
}

// testHungGuests stops a QEMU: who asks for it is let go, and all else goes on.
func testHungGuests(t *testing.T, l *lab, w *Watcher) {
	const device = `<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>`
	l.define("stuck", "")
	l.define("well", "")
	l.virsh("start", "stuck")
	l.virsh("start", "well")
	stuck, well := untilState(t, w, "stuck", placement.DomainRunning), untilState(t, w, "well", placement.DomainRunning)
	must(t, syscall.Kill(l.pid("stuck"), syscall.SIGSTOP))
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if err := w.Plug(ctx, stuck.UUID, device); !errors.Is(err, ErrTimeout) {
			t.Errorf("plug into what hangs: %v", err)
		}
		cancel()
	}
	must(t, w.Plug(t.Context(), well.UUID, device))
	must(t, w.SetMetadata(t.Context(), well.UUID, func(m Metadata) (Metadata, error) { m.Tags = []string{"well"}; return m, nil }))
	until(t, w, "the other's tag", func(m map[string]placement.Domain) bool {
		return len(m["well"].Tags) == 1 && m["stuck"].State == placement.DomainRunning
	})
	must(t, syscall.Kill(l.pid("stuck"), syscall.SIGCONT))
	l.virsh("suspend", "stuck")
	untilState(t, w, "stuck", placement.DomainPaused)
	for _, name := range []string{"stuck", "well"} {
		l.virsh("destroy", name)
		l.virsh("undefine", name)
		untilState(t, w, name, "")
	}
}

// testRestart kills libvirtd while one domain runs, dies, and is defined.
func testRestart(t *testing.T, l *lab, w *Watcher) {
	l.define("stays", "")
	l.define("dies", "")
	l.define("crashed", "")
	l.virsh("start", "crashed")
	untilState(t, w, "crashed", placement.DomainRunning)
	l.kill("crashed")
	untilState(t, w, "crashed", placement.DomainCrashed)
	for _, name := range []string{"stays", "dies"} {
		l.virsh("start", name)
		untilState(t, w, name, placement.DomainRunning)
	}
	before, _ := w.Domains()
	l.stop(syscall.SIGKILL)
	untilConnected(t, w, false)
	if now, known := w.Domains(); !known || !slices.EqualFunc(now, before, placement.Domain.Equal) {
		t.Errorf("without libvirtd: known %v, %+v", known, now)
	}
	err := w.Plug(t.Context(), before[0].UUID, "<disk/>")
	if !errors.Is(err, ErrDisconnected) {
		t.Errorf("plug without libvirtd: %v", err)
	}
	l.kill("dies")
	l.start()
	untilConnected(t, w, true)
	until(t, w, "dies to be over", func(m map[string]placement.Domain) bool { return !m["dies"].State.Active() })
	untilState(t, w, "stays", placement.DomainRunning)
	l.virsh("suspend", "stays") // events come again
	untilState(t, w, "stays", placement.DomainPaused)
	if list, _ := w.Domains(); byName(list)["crashed"].State != placement.DomainCrashed {
		t.Errorf("after libvirtd's restart a crashed domain is %s", byName(list)["crashed"].State)
	}
	l.virsh("start", "crashed")
	untilState(t, w, "crashed", placement.DomainRunning)
	l.virsh("destroy", "crashed")
	untilState(t, w, "crashed", placement.DomainOff)
	l.virsh("undefine", "crashed")
	l.virsh("destroy", "stays")
	l.virsh("undefine", "stays")
	l.virsh("undefine", "dies")
	untilState(t, w, "stays", "")
	untilState(t, w, "dies", "")
}

// testHang stops libvirtd without its connections breaking: callers are let go, and the watcher connects anew.
func testHang(t *testing.T, l *lab, w *Watcher) {
	l.define("hangs", "")
	d := untilState(t, w, "hangs", placement.DomainOff)
	must(t, l.cmd.Process.Signal(syscall.SIGSTOP))
	began := time.Now()
	noop := func(m Metadata) (Metadata, error) { return m, nil }
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := w.SetMetadata(ctx, d.UUID, noop); !errors.Is(err, ErrTimeout) || time.Since(began) > patience/2 {
		t.Errorf("while libvirtd hangs: %v after %v", err, time.Since(began))
	}
	_, stop := watch(t, Config{URI: l.uri()})
	<-time.After(100 * time.Millisecond) // it may connect meanwhile, and hangs in that
	ending := time.Now()
	if stop(); time.Since(ending) > 2*endPatience {
		t.Errorf("a watcher that hangs took %v to end", time.Since(ending))
	}
	untilConnected(t, w, false) // keepalive
	t.Logf("found to hang after %v", time.Since(began))
	if _, known := w.Domains(); !known {
		t.Error("the picture is lost")
	}
	must(t, l.cmd.Process.Signal(syscall.SIGCONT))
	untilConnected(t, w, true)
	must(t, w.SetMetadata(t.Context(), d.UUID, noop))
	l.virsh("undefine", "hangs")
	untilState(t, w, "hangs", "")
}

// TestMigration migrates a domain from one libvirtd to another.
func TestMigration(t *testing.T) {
	open(t, testURI)
	from, to := newLab(t, 2), newLab(t, 3)
	a, _ := watch(t, Config{URI: from.uri()})
	b, _ := watch(t, Config{URI: to.uri()})
	untilConnected(t, a, true)
	untilConnected(t, b, true)
	from.define("goes", "")
	from.virsh("start", "goes")
	untilState(t, a, "goes", placement.DomainRunning)
	seenFrom, seenTo := record(t, a, "goes"), record(t, b, "goes")
	from.virsh("migrate-setspeed", "goes", "1") // MiB a second: the firmware is some
	out := exec.Command("virsh", "-q", "-c", from.uri(), "migrate", "--live", "--p2p", "goes", "qemu+tcp://127.0.0.1:"+strconv.Itoa(to.port)+"/system", "tcp://127.0.0.1")
	done := make(chan error, 1)
	go func() {
		text, err := out.CombinedOutput()
		if err != nil {
			err = errors.New(err.Error() + ": " + string(text))
		}
		done <- err
	}()
	until(t, a, "it to go", func(m map[string]placement.Domain) bool { return m["goes"].Migration == placement.MigratingOut })
	until(t, b, "it to come", func(m map[string]placement.Domain) bool {
		return m["goes"].State == placement.DomainMigrating && m["goes"].Migration == placement.MigratingIn
	})
	must(t, <-done)
	until(t, b, "it to run", func(m map[string]placement.Domain) bool {
		return m["goes"].State == placement.DomainRunning && m["goes"].Migration == ""
	})
	d := untilState(t, a, "goes", placement.DomainOff)
	if d.Migration != "" {
		t.Errorf("it went, and migrates %q", d.Migration)
	}
	// Nobody may ever have seen it where it does not run, or nowhere at all.
	allow(t, "where it went from", seenFrom(), "running", "running out", "paused out", "migrating out", "off")
	allow(t, "where it went to", seenTo(), "", "migrating in", "running in", "running")

	// One that is given up stays.
	from.define("stays", "")
	from.virsh("start", "stays")
	untilState(t, a, "stays", placement.DomainRunning)
	from.virsh("migrate-setspeed", "stays", "1")
	out = exec.Command("virsh", "-q", "-c", from.uri(), "migrate", "--live", "--p2p", "stays", "qemu+tcp://127.0.0.1:"+strconv.Itoa(to.port)+"/system", "tcp://127.0.0.1")
	must(t, out.Start())
	until(t, a, "the other to go", func(m map[string]placement.Domain) bool { return m["stays"].Migration == placement.MigratingOut })
	from.virsh("domjobabort", "stays")
	_ = out.Wait()
	until(t, a, "it to stay", func(m map[string]placement.Domain) bool {
		return m["stays"].State == placement.DomainRunning && m["stays"].Migration == ""
	})
	untilState(t, b, "stays", "")
	to.virsh("destroy", "goes")
	from.virsh("destroy", "stays")
	untilState(t, b, "goes", "")
}

// record notes what a watcher shows of a domain until the function that it returns is called.
func record(t *testing.T, w *Watcher, name string) (seen func() []string) {
	stop, list := make(chan struct{}), make(chan []string)
	go func() {
		var seen []string
		for began := time.Now(); ; {
			changed := w.Changed()
			domains, _ := w.Domains()
			d := byName(domains)[name]
			if now := strings.TrimSpace(string(d.State) + " " + d.Migration); len(seen) == 0 || seen[len(seen)-1] != now {
				seen = append(seen, now)
				t.Logf("%v: %s is %q", time.Since(began).Round(time.Millisecond), name, now)
			}
			select {
			case <-changed:
			case <-stop:
				list <- seen
				return
			}
		}
	}()
	return func() []string { close(stop); return <-list }
}

func allow(t *testing.T, where string, seen []string, allowed ...string) {
	t.Helper()
	for _, s := range seen {
		if !slices.Contains(allowed, s) {
			t.Errorf("%s it was seen %q: %q", where, s, seen)
		}
	}
}
