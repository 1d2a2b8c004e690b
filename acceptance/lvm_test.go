package acceptance

import (
	"os/exec"
	"strings"
	"testing"
)

// TestLogicalVolumes keeps images in LVM's volumes, as operators do, in a machine with Debian's kernel and LVM: a file
// goes onto a volume and back, a volume that a program writes to and a disk that belongs to a volume group are refused,
// and a snapshot of a volume that is in use is not.
func TestLogicalVolumes(t *testing.T) {
	t.Parallel()
	lvm, err := exec.LookPath("lvm")
	if err != nil {
		t.Skipf("%v (Debian: lvm2)", err)
	}
	n := newNested(t)
	n.Modules = []string{"loop", "dm-mod", "dm-snapshot"}
	n.Add("/bin/virtswarmd", n.program("../cmd/virtswarmd"))
	n.Add("/bin/virtswarm", n.program("../cmd/virtswarm"))
	n.Add("/sbin/lvm", lvm)
	n.AddText("/etc/lvm/lvm.conf", "activation { udev_sync = 0 udev_rules = 0 }\ndevices { use_devicesfile = 0 }\n")
	n.AddText("/etc/virtswarm.yaml", noLibvirt)
	out := n.run(`set -e
export VIRTSWARM_SOCKET=/run/virtswarm.sock
virtswarmd --config /etc/virtswarm.yaml --name l1 --listen 127.0.0.1:7117 --data /var/lib/virtswarm --socket $VIRTSWARM_SOCKET 2>log || cat log &
virtswarm status --wait 2m >/dev/null
refused() { local code=0; "$@" || code=$?; test $code = 42; }
same() { test "$(head -c $(stat -c %s $1) $2 | sha256sum)" = "$(sha256sum <$1)"; }

truncate -s 96M disk
losetup /dev/loop0 disk
lvm pvcreate -q /dev/loop0
lvm vgcreate -q vg /dev/loop0
lvm lvcreate -q -y -Wn -Zn -n lv -L 32M vg
dd if=/dev/urandom of=/dev/vg/lv bs=1M count=32 2>/dev/null

head -c 10000001 /dev/urandom >image
virtswarm publish image image
virtswarm pull image /dev/vg/lv --overwrite
same image /dev/vg/lv
test $(tail -c +10000002 /dev/vg/lv | tr -d '\0' | wc -c) = 0
echo "lvm: onto a volume"

virtswarm publish /dev/vg/lv volume
virtswarm pull volume back
cmp back /dev/vg/lv
echo "lvm: and back"

refused virtswarm publish /dev/loop0 disk
refused virtswarm pull image /dev/loop0 --overwrite
exec 9<>/dev/vg/lv
refused virtswarm publish /dev/vg/lv again
refused virtswarm pull image /dev/vg/lv --overwrite
echo "lvm: what is in use is refused"

lvm lvcreate -q -y -s -n snap -L 16M vg/lv
echo changed >&9
virtswarm publish /dev/vg/snap snapshot
virtswarm pull snapshot snapshot
same back snapshot
exec 9>&-
echo "lvm: a snapshot is not"
lvm lvremove -q -y vg/lv
lvm vgremove -q vg`)
	for _, done := range []string{"onto a volume", "and back", "what is in use is refused", "a snapshot is not"} {
		if !strings.Contains(out, "\nlvm: "+done) {
			t.Errorf("not done: %s\n%s", done, out)
		}
	}
}
