package acceptance

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Once a drain says that a host may go, it may go at that moment, disk and all: no file has fewer copies than wanted.
// When it comes back it takes its part again.
func TestDrain(t *testing.T) {
	t.Parallel()
	l := newNetLab(t, 4, 400e6, nil)
	l.voters(3)
	files := map[string]string{}
	for i := range 3 {
		name := fmt.Sprintf("images/%d", i)
		files[name] = l.sparse(fmt.Sprint("image-", i), 3, 3<<20, byte(i))
		l.hosts[i].must("publish", files[name], name, "--replicas", "2")
	}
	drained := l.hosts[3]
	held := 0
	for name := range files {
		held += l.copies(l.hosts[0], name)["h4"]
	}
	began := time.Now()
	drained.must("drain", "--wait")
	t.Logf("drained of %d shards in %.1f s", held, time.Since(began).Seconds())
	drained.kill()
	away := filepath.Join(l.dir, "away")
	l.check(os.Rename(drained.data, away))
	if s := l.hosts[0].status(); s.UnderReplicatedFiles != 0 {
		t.Errorf("%d files lack copies without the drained host", s.UnderReplicatedFiles)
	}
	l.intact(files)
	// Three hosts for two copies: one more may go, and then none.
	l.hosts[0].must("drain", "h3", "--wait")
	l.hosts[0].refused(21, "h2", "drain", "h2")

	l.check(os.Rename(away, drained.data))
	drained.start()
	l.hosts[0].must("undrain", "h3")
	drained.must("undrain")
	l.healed(l.hosts[0], 4, time.Now())
	l.intact(files)
}

// A host keeps to its quota: what was used least recently goes, and can be had again; what it is a home of and what it
// was told to hold stays.
func TestEviction(t *testing.T) {
	t.Parallel()
	const size, quota = 10 << 20, 45 << 20
	l := newNetLab(t, 3, 400e6, nil)
	l.voters(3)
	small := l.hosts[2]
	l.hosts[0].must("host", "set", "h1", "--weight", "10000")
	l.hosts[0].must("host", "set", "h2", "--weight", "10000")
	l.hosts[0].must("host", "set", "h3", "--weight", "1", "--quota", fmt.Sprint(quota))

	files := map[string]string{}
	publish := func(name string, replicas string) {
		files[name] = l.random(name, size, byte(len(files)))
		l.hosts[0].must("publish", files[name], name, "--replicas", replicas)
	}
	publish("home", "all")
	publish("told", "2")
	l.hosts[0].must("distribute", "told", "--to", "h3", "--watch")
	for round := range 2 {
		for i := range 4 {
			name := fmt.Sprint("cache-", i)
			if round == 0 {
				publish(name, "2")
			}
			out := l.out(fmt.Sprint(name, round))
			small.must("pull", name, out)
			l.same(files[name], out)
			if used := l.used(small); used > quota {
				t.Errorf("%d bytes in a store with a quota of %d", used, quota)
			}
		}
	}
	evicted := small.metric("virtswarm_keeper_evicted_bytes_total")
	t.Logf("evicted %.0f MiB", evicted/(1<<20))
	if evicted < 4*size { // 8 pulls of 10 MiB, and room for two at a time
		t.Errorf("evicted %.0f bytes", evicted)
	}
	l.healed(l.hosts[0], 3, time.Now())
	small.must("verify")
	for _, h := range l.hosts[:2] {
		h.kill()
	}
	for _, name := range []string{"home", "told"} { // nobody can be asked for them
		out := l.out(name)
		small.must("pull", name, out)
		l.same(files[name], out)
	}
	for _, h := range l.hosts[:2] {
		h.launch()
	}
	l.ready(l.hosts[:2])
	l.intact(files)
}

// used is what the data files of a store take on the disk.
func (l *lab) used(h *host) (sum int64) {
	l.t.Helper()
	found, err := filepath.Glob(filepath.Join(h.data, "store", "files", "*", "data"))
	l.check(err)
	for _, path := range found {
		sum += l.allocated(path)
	}
	return sum
}

// ready waits until hosts that were launched take part.
func (l *lab) ready(hosts []*host) {
	l.t.Helper()
	for _, h := range hosts {
		if r := h.run("status", "--wait", patience.String()); r.code != 0 {
			l.t.Fatalf("%s did not get ready: %s", h.name, r.stderr)
		}
	}
}

// darkDaemon builds, once, a daemon that loses at SIGUSR1 what it has not synced, and ends.
var darkDaemon = sync.OnceValues(func() (string, error) {
	product, err := filepath.Abs("../cmd/virtswarmd/osdisk.go")
	if err != nil {
		return "", err
	}
	double, err := filepath.Abs("testdata/powerloss/osdisk.go")
	if err != nil {
		return "", err
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{product: double}})
	if err != nil {
		return "", err
	}
	path := filepath.Join(bin, "virtswarmd-dark")
	if err := os.WriteFile(path+".json", overlay, 0o600); err != nil {
		return "", err
	}
	out, err := exec.Command("go", "build", "-race", "-overlay", path+".json", "-o", path, "../cmd/virtswarmd").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build the daemon whose power fails: %w: %s", err, out)
	}
	return path, nil
})

// The power of the whole room fails while files are published and fetched: what was written and not synced is gone on
// every host at once. The second time it takes the publisher's disk with it. Everything that was acknowledged is there.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	daemon, err := darkDaemon()
	if err != nil {
		t.Fatal(err)
	}
	l := newNetLab(t, 3, 200e6, func(l *lab) {
		for _, h := range l.hosts {
			h.daemon, h.env = daemon, []string{"VIRTSWARM_ATTIC=" + h.data + "-attic"}
		}
	})
	l.voters(3)
	acknowledged := map[string]string{}
	for round, back := range [][]*host{l.hosts, l.hosts[1:]} {
		l.publishUntilDark(round, acknowledged)
		again := time.Now()
		if round == 1 {
			l.check(os.RemoveAll(l.hosts[0].data))
		}
		for _, h := range back {
			h.launch()
		}
		l.ready(back)
		// What was on its way to be acknowledged may be gone with the publisher's disk.
		l.await("every copy of what was acknowledged", func() bool {
			return back[0].status().HostsAlive == len(back) && len(lacking(back[0].ls(), acknowledged)) == 0
		})
		t.Logf("%d of 3 hosts and every copy again %.1f s after the start", len(back), time.Since(again).Seconds())
		l.intact(acknowledged)
	}
	t.Logf("%d files acknowledged", len(acknowledged))
}

// publishUntilDark publishes small files at h1 and a large one at h3, and cuts the power of all hosts at once in the
// middle of it.
func (l *lab) publishUntilDark(round int, acknowledged map[string]string) {
	l.t.Helper()
	var mu sync.Mutex
	var publishing sync.WaitGroup
	dark := make(chan struct{})
	for i := range 2 {
		publishing.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-dark:
					return
				default:
				}
				name := fmt.Sprintf("%d-%d-%d", round, i, n)
				source := l.random(name, 3<<20, byte(100*round+50*i+n))
				if l.hosts[0].run("publish", source, name, "--replicas", "2").code == 0 {
					mu.Lock()
					acknowledged[name] = source
					mu.Unlock()
				}
			}
		})
	}
	big := fmt.Sprint("big-", round)
	source := l.random(big, 40<<20, byte(200+round))
	l.hosts[2].must("publish", source, big, "--replicas", "all", "--wait", "committed")
	mu.Lock()
	acknowledged[big] = source // by the host that has it, whose disk stays
	n := len(acknowledged)
	mu.Unlock()
	l.await("publications, and a fetch under way", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(acknowledged) >= n+3 && l.hosts[1].metric(receivedBytes) > 5<<20
	})
	for _, h := range l.hosts { // all at once: none gets to say anything
		l.check(h.cmd.Process.Signal(syscall.SIGUSR1))
	}
	close(dark)
	for _, h := range l.hosts {
		if code := h.wait(); code != 0 {
			l.t.Fatalf("the power of %s does not fail: exit code %d", h.name, code)
		}
	}
	publishing.Wait()
}
