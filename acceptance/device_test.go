package acceptance

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// loop makes a block device of a file of this lab.
func (l *lab) loop(name string, size int64) (device, file string) {
	l.t.Helper()
	if os.Getuid() != 0 {
		l.t.Skip("a block device needs root")
	}
	file = l.random(name, 0, 0)
	l.check(os.Truncate(file, size))
	out, err := exec.Command("losetup", "-f", "-P", "--show", file).CombinedOutput()
	if err != nil {
		l.t.Skipf("no loop device: %v: %s", err, out)
	}
	device = strings.TrimSpace(string(out))
	l.t.Cleanup(func() {
		if out, err := exec.Command("losetup", "-d", device).CombinedOutput(); err != nil {
			l.t.Errorf("%v: %s", err, out)
		}
	})
	return device, file
}

// sh runs a line of shell.
func (l *lab) sh(script string, args ...string) string {
	l.t.Helper()
	out, err := exec.Command("sh", append([]string{"-euc", script, "sh"}, args...)...).CombinedOutput()
	if err != nil {
		l.t.Fatalf("%s: %v: %s", script, err, out)
	}
	return string(out)
}

// partition gives a disk two parts of 16 MiB.
func (l *lab) partition(device string) {
	l.t.Helper()
	table := make([]byte, 1<<20)
	for i, first := range []uint32{2048, 2048 + 16<<11} { // sectors of 512 bytes
		entry := table[446+16*i:]
		entry[4] = 0x83 // Linux
		binary.LittleEndian.PutUint32(entry[8:], first)
		binary.LittleEndian.PutUint32(entry[12:], 16<<11)
	}
	table[510], table[511] = 0x55, 0xaa
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	l.check(err)
	_, err = f.WriteAt(table, 0)
	l.check(err)
	l.check(f.Close())
	l.sh(`partx -u "$1"`, device)
}

// An image moves from a file to a block device and from there into the cluster again, and no device that is in use is
// read or written.
func TestBlockDevices(t *testing.T) {
	l := newLab(t, 2, "")
	const size = 64 << 20
	device, backing := l.loop("disk", size)
	small, _ := l.loop("small", 4<<20)
	link := filepath.Join(l.dir, "vg-lv") // as LVM names its volumes
	l.check(os.Symlink(device, link))
	h1, h2 := l.hosts[0], l.hosts[1]

	// An image with a hole, which ends off any block, onto a device that was used before.
	image := l.random("image", 3<<20+5, 90)
	l.check(os.Truncate(image, 20<<20))
	l.sh(`head -c 1000 /dev/urandom >>"$1"; dd if=/dev/urandom of="$2" bs=1M count=64 status=none; sync`, image, device)
	h1.must("publish", image, "image", "--replicas", "1")
	for args, code := range map[string]int{"": 16, small: 17} {
		dest, flags := link, []string{}
		if args != "" {
			dest, flags = args, []string{"--overwrite"}
		}
		if r := h2.run(append([]string{"pull", "image", dest}, flags...)...); r.code != code || strings.Contains(r.stderr, "remove it first") {
			t.Errorf("pull to %s %v: exit code %d, want %d: %s", dest, flags, r.code, code, r.stderr)
		}
	}
	if n := h2.metric(receivedBytes); n > 0 {
		t.Errorf("%v bytes were fetched for a device that is too small", n)
	}
	h2.must("pull", "image", link, "--overwrite")
	l.sh(`n=$(stat -c %s "$1"); cmp -n "$n" "$1" "$2"; test "$(tail -c +$((n + 1)) "$2" | tr -d "\0" | wc -c)" = 0`, image, device)
	if n := l.allocated(backing); n > 4<<20 {
		t.Errorf("%d bytes are left on the disk below the device: holes and what is behind the end were not given back", n)
	}

	// From there into the cluster.
	h2.must("publish", link, "volume", "--replicas", "1")
	out := l.out("volume")
	h1.must("pull", "volume", out)
	l.same(device, out)

	// Whoever writes to it, or has it for himself, keeps it from being read; who has it open in any way, from being
	// written.
	inUse := func(what string, code int, args ...string) {
		t.Helper()
		if r := h1.run(args...); r.code != code || code != 0 && !strings.Contains(r.stderr, "somebody uses it: ") {
			t.Errorf("while %s, %v: exit code %d, want %d: %s", what, args, r.code, code, r.stderr)
		}
	}
	publish, pull := []string{"publish", device, "again", "--replicas", "1"}, []string{"pull", "image", device, "--overwrite"}
	before := l.sum(device)
	for flag, code := range map[int]int{os.O_RDONLY: 0, os.O_RDWR: 42} {
		f, err := os.OpenFile(device, flag, 0)
		l.check(err)
		inUse("it is open", code, publish...)
		inUse("it is open", 42, pull...)
		inUse("it is open", 0, append(publish, "--force")...)
		l.check(f.Close())
	}
	if l.sum(device) != before {
		t.Error("a device that is in use was written to")
	}
	mounted := filepath.Join(l.dir, "mounted")
	l.check(os.Mkdir(mounted, 0o700))
	l.sh(`mkfs.ext4 -q -F "$1"; mount "$1" "$2"`, device, mounted)
	inUse("it is mounted", 42, publish...)
	inUse("it is mounted", 42, pull...)
	l.sh(`umount "$1"`, mounted)
	inUse("it was unmounted", 0, publish...)

	// A part of a disk that is written to is written to with it.
	l.partition(device)
	if _, err := os.Stat(device + "p2"); err != nil {
		t.Skipf("the kernel shows no partitions of a loop device: %v", err)
	}
	f, err := os.OpenFile(device+"p1", os.O_RDWR, 0)
	l.check(err)
	inUse("its part is open", 42, publish...)
	inUse("its neighbour is open", 0, "publish", device+"p2", "part", "--replicas", "1")
	l.check(f.Close())
	f, err = os.OpenFile(device, os.O_RDWR, 0)
	l.check(err)
	inUse("the disk is open", 42, "publish", device+"p2", "part", "--replicas", "1")
	l.check(f.Close())
}
