package acceptance

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/acceptance/netlab"
	"github.com/virtswarm/virtswarm/placement"
)

const (
	soakHosts = 5
	// soakConfig has hosts missed soon, stores that are crowded, and strays that go within the run.
	soakConfig = "host_timeout: 3s\ngrace: 4s\nguests: {vsock: off}\nquota: 120MiB\nkeep_strays: 20s\nlog: {level: info}\n" + noLibvirt
	// soakRate is that of a host's cable, in bits a second.
	soakRate = netlab.Rate(400e6)
	// spared is the number of hosts that nobody stops or kills after the upgrade, so that one process is compared with
	// itself in the end.
	spared = 2
)

// TestSoak has five real hosts work under faults for SOAKTIME, and be upgraded in the middle. In the end no byte may be
// wrong, no acknowledged version lost, and nothing left over: files, descriptors, goroutines, memory. It is run by hand.
func TestSoak(t *testing.T) {
	text := os.Getenv("SOAKTIME")
	if text == "" {
		t.Skip("it is run by hand: make soak SOAKTIME=30m")
	}
	lasts, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	s := newSoak(t)
	first := s.weigh("at the beginning")
	s.faults(lasts / 2)
	s.upgrade()
	upgraded := s.weigh("after the upgrade")
	s.faults(lasts / 2)
	last := s.weigh("at the end")
	s.load.stop()
	s.checkVersions()
	s.checkFiles()
	compare(t, "since the beginning", first, last, s.hosts)
	compare(t, "since the upgrade, by the same processes", upgraded, last, s.hosts[:spared])
	s.load.tell(t)
	for _, what := range sorted(s.done) {
		t.Logf("%4d times: %s", s.done[what], what)
	}
}

// soak is a cluster under faults.
type soak struct {
	*lab
	rng    *rand.Rand
	load   *load
	fresh  string // the daemon to which hosts are upgraded
	done   map[string]int
	spares bool // hosts are spared now
	began  time.Time
}

func newSoak(t *testing.T) *soak {
	overlay := clockOverlay(t)
	old := buildAt(t, base, "-overlay", overlay)
	fresh, err := build("..", filepath.Join(t.TempDir(), "virtswarmd"), "-overlay", overlay)
	if err != nil {
		t.Fatal(err)
	}
	tool := filepath.Join(t.TempDir(), "virtswarm")
	if out, err := exec.Command("go", "build", "-o", tool, "../cmd/virtswarm").CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v: %s", tool, err, out)
	}
	seed := rand.Uint64()
	t.Logf("the seed of the faults is %d", seed)
	s := &soak{rng: rand.New(rand.NewPCG(seed, 0)), fresh: fresh, done: map[string]int{}, began: time.Now()}
	s.lab = newNetLab(t, soakHosts, soakRate, func(l *lab) {
		l.write(l.config, []byte(soakConfig))
		for _, h := range l.hosts {
			h.daemon, h.env = old, []string{"CLOCK_AHEAD=" + h.clock()}
			l.write(h.clock(), make([]byte, 8))
		}
	})
	s.load = newLoad(s.lab, tool)
	s.load.run(20 * time.Second) // caches fill, connections are made
	return s
}

// clockOverlay has go build put a clock into package time that can be set while a program runs.
func clockOverlay(t *testing.T) (path string) {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(strings.TrimSpace(string(out)), "src/time")
	p, err := os.ReadFile(filepath.Join(source, "time.go"))
	if err != nil {
		t.Fatal(err)
	}
	const read = "\tsec, nsec, mono := runtimeNow()\n\tif mono == 0 {"
	if strings.Count(string(p), read) != 1 {
		t.Fatalf("time.Now of this Go does not read the clock as expected: adapt the overlay")
	}
	dir := t.TempDir()
	changed := filepath.Join(dir, "time.go")
	text := strings.Replace(string(p), read, "\tsec, nsec, mono := runtimeNow()\n\tsec += *clockAhead\n\tif mono == 0 {", 1)
	if err := os.WriteFile(changed, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ahead, err := filepath.Abs("testdata/clock/ahead.go")
	if err != nil {
		t.Fatal(err)
	}
	p, err = json.Marshal(map[string]any{"Replace": map[string]string{
		filepath.Join(source, "time.go"): changed, filepath.Join(source, "ahead.go"): ahead,
	}})
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(path, p, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// clock is the file that says by how many seconds a host's clock is ahead.
func (h *host) clock() string { return filepath.Join(h.lab.dir, h.name+".clock") }

// setClock sets a host's clock, while its daemon runs.
func (h *host) setClock(ahead time.Duration) {
	h.lab.t.Helper()
	f, err := os.OpenFile(h.clock(), os.O_WRONLY, 0)
	h.lab.check(err)
	defer f.Close()
	_, err = f.WriteAt(binary.LittleEndian.AppendUint64(nil, uint64(int64(ahead/time.Second))), 0)
	h.lab.check(err)
}

// soakFaults are what befalls a host, and what it needs of it: whether a daemon ends, which a spared host's may not.
var soakFaults = []struct {
	name string
	ends bool
	do   func(s *soak, h *host, lasts time.Duration)
}{
	{"kill -9", true, (*soak).killed},
	{"stop and start", true, (*soak).stopped},
	{"cable pulled", false, (*soak).unplugged},
	{"partition", false, (*soak).partitioned},
	{"muted one way", false, (*soak).muted},
	{"drain and undrain", false, (*soak).drained},
	{"leave and join", true, (*soak).left},
	{"clock step", false, (*soak).clockStepped},
	{"clock step and start", true, (*soak).startedWithWrongClock},
}

// faults does one after another until the time is over. In between the cluster may be as it is, or gets well first.
func (s *soak) faults(lasts time.Duration) {
	s.t.Helper()
	s.load.start()
	for end := time.Now().Add(lasts); time.Now().Before(end); {
		f := soakFaults[s.rng.IntN(len(soakFaults))]
		among := s.hosts
		if s.spares && f.ends {
			among = among[spared:]
		}
		h := among[s.rng.IntN(len(among))]
		s.note("%s: %s", f.name, h.name)
		f.do(s, h, time.Duration(1000+s.rng.IntN(7000))*time.Millisecond)
		s.done[f.name]++
		if s.rng.IntN(2) == 0 {
			s.well()
		}
	}
	s.load.pause()
	s.well()
}

func (s *soak) note(format string, a ...any) {
	s.t.Logf("%8.1fs  %s", time.Since(s.began).Seconds(), fmt.Sprintf(format, a...))
}

// well waits until all hosts are alive and vote, and no file lacks a copy.
func (s *soak) well() {
	s.t.Helper()
	for _, h := range s.hosts {
		s.await("all is well at "+h.name, func() bool {
			r := s.load.tool(h, "status", "--json")
			var st status
			if r.code != 0 || json.Unmarshal([]byte(r.stdout), &st) != nil {
				return false
			}
			return !st.Staleness.Stale && st.HostsAlive == soakHosts && len(st.Voters) == soakHosts && st.UnderReplicatedFiles == 0
		})
	}
}

func (s *soak) killed(h *host, lasts time.Duration) {
	h.kill()
	after(s.t, lasts)
	h.start()
}

func (s *soak) stopped(h *host, lasts time.Duration) {
	if code := h.stop(); code != 0 {
		s.t.Errorf("%s ended with %d", h.name, code)
	}
	after(s.t, lasts)
	h.start()
}

func (s *soak) unplugged(h *host, lasts time.Duration) {
	s.check(h.at.Cut())
	after(s.t, lasts)
	s.check(h.at.Heal())
}

func (s *soak) partitioned(h *host, lasts time.Duration) {
	other := s.others(h)[s.rng.IntN(soakHosts-1)]
	s.check(s.net.Partition([]*netlab.Host{h.at, other.at}))
	after(s.t, lasts)
	s.check(s.net.Partition())
}

func (s *soak) muted(h *host, lasts time.Duration) {
	other := s.others(h)[s.rng.IntN(soakHosts-1)]
	s.check(h.at.Mute(other.at, true))
	after(s.t, lasts)
	s.check(h.at.Mute(other.at, false))
}

func (s *soak) drained(h *host, lasts time.Duration) {
	s.well()
	s.tries("drain", func() result { return s.load.tool(h, "drain", "--wait") })
	after(s.t, lasts)
	s.tries("undrain", func() result { return s.load.tool(h, "undrain") })
}

func (s *soak) left(h *host, lasts time.Duration) {
	s.well()
	stays := false
	s.tries("leave", func() result {
		select {
		case <-h.exited: // an attempt came through of which its caller did not hear
			return result{}
		default:
		}
		r := s.load.tool(h, "leave")
		if r.code == 30 && !s.spares { // the release before the upgrade does not end then
			stays = true
			return result{}
		}
		return r
	})
	if stays {
		h.kill()
	} else if code := h.wait(); code != 0 {
		s.t.Errorf("%s left with %d", h.name, code)
	}
	after(s.t, lasts)
	h.join(s.others(h)[0])
}

// tries wants something to go well, which a leader that has just come may hold up.
func (s *soak) tries(what string, do func() result) {
	s.t.Helper()
	s.await(what, func() bool {
		r := do()
		if r.code != 0 {
			s.note("%s: exit code %d: %s", what, r.code, strings.TrimSpace(r.stderr))
		}
		return r.code == 0
	})
}

// clockSteps are by how much clocks are wrong.
var clockSteps = []time.Duration{-time.Hour, -5 * time.Second, 5 * time.Second, time.Hour}

func (s *soak) clockStepped(h *host, lasts time.Duration) {
	h.setClock(clockSteps[s.rng.IntN(len(clockSteps))])
	after(s.t, lasts)
	h.setClock(0)
}

func (s *soak) startedWithWrongClock(h *host, lasts time.Duration) {
	h.kill()
	h.setClock(clockSteps[s.rng.IntN(len(clockSteps))])
	h.start()
	after(s.t, lasts)
	h.setClock(0)
}

// upgrade upgrades one host after another, under load.
func (s *soak) upgrade() {
	s.t.Helper()
	s.load.start()
	for _, h := range s.hosts {
		s.note("upgrade %s", h.name)
		h.become(s.fresh)
	}
	for _, h := range s.hosts {
		s.await("the version rises at "+h.name, func() bool { return h.clusterVersion() == placement.Newest })
	}
	s.load.run(20 * time.Second)
	s.well()
	s.spares = true
}
