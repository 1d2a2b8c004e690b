package acceptance

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// These tests have real guests, without a network card, move files through shared memory.

// ours is the metadata of a domain.
func ours(elements string) string {
	return "<virtswarm:domain xmlns:virtswarm='urn:virtswarm:domain:1'>" + elements + "</virtswarm:domain>"
}

// pulled is what the agent says of a pull.
type pulled struct {
	Size    int64 `json:"size"`
	Data    int64 `json:"data"`
	Resumed int64 `json:"resumed"`
	Fetched int64 `json:"fetched"`
	Links   int   `json:"links"`
}

// awaitSent waits until a host has sent so many more bytes of files to guests.
func (v *hypervisor) awaitSent(more float64) {
	v.lab.t.Helper()
	const metric = "virtswarm_guest_sent_bytes_total"
	before := v.metric(metric)
	v.lab.await(fmt.Sprintf("%s sends to guests", v.name), func() bool { return v.metric(metric) > before+more })
}

func (m *vm) said(text string, v any) {
	m.t.Helper()
	if err := json.Unmarshal([]byte(text), v); err != nil {
		m.t.Fatalf("%s says %q: %v", m.name, text, err)
	}
}

// TestGuestToGuests is VirtTorrent's case: what one guest has, guests on other hosts get, and none has a network card.
func TestGuestToGuests(t *testing.T) {
	t.Parallel()
	_, v := newHypervisors(t, 3, "")
	a := newVM(v[0], "a", 900, ours("<virtswarm:push quota='1GiB' prefix='builds' guests='tag:web'/><virtswarm:shm size='1MiB'/>"))
	b := newVM(v[1], "b", 700, ours("<virtswarm:tag>web</virtswarm:tag>"))
	c := newVM(v[2], "c", 700, ours("<virtswarm:tag>web</virtswarm:tag>"))
	b.attach()
	c.attach()

	// The memory that a asks for in its metadata is there by itself.
	if out := a.run("virtswarm-agent status"); !strings.Contains(out, a.uuid) || !strings.Contains(out, "builds/…, 1.0 GiB") || !strings.Contains(out, "shm:///sys/") {
		t.Fatalf("status of a: %s", out)
	}
	sum := strings.Fields(a.run("cd /tmp && dd if=/dev/urandom of=big bs=1M count=256 2>/dev/null && sha256sum big"))[0]
	t.Log("a pushes: ", a.run("time virtswarm-agent push /tmp/big app.img 2>/dev/null"))
	b.begin("time virtswarm-agent pull builds/app.img /tmp/got 2>/tmp/err && sha256sum /tmp/got")
	c.begin("time virtswarm-agent pull builds/app.img /tmp/got 2>/tmp/err && sha256sum /tmp/got")
	for _, m := range []*vm{b, c} {
		out, code := m.end()
		if code != 0 || !strings.Contains(out, sum) {
			t.Errorf("%s pulls, want SHA-256 %s: exit code %d\n%s", m.name, sum, code, out)
		}
		t.Logf("%s pulls: %s", m.name, out)
	}
	// a has published it, and may not read it: the policy says who may.
	if out, code := a.may("virtswarm-agent pull builds/app.img /tmp/back"); code != 4 {
		t.Errorf("a pulls what it may not read: exit code %d, %s", code, out)
	}
	if out, code := b.may("virtswarm-agent push /tmp/got other"); code != 5 {
		t.Errorf("b pushes: exit code %d, %s", code, out)
	}

	// A directory follows what is published.
	b.run("rm /tmp/got; (virtswarm-agent sync builds/site/ /srv/site >/tmp/sync.log 2>&1 &)")
	for version, text := range []string{"first", "second"} {
		a.run(fmt.Sprintf("echo %s >/tmp/page && virtswarm-agent push /tmp/page site/page", text))
		if out, code := b.may(fmt.Sprintf("for i in $(seq 1000); do grep -qs %s /srv/site/page && exit 0; sleep 0.05; done; cat /tmp/sync.log; exit 1", text)); code != 0 {
			t.Fatalf("version %d is not at b: %s", version, out)
		}
	}
	v[1].must("guest", "tags", "b", "rm", "web")
	if out, code := b.may("for i in $(seq 1000); do [ -e /srv/site/page ] || exit 0; sleep 0.05; done; cat /tmp/sync.log; exit 1"); code != 0 {
		t.Fatalf("what is not given to b any more is still there: %s", out)
	}
}

// TestTwoGuestsOfAHost: each sees its files alone; memory comes and goes while one pulls.
func TestTwoGuestsOfAHost(t *testing.T) {
	t.Parallel()
	l, v := newHypervisors(t, 1, "")
	one := newVM(v[0], "one", 500, "")
	v[0].image("/var/lib/libvirt/images/two.qcow2", "", "1M")
	two := newVM(v[0], "two", 400, "", aDisk("/var/lib/libvirt/images/two.qcow2")) // a snapshot needs a disk to be in
	one.attach()
	two.attach()
	big := l.random("big", 128<<20, 1)
	for name, guests := range map[string]string{"for/one": "one", "for/two": two.uuid, "for/both": "all", "for/none": "none"} {
		v[0].must("publish", big, name, "--guests", guests, "--replicas", "1")
	}
	for m, want := range map[*vm]string{one: "for/both for/one", two: "for/both for/two"} {
		if got := m.run("virtswarm-agent ls for/ | tail -n +2 | cut -d' ' -f1"); strings.Join(strings.Fields(got), " ") != want {
			t.Errorf("%s sees %q, want %q", m.name, got, want)
		}
	}
	if out, code := one.may("virtswarm-agent pull for/two /tmp/x"); code != 4 {
		t.Errorf("one pulls what is for two: exit code %d, %s", code, out)
	}
	one.begin("virtswarm-agent --json pull for/one /tmp/got && sha256sum /tmp/got")
	two.begin("virtswarm-agent ping -q -c 100 -i 10ms")
	for range 2 {
		v[0].awaitSent(4 << 20)
		v[0].must("guest", "detach-shm", "one")
		l.await("it is seen to be gone", func() bool { g, _ := v[0].guest("one"); return g.Shm == 0 })
		one.attach()
	}
	out, code := one.end()
	text, sum, ok := strings.Cut(out, "}")
	if code != 0 || !ok || !strings.Contains(sum, l.sum(big)) {
		t.Fatalf("one pulls while its memory comes and goes: exit code %d, %s", code, out)
	}
	var p pulled
	one.said(text+"}", &p)
	if p.Links < 2 || p.Fetched != p.Data {
		t.Errorf("want every chunk once over two links or more: %+v", p)
	}
	if out, code := two.end(); code != 0 {
		t.Errorf("two pings: exit code %d, %s", code, out)
	} else {
		t.Log(out)
	}

	// A snapshot takes the guest, and the middle of a pull, back to what they were: it goes on from there.
	two.begin("virtswarm-agent --json pull for/two /tmp/got && sha256sum /tmp/got")
	v[0].awaitSent(8 << 20)
	v[0].virsh("snapshot-create-as", "two", "before")
	v[0].awaitSent(8 << 20)
	v[0].virsh("snapshot-revert", "two", "before")
	two.connect()
	out, code = two.end()
	if text, sum, ok = strings.Cut(out, "}"); code != 0 || !ok || !strings.Contains(sum, l.sum(big)) {
		t.Fatalf("two pulls, and a snapshot is reverted: exit code %d, %s", code, out)
	}
	two.said(text+"}", &p)
	if p.Links < 2 || p.Fetched != p.Data {
		t.Errorf("want every chunk once over two links or more: %+v", p)
	}
}

// TestPullOverMigration moves a guest to another host and back while it pulls, suspends, saves and restores it, and
// kills its host's daemon: every chunk comes once.
func TestPullOverMigration(t *testing.T) {
	t.Parallel()
	l, v := newHypervisors(t, 3, "")
	m := newVM(v[0], "vm", 500, "")
	m.attach()
	file := l.random("slow", 96<<20, 1)
	for _, h := range v[:2] { // so that the pull lasts: h3 is the file's home, and gives it away slowly
		h.must("host", "set", h.name, "--weight", "1")
	}
	v[2].must("host", "set", "h3", "--weight", "10000", "--up", "24Mbit")
	v[2].must("publish", file, "slow", "--guests", "vm", "--replicas", "1")
	m.begin("virtswarm-agent --json pull slow /tmp/got 2>/tmp/err && sha256sum /tmp/got || cat /tmp/err")
	v[0].awaitSent(4 << 20)
	m.migrate(v[1])
	v[1].awaitSent(4 << 20)
	m.migrate(v[0])
	v[0].awaitSent(4 << 20)
	v[0].virsh("suspend", "vm")
	v[0].virsh("resume", "vm")
	v[0].awaitSent(1 << 20)
	v[0].kill()
	v[0].start()
	v[0].awaitSent(1 << 20)
	v[0].virsh("save", "vm", "/var/lib/libvirt/images/vm.saved")
	v[0].virsh("restore", "/var/lib/libvirt/images/vm.saved")
	m.connect()
	v[0].awaitSent(1 << 20)
	v[2].must("host", "set", "h3", "--up", "none")
	out, code := m.end()
	text, sum, ok := strings.Cut(out, "}")
	if code != 0 || !ok || !strings.Contains(sum, l.sum(file)) {
		t.Fatalf("exit code %d, %s", code, out)
	}
	var p pulled
	m.said(text+"}", &p)
	if p.Links < 5 || p.Fetched != p.Data || p.Resumed != 0 {
		t.Errorf("want every chunk once, over a link for each move: %+v", p)
	}
	t.Logf("%+v", p)
}
