package virt

import (
	"errors"
	"fmt"
	"os/user"
	"strconv"
	"strings"
	"testing"

	"github.com/virtswarm/virtswarm/placement"
)

func running(more string) []byte {
	return []byte("<domain id='3'><name>a</name><uuid>" + someUUID + "</uuid>" + more + "</domain>")
}

// TestParseMemory: only what QEMU backs with the file of this very domain's guest link is its memory.
func TestParseMemory(t *testing.T) {
	const name = MemoryPrefix + someUUID
	shmem := func(name, model, size string) string {
		return fmt.Sprintf("<shmem name='%s' role='master'><model type='%s'/>%s<alias name='x'/></shmem>", name, model, size)
	}
	for what, tt := range map[string]struct {
		devices string
		want    int64
	}{
		"as libvirt writes it": {shmem(name, "ivshmem-plain", "<size unit='M'>16</size>"), 16 << 20},
		"bytes":                {shmem(name, "ivshmem-plain", "<size unit='B'>1048576</size>"), 1 << 20},
		"no unit":              {shmem(name, "ivshmem-plain", "<size>1048576</size>"), 1 << 20},
		"no size":              {shmem(name, "ivshmem-plain", ""), 0},
		"no power of two":      {shmem(name, "ivshmem-plain", "<size unit='M'>3</size>"), 0},
		"behind a server":      {shmem(name, "ivshmem-doorbell", "<size unit='M'>16</size>"), 0},
		"another's":            {shmem(MemoryPrefix+"another", "ivshmem-plain", "<size unit='M'>16</size>"), 0},
		"after others":         {shmem("x", "ivshmem-plain", "<size unit='M'>1</size>") + shmem(name, "ivshmem-plain", "<size unit='M'>16</size>"), 16 << 20},
		"after too many":       {strings.Repeat(shmem("x", "ivshmem-plain", ""), maxMemories) + shmem(name, "ivshmem-plain", "<size unit='M'>16</size>"), 0},
	} {
		d, err := ParseDomain(running("<devices>" + tt.devices + "</devices>"))
		if err != nil || d.Shm != tt.want || len(d.Faults) > 0 {
			t.Errorf("%s: %d bytes, %v, %v", what, d.Shm, err, d.Faults)
		}
	}
}

func TestValidateMemory(t *testing.T) {
	for size, ok := range map[int64]bool{
		-1: false, 0: false, 4096: false, 1 << 20: true, 3 << 20: false, 16 << 20: true, 16<<20 + 4096: false, placement.MaxShm: true, 2 * placement.MaxShm: false,
	} {
		if err := ValidateMemory(size); (err == nil) != ok || err != nil && !errors.Is(err, ErrBadMemory) {
			t.Errorf("%d: %v", size, err)
		}
	}
}

// TestPlugMemoryRefuses: what is no memory is refused before libvirt is asked.
func TestPlugMemoryRefuses(t *testing.T) {
	w, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"", "a", "/a", "/dev/shm", "/dev/shm/", "/dev/shm/..", "/dev/shm/a/b", "/dev/shm/../a", "/tmp/a"} {
		if err := w.PlugMemory(t.Context(), someUUID, path, 1<<20); !errors.Is(err, ErrBadMemory) {
			t.Errorf("plug %q: %v", path, err)
		}
		if err := w.UnplugMemory(t.Context(), someUUID, path); !errors.Is(err, ErrBadMemory) {
			t.Errorf("unplug %q: %v", path, err)
		}
	}
	if err := w.PlugMemory(t.Context(), someUUID, "/dev/shm/a", 3<<20); !errors.Is(err, ErrBadMemory) {
		t.Error(err)
	}
	if err := w.PlugMemory(t.Context(), someUUID, "/dev/shm/a", 1<<20); !errors.Is(err, ErrDisconnected) {
		t.Error(err)
	}
}

func TestParseOwner(t *testing.T) {
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	group, err := user.LookupGroupId(me.Gid)
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(me.Uid)
	gid, _ := strconv.Atoi(me.Gid)
	for label, want := range map[string][2]int{
		"+64055:+107": {64055, 107}, "+0:+0": {}, me.Username + ":" + group.Name: {uid, gid}, "4123456:+5": {4123456, 5},
	} {
		if u, g, err := parseOwner(label); err != nil || u != want[0] || g != want[1] {
			t.Errorf("%s: %d:%d, %v", label, u, g, err)
		}
	}
	for _, label := range []string{"", "+1", ":", "+:+", "+x:+1", "+-1:+1", "no such user:+1", "+1:no such group", "+4294967296:+1"} {
		if u, g, err := parseOwner(label); err == nil {
			t.Errorf("%q: %d:%d", label, u, g)
		}
	}
}
