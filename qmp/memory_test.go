package qmp

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestPlugMemory: a real QEMU gets memory where it has room, the picture shows it, and its file stays when it is gone.
func TestPlugMemory(t *testing.T) {
	for machine, args := range map[string][]string{
		"bridge": {"-device", "pcie-root-port,id=port0,chassis=1", "-device", "pcie-pci-bridge,id=pci0,bus=port0"},
		"port": {"-device", "pcie-root-port,id=port0,chassis=1", "-device", "virtio-rng-pci,bus=port0",
			"-device", "pcie-root-port,id=port1,chassis=2"},
		"pc": {"-machine", "pc"},
	} {
		t.Run(machine, func(t *testing.T) {
			q := start(t, filepath.Join(t.TempDir(), "a.qmp"), append(args, "-uuid", someUUID)...)
			w, _ := watch(t, quick(), Config{Paths: []string{q.monitor}})
			await(t, w, "one guest", count(1))
			uid, gid, err := w.Owner(t.Context(), someUUID)
			if err != nil || uid != os.Getuid() || gid != os.Getgid() {
				t.Errorf("owner %d:%d, %v", uid, gid, err)
			}
			path := filepath.Join(t.TempDir(), "shm")
			shm := func(size int64) func([]Guest) bool {
				return func(g []Guest) bool { return len(g) == 1 && g[0].Shm == size }
			}
			for range 2 { // what comes a second time finds the file of the first
				if err := w.PlugMemory(t.Context(), someUUID, path, 1<<20); err != nil {
					t.Fatal(err)
				}
				await(t, w, "the memory", shm(1<<20))
				q.want(memoryID, true, "plugged")
				if info, err := os.Stat(path); err != nil || info.Size() != 1<<20 {
					t.Fatalf("its file: %v, %v", info, err)
				}
				if err := w.PlugMemory(t.Context(), someUUID, path, 1<<20); !errors.Is(err, ErrRefused) {
					t.Errorf("plugged twice: %v", err)
				}
				done := make(chan error, 1)
				go func() { done <- w.UnplugMemory(t.Context(), someUUID, path) }()
				q.resetUntil(done)
				await(t, w, "no memory", shm(0))
				q.want(memoryID, false, "unplugged")
			}
			if err := w.UnplugMemory(t.Context(), someUUID, path); err != nil {
				t.Errorf("unplug what is not there: %v", err)
			}
			if err := w.PlugMemory(t.Context(), someUUID, path, 2<<20); !errors.Is(err, ErrRefused) {
				t.Errorf("plugged a file that is too small: %v", err)
			}
			q.want(memoryID, false, "refused")
		})
	}
}

// TestPlugMemoryWithoutRoom: who has no room for it is told how to make some, and keeps nothing.
func TestPlugMemoryWithoutRoom(t *testing.T) {
	for machine, args := range map[string][]string{
		"bare":   nil,
		"full":   {"-device", "pcie-root-port,id=port0,chassis=1", "-device", "virtio-rng-pci,bus=port0"},
		"no ids": {"-device", "pcie-root-port,chassis=1"},
	} {
		t.Run(machine, func(t *testing.T) {
			q := start(t, filepath.Join(t.TempDir(), "a.qmp"), append(args, "-uuid", someUUID)...)
			w, _ := watch(t, quick(), Config{Paths: []string{q.monitor}})
			await(t, w, "one guest", count(1))
			err := w.PlugMemory(t.Context(), someUUID, filepath.Join(t.TempDir(), "shm"), 1<<20)
			if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "pcie-pci-bridge") {
				t.Error(err)
			}
			q.want(memoryID, false, "refused")
		})
	}
}

// resetUntil resets a stopped guest, which is when it lets go of a device, until something is done.
func (q *qemu) resetUntil(done <-chan error) {
	q.Helper()
	for {
		select {
		case err := <-done:
			if err != nil {
				q.Fatal(err)
			}
			return
		case <-time.After(200 * time.Millisecond):
			q.do("system_reset", nil)
		}
	}
}

// TestBadMemory: what QEMU would abort at is refused before it is asked.
func TestBadMemory(t *testing.T) {
	w := New(Config{})
	for size, path := range map[int64]string{0: "/a", -1: "/a", 3 << 20: "/a", 1 << 11: "/a", 1 << 31: "/a", 1 << 20: "a"} {
		if err := w.PlugMemory(t.Context(), someUUID, path, size); !errors.Is(err, ErrBadDevice) {
			t.Errorf("%d at %q: %v", size, path, err)
		}
	}
	if err := w.PlugMemory(t.Context(), someUUID, "/a", 1<<20); !errors.Is(err, ErrNoGuest) {
		t.Error(err)
	}
	if _, _, err := w.Owner(t.Context(), someUUID); !errors.Is(err, ErrNoGuest) {
		t.Error(err)
	}
}

// TestOwnerOfEnded: a guest whose connection is gone has no owner.
func TestOwnerOfEnded(t *testing.T) {
	q := start(t, filepath.Join(t.TempDir(), "a.qmp"), "-uuid", someUUID)
	s, err := open(t.Context(), q.monitor, &usual, func() {})
	if err != nil {
		t.Fatal(err)
	}
	s.close()
	if _, _, err := s.peer(); !errors.Is(err, ErrEnded) {
		t.Error(err)
	}
}
