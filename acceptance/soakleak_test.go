package acceptance

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// weight is what a daemon takes at rest.
type weight struct {
	pid         int
	age         time.Duration
	descriptors int
	goroutines  int
	memory      int64 // resident, bytes
	heap        int64 // bytes in use after a collection, as Go says
}

const (
	// What a daemon may take more at rest in the end than before: pools of connections are not always as full.
	moreDescriptors, moreGoroutines = 16, 20
	moreMemory                      = 64 << 20
	// A daemon at rest is weighed so often, and the least counts: heartbeats and pools of connections come and go.
	weighings, weighEvery = 10, 3 * time.Second
)

// weigh tells what each daemon takes at least while nothing is asked of the cluster.
func (s *soak) weigh(when string) map[*host]weight {
	s.t.Helper()
	s.well()
	last := map[*host]weight{}
	for range weighings {
		after(s.t, weighEvery)
		for _, h := range s.hosts {
			now := h.weight()
			if was, again := last[h]; again {
				now.descriptors, now.goroutines = min(now.descriptors, was.descriptors), min(now.goroutines, was.goroutines)
				now.memory, now.heap = min(now.memory, was.memory), min(now.heap, was.heap)
			}
			last[h] = now
		}
	}
	s.note("at rest, %s", when)
	for _, h := range s.hosts {
		w := last[h]
		s.t.Logf("  %s pid %d, up %4.0f s: %3d descriptors, %4d goroutines, %4d MiB resident, %3d MiB heap",
			h.name, w.pid, w.age.Seconds(), w.descriptors, w.goroutines, w.memory>>20, w.heap>>20)
	}
	return last
}

func (h *host) weight() weight {
	h.lab.t.Helper()
	pid := h.daemonPid()
	w := weight{pid: pid, goroutines: int(h.metric("go_goroutines")), memory: residentSet(pid), heap: int64(h.metric("go_memstats_heap_inuse_bytes"))}
	w.age = time.Since(time.Unix(int64(h.metric("process_start_time_seconds")), 0))
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	h.lab.check(err)
	w.descriptors = len(fds)
	return w
}

// daemonPid is the daemon's: nsenter becomes the program that it starts.
func (h *host) daemonPid() int {
	h.lab.t.Helper()
	pid := h.cmd.Process.Pid
	if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err != nil || strings.TrimSpace(string(name)) != "virtswarmd" {
		h.lab.t.Fatalf("process %d is %q, %v", pid, name, err)
	}
	return pid
}

// compare wants daemons to take no more than any of them did: the leader takes more than others, and is another one.
func compare(t *testing.T, since string, before, now map[*host]weight, hosts []*host) {
	t.Helper()
	var most weight
	for _, w := range before {
		most.descriptors, most.goroutines = max(most.descriptors, w.descriptors), max(most.goroutines, w.goroutines)
		most.memory = max(most.memory, w.memory)
	}
	for _, h := range hosts {
		was, is := before[h], now[h]
		t.Logf("%s, %s (same process: %v): descriptors %+d, goroutines %+d, resident %+d MiB, heap %+d MiB", h.name, since, was.pid == is.pid,
			is.descriptors-was.descriptors, is.goroutines-was.goroutines, (is.memory-was.memory)>>20, (is.heap-was.heap)>>20)
		if is.descriptors > most.descriptors+moreDescriptors {
			t.Errorf("%s has %d descriptors open, and the most that a host had was %d", h.name, is.descriptors, most.descriptors)
		}
		if is.goroutines > most.goroutines+moreGoroutines {
			t.Errorf("%s has %d goroutines, and the most that a host had was %d", h.name, is.goroutines, most.goroutines)
		}
		if is.memory > most.memory+moreMemory {
			t.Errorf("%s takes %d MiB, and the most that a host took was %d", h.name, is.memory>>20, most.memory>>20)
		}
	}
}

// checkVersions pulls every acknowledged version at every host.
func (s *soak) checkVersions() {
	s.t.Helper()
	lost, checked := 0, 0
	for _, v := range s.load.versions {
		for _, h := range s.hosts {
			r := s.load.pullOne(h, v, "check")
			checked++
			if r.code != 0 && !v.mayBeGone {
				lost++
				s.t.Errorf("lost: %s@%s cannot be pulled at %s: exit code %d: %s", v.name, v.id, h.name, r.code, r.stderr)
			}
		}
	}
	for _, h := range s.hosts {
		h.must("verify")
	}
	s.t.Logf("%6d versions are acknowledged and not removed, pulled at each host in the end: %d pulls, %d lost", len(s.load.versions), checked, lost)
}

// checkFiles looks for what is left over on disks: of what was under way, and of contents that nothing refers to.
func (s *soak) checkFiles() {
	s.t.Helper()
	named := s.contents()
	for _, h := range s.hosts {
		var left []string
		for begin := time.Now(); ; after(s.t, time.Second) { // strays go within keep_strays, and a look at everything
			if left = h.leftover(named); len(left) == 0 || time.Since(begin) > 3*time.Minute {
				break
			}
		}
		if len(left) > 0 {
			s.t.Errorf("%s has left over: %q", h.name, left)
		}
	}
	outputs, err := filepath.Glob(filepath.Join(s.dir, "*out-*"))
	s.check(err)
	hidden, err := filepath.Glob(filepath.Join(s.dir, ".*"))
	s.check(err)
	if left := append(outputs, hidden...); len(left) > 0 {
		s.t.Errorf("pulls have left over: %q", left)
	}
}

// contents are the ids of all versions in the catalogue, in hex.
func (s *soak) contents() map[string]bool {
	s.t.Helper()
	named := map[string]bool{}
	for _, f := range s.hosts[0].ls() {
		var show struct {
			Versions []listed `json:"versions"`
		}
		s.hosts[0].json(&show, "show", f.Name)
		for _, v := range show.Versions {
			named[strings.TrimPrefix(v.ID, "b3:")] = true
		}
	}
	return named
}

// leftover are the files below a host's directory that should not be there at rest.
func (h *host) leftover(named map[string]bool) (left []string) {
	h.lab.t.Helper()
	err := filepath.WalkDir(h.data, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(h.data, path)
		if err != nil {
			return err
		}
		switch dir, name := filepath.Split(rel); {
		case strings.HasSuffix(name, ".tmp"), strings.HasSuffix(name, ".part"), dir == "store/incoming/", dir == "store/damaged/":
			left = append(left, rel)
		case dir == "store/files/" && !named[name]:
			left = append(left, rel)
		}
		return nil
	})
	if err != nil && !os.IsNotExist(err) { // a file that goes meanwhile
		h.lab.check(err)
	}
	slices.Sort(left)
	return left
}
