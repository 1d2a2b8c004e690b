package acceptance

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	hostguest "github.com/virtswarm/virtswarm/hostd/guest"
)

// hostileGrowth is by how much the daemon may grow under attack: by what it may hold for a guest at a time, of which
// the garbage collector may have left as much again, and twice that, as the race detector of the daemons here remembers
// who touched what.
const hostileGrowth = 4 * hostguest.MaxHeld

// attacks are those of program hostile.
var attacks = []string{"frames", "lengths", "rings", "flood", "streams", "slow", "secrets", "pushes", "scribble"}

// TestHostileGuest: a guest does whatever root can do in it, by program hostile. Its neighbour is served all the while,
// and its host's daemon neither ends, nor grows without bound, nor gives it what is not its.
func TestHostileGuest(t *testing.T) {
	t.Parallel()
	l, v := newHypervisors(t, 1, "")
	h := v[0]
	honest := newVM(h, "honest", 400, "")
	hostile := newVM(h, "hostile", 300, ours("<virtswarm:push quota='2MiB'/>"))
	honest.attach()
	hostile.attach()
	file := l.random("honest", 64<<20, 1)
	h.must("publish", file, "for/honest", "--guests", "honest", "--replicas", "1")
	h.must("publish", l.random("hostile", 64<<20, 2), "for/hostile", "--guests", "hostile", "--replicas", "1")
	var show struct {
		File struct {
			ID string `json:"id"`
		} `json:"file"`
	}
	h.json(&show, "show", "for/honest")

	want := l.sum(file)
	pull := func(what string) {
		t.Helper()
		begun := time.Now()
		out := honest.run("rm -f /tmp/got; virtswarm-agent pull for/honest /tmp/got")
		took := time.Since(begun)
		if sum := honest.run("sha256sum /tmp/got"); !strings.Contains(sum, want) {
			t.Errorf("%s: the honest guest has other bytes: %s\n%s", what, sum, out)
		}
		t.Logf("%s: 64 MiB in %.1f s, %.1f MiB/s", what, took.Seconds(), 64/took.Seconds())
	}
	ping := func(what string) {
		t.Helper()
		_, text, _ := strings.Cut(honest.run("virtswarm-agent ping -q -c 100 -i 10ms"), "resource2: ")
		t.Logf("%s: %s", what, text)
	}
	pull("before")
	ping("before")
	memory := h.watchMemory()
	for _, attack := range attacks {
		hostile.begin(fmt.Sprintf("hostile -for 8s -own for/hostile -secret for/honest -digest %s %s", show.File.ID, attack))
		pull("during " + attack)
		ping("during " + attack)
		out, code := hostile.end()
		t.Logf("hostile says: %s", out)
		if code != 0 {
			t.Errorf("the attack with %s: exit code %d", attack, code)
		}
	}
	before, peak := memory()
	t.Logf("the daemon's memory: %d MiB before, %d MiB at most", before>>20, peak>>20)
	if peak-before > hostileGrowth {
		t.Errorf("the daemon has grown by %d bytes, more than %d", peak-before, int64(hostileGrowth))
	}
	if n := h.metric("virtswarm_guest_violations_total"); n == 0 {
		t.Error("nobody has counted what it did against the rules")
	}

	// It may publish, but not more than its quota, whatever it was up to before.
	out, code := hostile.may("cd /tmp && for i in 1 2 3 4 5; do dd if=/dev/urandom of=p bs=1M count=1 2>/dev/null; virtswarm-agent push p file-$i || exit $?; done")
	if n := strings.Count(h.must("ls", "guests/"+hostile.uuid).stdout, "/file-"); code != 5 || n != 2 {
		t.Errorf("of a quota of 2 MiB it has %d files of 1 MiB: exit code %d, %s", n, code, out)
	}
	pull("after")
	select {
	case <-h.exited:
		t.Error("the daemon has ended")
	default:
	}
	t.Logf("violations: %.0f, links: %.0f", h.metric("virtswarm_guest_violations_total"), h.metric("virtswarm_guest_links_total", `kind="shm"`))
}

// watchMemory follows how much memory the daemon takes, until stop, which returns what it took at the beginning and at
// most.
func (h *host) watchMemory() (stop func() (before, peak int64)) {
	h.lab.t.Helper()
	pid := h.daemonPid()
	before := residentSet(pid)
	var peak atomic.Int64
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			peak.Store(max(peak.Load(), residentSet(pid)))
			select {
			case <-over:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	return func() (int64, int64) {
		close(over)
		<-done
		return before, peak.Load()
	}
}

// residentSet is the memory of a process, in bytes; 0 if it is gone.
func residentSet(pid int) int64 {
	f, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "VmRSS:"); ok {
			kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(text), " kB"), 10, 64)
			return kib << 10
		}
	}
	return 0
}
