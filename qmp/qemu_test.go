package qmp

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// qemu is a real QEMU, stopped at its first instruction, with a monitor to watch and another for the test.
type qemu struct {
	*testing.T
	cmd     *exec.Cmd
	monitor string
	control *session
	exited  chan struct{}
}

func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("no %s on this machine (apt-get install qemu-system-x86 qemu-utils)", p)
		}
	}
}

// start starts QEMU with the socket to watch at a path.
func start(t *testing.T, monitor string, args ...string) *qemu {
	t.Helper()
	return launch(t, monitor, append(args, "-qmp", "unix:"+monitor+",server=on,wait=off")...)
}

func launch(t *testing.T, monitor string, args ...string) *qemu {
	t.Helper()
	need(t, "qemu-system-x86_64")
	q := &qemu{T: t, monitor: monitor, exited: make(chan struct{})}
	control := filepath.Join(t.TempDir(), "control")
	var says strings.Builder
	q.cmd = exec.Command("qemu-system-x86_64", append([]string{"-machine", "q35,accel=tcg", "-display", "none", "-nodefaults", "-S", "-m", "96",
		"-qmp", "unix:" + control + ",server=on,wait=off"}, args...)...)
	q.cmd.Stderr = &says
	if err := q.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(q.exited)
		q.cmd.Wait()
		if says.Len() > 0 {
			t.Logf("QEMU says: %s", says.String())
		}
	}()
	t.Cleanup(q.kill)
	for timeout := time.Now().Add(patience); q.control == nil; {
		select {
		case <-q.exited:
			t.Fatal("QEMU exits")
		default:
		}
		s, err := open(context.Background(), control, &usual, func() {})
		switch {
		case err == nil:
			q.control = s
			t.Cleanup(s.close)
		case time.Now().After(timeout):
			t.Fatalf("QEMU does not answer: %v", err)
		default:
			time.Sleep(5 * time.Millisecond) // there is nothing else to wait for
		}
	}
	return q
}

func (q *qemu) kill() {
	q.cmd.Process.Kill()
	<-q.exited
}

func (q *qemu) do(name string, args any) {
	q.Helper()
	if err := q.control.do(q.Context(), name, args, nil); err != nil {
		q.Fatal(err)
	}
}

// has tells whether QEMU has a device, and how many backends of it.
func (q *qemu) has(id string) (device bool, backends int) {
	q.Helper()
	for _, parent := range []string{peripheral, objects} {
		names, err := q.control.list(q.Context(), parent, func(string) bool { return true })
		if err != nil {
			q.Fatal(err)
		}
		for _, name := range names {
			switch {
			case parent == peripheral:
				device = device || name == id
			case isBackend(name, id):
				backends++
			}
		}
	}
	return device, backends
}

// want checks that QEMU has a device with its backend, or neither.
func (q *qemu) want(id string, there bool, when string) {
	q.Helper()
	n := 0
	if there {
		n = 1
	}
	if device, backends := q.has(id); device != there || backends != n {
		q.Errorf("%s: device there is %v, and %d backends", when, device, backends)
	}
}

func makeImage(t *testing.T, args ...string) {
	t.Helper()
	need(t, "qemu-img")
	if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img %q: %v: %s", args, err, out)
	}
}

func status(s string) func([]Guest) bool {
	return func(g []Guest) bool { return len(g) == 1 && g[0].Status == s }
}

// TestQEMU follows a QEMU from its start to its death.
func TestQEMU(t *testing.T) {
	dir, images := t.TempDir(), t.TempDir()
	base, mid, top, plain := filepath.Join(images, "base.raw"), filepath.Join(images, "mid.qcow2"), filepath.Join(images, "top.qcow2"), filepath.Join(images, "plain.raw")
	makeImage(t, "create", "-q", "-f", "raw", base, "1M")
	makeImage(t, "create", "-q", "-f", "raw", plain, "1M")
	makeImage(t, "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", mid)
	makeImage(t, "create", "-q", "-f", "qcow2", "-b", "mid.qcow2", "-F", "qcow2", top)
	w, log := watch(t, quick(), Config{Paths: []string{dir}})

	monitor := filepath.Join(dir, "web.qmp")
	q := start(t, monitor, "-uuid", someUUID, "-name", "web", "-smp", "2",
		"-drive", "file="+plain+",format=raw,if=virtio",
		"-blockdev", "driver=qcow2,node-name=n0,file.driver=file,file.filename="+top, "-device", "virtio-blk-pci,drive=n0,id=disk0",
		"-device", "ide-cd,id=cd0")
	got := await(t, w, "one guest", count(1))[0]
	want := Guest{Socket: monitor, UUID: someUUID, Name: "web", Status: "prelaunch", VCPUs: 2, Memory: 96 << 20,
		Disks: []Disk{{"virtio0", []string{plain}}, {"disk0", []string{top, mid, base}}}}
	if !got.Equal(want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	q.do("cont", nil)
	await(t, w, "a running guest", status("running"))
	q.do("stop", nil)
	await(t, w, "a paused guest", status("paused"))

	// A snapshot comes with no event: it is seen now and then.
	snap := filepath.Join(images, "snap.qcow2")
	q.do("blockdev-snapshot-sync", map[string]string{"node-name": "n0", "snapshot-file": snap, "snapshot-node-name": "n1"})
	await(t, w, "a longer chain", func(g []Guest) bool {
		return len(g) == 1 && len(g[0].Disks) == 2 && reflect.DeepEqual(g[0].Disks[1].Chain, []string{snap, top, mid, base})
	})
	// A commit ends with one, after which the chain is short.
	q.do("block-commit", map[string]string{"device": "n1", "job-id": "j", "top-node": "n0"})
	await(t, w, "a shorter chain", func(g []Guest) bool {
		return len(g) == 1 && len(g[0].Disks) == 2 && reflect.DeepEqual(g[0].Disks[1].Chain, []string{snap, base})
	})

	q.kill()
	await(t, w, "no guest", count(0))
	log.await(t, "guest gone")

	// Its socket stays; another one takes its place, and leaves by itself.
	q = launch(t, monitor, "-qmp-pretty", "unix:"+monitor+",server=on,wait=off")
	got = await(t, w, "one guest", count(1))[0]
	if got.UUID != nameUUID("unix://"+monitor) || got.Name != "web" || got.Memory != 96<<20 || got.VCPUs != 1 || got.Disks != nil {
		t.Errorf("got %+v", got)
	}
	q.do("quit", nil)
	await(t, w, "no guest", count(0))
}

// TestQEMUInLine: QEMU serves one client at a time, and we are the next.
func TestQEMUInLine(t *testing.T) {
	q := start(t, filepath.Join(t.TempDir(), "a.qmp"))
	first, err := open(t.Context(), q.monitor, &usual, func() {})
	if err != nil {
		t.Fatal(err)
	}
	limits := quick()
	limits.refresh = time.Hour
	w, log := watch(t, limits, Config{Paths: []string{q.monitor}})
	log.await(t, "WARN", "another client")
	if len(w.Guests()) != 0 {
		t.Error("seen while another client has the monitor")
	}
	first.close()
	await(t, w, "one guest", count(1))
	q.do("cont", nil) // seen by its event alone
	await(t, w, "a running guest", status("running"))
	if found, _ := log.lines("WARN"); len(found) != 1 {
		t.Errorf("warnings: %q", found)
	}
}

// TestQEMUMigrates: a guest that moves between two processes of this host is one guest all the time.
func TestQEMUMigrates(t *testing.T) {
	dir := t.TempDir()
	to := start(t, filepath.Join(dir, "1.qmp"), "-uuid", someUUID, "-incoming", "defer")
	w, _ := watch(t, quick(), Config{Paths: []string{dir}})
	await(t, w, "one that waits", status("inmigrate"))
	from := start(t, filepath.Join(dir, "2.qmp"), "-uuid", someUUID)
	await(t, w, "the other", status("prelaunch"))
	from.do("cont", nil)
	await(t, w, "one that runs", func(g []Guest) bool { return status("running")(g) && g[0].Socket == from.monitor })
	uri := "unix:" + filepath.Join(t.TempDir(), "m")
	to.do("migrate-incoming", map[string]string{"uri": uri})
	from.do("migrate", map[string]string{"uri": uri})
	await(t, w, "one that moved", func(g []Guest) bool { return len(g) == 1 && g[0].Socket == to.monitor && g[0].Status != "inmigrate" })
	from.kill()
	if !status(w.Guests()[0].Status)(w.Guests()) {
		t.Error("gone with where it came from")
	}
}

func ivshmem(t *testing.T, id, bus string) Device {
	t.Helper()
	file := filepath.Join(t.TempDir(), "shm")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	return Device{Driver: "ivshmem-plain", ID: id, Bus: bus, Properties: map[string]any{"master": true}, Backend: &Backend{
		Type: "memory-backend-file", Link: "memdev",
		Properties: map[string]any{"mem-path": file, "size": 1 << 20, "share": true},
	}}
}

// TestPlug: a device with its backend comes, is refused where it must be, goes, and comes again at once.
func TestPlug(t *testing.T) {
	for _, way := range []string{"ACPI", "PCI Express"} {
		t.Run(way, func(t *testing.T) {
			args := []string{"-device", "pcie-root-port,id=port0,chassis=1"}
			if way == "PCI Express" {
				args = append(args, "-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off")
			}
			q := start(t, filepath.Join(t.TempDir(), "a.qmp"), append(args, "-uuid", someUUID)...)
			w, _ := watch(t, quick(), Config{Paths: []string{q.monitor}})
			await(t, w, "one guest", count(1))
			d := ivshmem(t, "shm0", "port0")
			for range 5 {
				if err := w.Plug(t.Context(), someUUID, d); err != nil {
					t.Fatal(err)
				}
				q.want("shm0", true, "plugged")
				if err := w.Plug(t.Context(), someUUID, d); !errors.Is(err, ErrRefused) {
					t.Errorf("plugged twice: %v", err)
				}
				q.want("shm0", true, "plugged twice")
				if way == "ACPI" {
					q.do("stop", nil) // a firmware that runs resets the machine now and then
					q.unplugByReset(w)
				} else if err := w.Unplug(t.Context(), someUUID, "shm0"); err != nil {
					t.Fatal(err)
				}
				q.want("shm0", false, "unplugged")
			}
		})
	}
}

// unplugByReset: a stopped guest keeps its device until it is reset. Then it runs, as the worst time to plug again.
func (q *qemu) unplugByReset(w *Watcher) {
	q.Helper()
	ctx, cancel := context.WithTimeout(q.Context(), 300*time.Millisecond)
	defer cancel()
	if err := w.Unplug(ctx, someUUID, "shm0"); !errors.Is(err, ErrKept) || !errors.Is(err, context.DeadlineExceeded) {
		q.Fatalf("unplugged from a stopped guest: %v", err)
	}
	q.want("shm0", true, "kept")
	done := make(chan error, 1)
	go func() { done <- w.Unplug(q.Context(), someUUID, "shm0") }()
	q.do("system_reset", nil)
	q.do("cont", nil)
	if err := <-done; err != nil {
		q.Fatal(err)
	}
}

// TestPlugLeavesNothing: what QEMU refuses leaves no backend, one left behind is no hindrance, and what is not there
// can be unplugged.
func TestPlugLeavesNothing(t *testing.T) {
	q := start(t, filepath.Join(t.TempDir(), "a.qmp"), "-uuid", someUUID, "-device", "pcie-root-port,id=port0,chassis=1")
	w, _ := watch(t, quick(), Config{Paths: []string{q.monitor}})
	await(t, w, "one guest", count(1))
	d := ivshmem(t, "shm0", "port0")
	for what, change := range map[string]func(*Device){
		"driver":   func(d *Device) { d.Driver = "no-such" },
		"bus":      func(d *Device) { d.Bus = "no-such" },
		"pcie.0":   func(d *Device) { d.Bus = "pcie.0" },
		"property": func(d *Device) { d.Properties = map[string]any{"no-such": 1} },
		"backend":  func(d *Device) { d.Backend = &Backend{Type: "no-such", Link: "memdev"} },
	} {
		bad := d
		change(&bad)
		err := w.Plug(t.Context(), someUUID, bad)
		if !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", what, err)
		}
		q.want("shm0", false, what)
	}
	if err := w.Unplug(t.Context(), someUUID, "shm0"); err != nil {
		t.Errorf("unplug what is not there: %v", err)
	}
	q.do("object-add", map[string]any{"qom-type": "memory-backend-ram", "id": newBackend("shm0"), "size": 4096})
	if err := w.Plug(t.Context(), someUUID, d); err != nil {
		t.Error(err)
	}
	q.want("shm0", true, "plugged with a backend left over")
	if err := w.Unplug(t.Context(), someUUID, "port0"); !errors.Is(err, ErrRefused) {
		t.Errorf("unplug what cannot be unplugged: %v", err)
	}
	if err := w.Plug(t.Context(), noUUID, d); !errors.Is(err, ErrNoGuest) {
		t.Error(err)
	}
	// The guest dies while somebody waits for it.
	done := make(chan error, 1)
	go func() { done <- w.Unplug(t.Context(), someUUID, "shm0") }()
	q.kill()
	if err := <-done; !errors.Is(err, ErrEnded) && !errors.Is(err, ErrNoGuest) {
		t.Error(err)
	}
}

// TestBadDevice: what is no device is refused before QEMU is asked.
func TestBadDevice(t *testing.T) {
	for _, d := range []Device{
		{},
		{ID: "x"},
		{Driver: "x"},
		{Driver: "x", ID: "0x"},
		{Driver: "x", ID: "a/b"},
		{Driver: "x", ID: strings.Repeat("x", 65)},
		{Driver: "x", ID: "x", Properties: map[string]any{"bus": "y"}},
		{Driver: "x", ID: "x", Properties: map[string]any{"id": "y"}},
		{Driver: "x", ID: "x", Backend: &Backend{Type: "y"}},
		{Driver: "x", ID: "x", Backend: &Backend{Type: "y", Link: "id"}},
		{Driver: "x", ID: "x", Backend: &Backend{Type: "y", Link: "memdev", Properties: map[string]any{"qom-type": "z"}}},
		{Driver: "x", ID: "x", Backend: &Backend{Type: "y", Link: "memdev"}, Properties: map[string]any{"memdev": "z"}},
	} {
		if err := New(Config{}).Plug(t.Context(), someUUID, d); !errors.Is(err, ErrBadDevice) {
			t.Errorf("%+v: %v", d, err)
		}
	}
	if err := New(Config{}).Unplug(t.Context(), someUUID, "a b"); !errors.Is(err, ErrBadDevice) {
		t.Error(err)
	}
}
