package acceptance

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// recovery is what the tests read of 'virtswarmd recover --json'.
type recovery struct {
	Recovered bool `json:"recovered"`
	Hosts     []struct {
		Name    string `json:"name"`
		Answers bool   `json:"answers"`
		Self    bool   `json:"self"`
		Term    uint64 `json:"term"`
		Index   uint64 `json:"index"`
	} `json:"hosts"`
}

// recover runs 'virtswarmd recover' at a host whose daemon is stopped.
func (h *host) recover(args ...string) result {
	h.lab.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return execute(ctx, h.lab.t, "virtswarmd", append([]string{"recover", "--config", h.lab.config, "--data", h.data}, args...)...)
}

// leads says whether a host's cluster has a leader that carries out a write.
func (h *host) leads() bool {
	h.lab.t.Helper()
	return h.run("rm", "there/is/no/such/file").code == 15
}

// destroy ends a host and removes all that it had.
func (h *host) destroy() {
	h.lab.t.Helper()
	h.kill()
	h.lab.check(os.RemoveAll(h.data))
}

// copyTo copies a host's directory, as a backup or a clone of the machine does.
func (h *host) copyTo(dir string) {
	h.lab.t.Helper()
	h.lab.check(os.RemoveAll(dir))
	if out, err := exec.Command("cp", "-a", h.data, dir).CombinedOutput(); err != nil {
		h.lab.t.Fatalf("copy %s: %v: %s", h.data, err, out)
	}
}

// Of three hosts one is lost, and another one leaves, in good order or because it is cut off: the third goes on. So it does
// when a host is killed and removed at once.
func TestLeavingKeepsTheMajority(t *testing.T) {
	for _, c := range []struct {
		name string
		wait bool // until the dead host is lost
		by   int  // who runs the command
		args []string
	}{
		{"in good order", true, 1, []string{"leave"}},
		{"cut off", true, 0, []string{"leave", "h2", "--force"}},
		{"the dead one, at once", false, 0, []string{"leave", "h3", "--force"}},
		{"the only one that was up beside the last", false, 0, []string{"leave", "h2", "--force"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t, 3, "")
			l.voters(3)
			l.hosts[2].kill()
			if c.wait {
				l.await("h3 is lost", func() bool { return strings.Contains(l.hosts[0].must("hosts").stdout, "lost") })
			}
			l.hosts[c.by].must(c.args...)
			l.await("one voter, who leads", func() bool {
				s := l.hosts[0].status()
				return len(s.Voters) == 1 && s.Leader != nil && s.Leader.Name == "h1" && !s.Staleness.Stale
			})
			if !l.hosts[0].leads() {
				t.Error("the last host carries out no write")
			}
		})
	}
}

// A host whose vote nobody can take over is not removed, and is a member as before.
func TestTheOnlyVoterStays(t *testing.T) {
	l := newLab(t, 2, "")
	first, second := l.hosts[0], l.hosts[1]
	second.kill()
	for _, args := range [][]string{{"leave"}, {"leave", "h1", "--force"}} {
		first.refused(35, "h1", args...)
	}
	if !first.leads() || first.status().HostsAlive < 1 || !strings.Contains(first.must("hosts").stdout, "alive") {
		t.Errorf("the host is not what it was:\n%s", first.must("hosts").stdout)
	}
	second.start()
	second.refused(2, "the host is up", "leave", "h1")
	first.must("leave")
	if first.wait() != 0 {
		t.Error("the daemon did not end well")
	}
	l.await("the other host leads", second.leads)
}

// Three of five hosts, voters, are destroyed with their disks. The cluster goes on from a survivor, the dead hosts join anew,
// and every file of which a copy is left is there, byte for byte.
func TestDrill(t *testing.T) {
	l := newLab(t, 5, "")
	l.voters(5)
	files := map[string]string{}
	for i := range 6 {
		name := fmt.Sprint("file/", i)
		files[name] = l.random(fmt.Sprint("file", i), 2<<20, byte(i))
		l.hosts[i%5].must("publish", files[name], name, "--replicas", "4")
	}
	l.replicated(l.hosts[0])
	for _, h := range l.hosts[:3] {
		h.destroy()
	}
	first, second := l.hosts[3], l.hosts[4]
	l.await("no leader is left", func() bool { return first.run("rm", "x").code == 20 })
	first.refusedToRecover(31, "uses this data directory") // its daemon runs
	first.stop()

	var r recovery
	l.check(json.Unmarshal([]byte(first.recover("--json").stdout), &r))
	for _, h := range r.Hosts {
		if want := h.Name == "h4" || h.Name == "h5"; h.Answers != want || want && h.Index == 0 {
			t.Errorf("survey: %+v", h)
		}
	}
	first.refusedToRecover(38, "h3", "--without", "h1,h2")                     // not accounted for
	first.refusedToRecover(38, "the host answers", "--without", "h1,h2,h3,h5") // not gone
	first.refusedToRecover(30, "h9", "--without", "h1,h2,h3,h9")
	if done := first.recover("--without", "h1,h2,h3"); done.code == 38 && strings.Contains(done.stderr, "h5: its log ends") {
		first.start() // the other one is ahead
		second.stop()
		first, second = second, first
		done = first.recover("--without", "h1,h2,h3")
		if done.code != 0 {
			t.Fatalf("recover at %s: %+v", first.name, done)
		}
	} else if done.code != 0 {
		t.Fatalf("recover at %s: %+v", first.name, done)
	}
	first.start()
	l.await("the other survivor follows", func() bool {
		s := second.status()
		return !s.Staleness.Stale && s.Leader != nil && s.Leader.Name == first.name && s.Files == len(files)
	})
	for _, h := range l.hosts[:3] {
		h.join(first)
	}
	l.await("five voters again", func() bool { return len(first.status().Voters) == 5 })
	l.replicated(first)
	l.intact(files)
}

// refusedToRecover runs recover, which must fail with a code and name what is wrong.
func (h *host) refusedToRecover(code int, about string, args ...string) {
	h.lab.t.Helper()
	if r := h.recover(args...); r.code != code || !strings.Contains(r.stderr, about) {
		h.lab.t.Errorf("virtswarmd recover %q: exit code %d, want %d and %q named:\n%s%s", args, r.code, code, about, r.stdout, r.stderr)
	}
}

// Two survivors are recovered apart. Neither follows the other, both say so, and the documented way makes one cluster of
// them again, with all that the stores hold.
func TestRecoveredApart(t *testing.T) {
	l := newLab(t, 3, "")
	l.voters(3)
	file := l.random("file", 3<<20, 1)
	l.hosts[0].must("publish", file, "file", "--replicas", "3")
	l.replicated(l.hosts[0])
	l.hosts[0].destroy()
	one, other := l.hosts[1], l.hosts[2]
	one.stop()
	other.stop()
	for _, h := range []*host{one, other} {
		if r := h.recover("--without", "h1", "--force"); r.code != 0 {
			t.Fatalf("recover at %s: %+v", h.name, r)
		}
		h.start()
	}
	one.must("publish", l.random("at-one", 1<<20, 2), "at/one", "--replicas", "1")
	other.must("publish", l.random("at-other", 1<<20, 3), "at/other", "--replicas", "1")
	for _, h := range []*host{one, other} {
		l.await(h.name+" says what is wrong", func() bool { return strings.Contains(h.run("health").stdout, "recovered-apart") })
	}
	if len(one.ls()) != 2 || len(other.ls()) != 2 {
		t.Errorf("one lists %+v, the other %+v", one.ls(), other.ls())
	}
	// The way out: one is chosen, and the other joins it anew. What only the other has published is a stray there.
	one.must("leave", other.name, "--force")
	other.stop()
	l.check(os.RemoveAll(filepath.Join(other.data, "raft")))
	other.join(one)
	l.await("one cluster", func() bool { s := other.status(); return s.HostsAlive == 2 && !s.Staleness.Stale })
	l.replicated(one)
	other.must("adopt", "at/other")
	for name, source := range map[string]string{"file": file, "at/other": filepath.Join(l.dir, "at-other"), "at/one": filepath.Join(l.dir, "at-one")} {
		out := l.out(strings.ReplaceAll(name, "/", "-"))
		one.must("pull", name, out)
		l.same(source, out)
	}
	l.await("nothing is wrong any more", func() bool { return !strings.Contains(one.run("health").stdout, "recovered-apart") })
}

// A host whose directory was put back from a backup, or which was cloned, does not take part, and says what to do.
func TestOldAndCopiedDirectoriesAreRefused(t *testing.T) {
	l := newLab(t, 3, "")
	l.voters(3)
	h := l.hosts[2]
	if l.leader(l.hosts[0]) == h {
		h = l.hosts[1]
	}
	backup := h.data + ".backup"
	h.stop()
	h.copyTo(backup)
	h.start()

	// The clone: the same directory on a second machine, while the first one runs.
	clone := l.newHost(h.name+"-clone", fmt.Sprintf("%s.99:7117", h.addr[:strings.LastIndex(h.addr, ".")]))
	clone.args[3] = h.name
	l.check(os.Rename(backup, clone.data))
	clone.refusedToStart(37, h.addr)
	clone.copyTo(backup)
	if r := h.run("status"); r.code != 0 || h.cmd == nil {
		t.Errorf("the host itself does not go on: %+v", r)
	}

	// The backup: older than the last start.
	l.hosts[0].must("publish", l.random("f", 1<<20, 1), "f", "--replicas", "1")
	h.stop()
	l.check(os.RemoveAll(h.data))
	l.check(os.Rename(backup, h.data))
	h.launch()
	if code := h.wait(); code != 37 {
		t.Errorf("the old copy ended with %d, want 37:\n%s", code, tail(filepath.Join(l.dir, h.name+".log"), 5))
	}
	// The way out.
	l.hosts[0].must("leave", h.name, "--force")
	l.check(os.RemoveAll(filepath.Join(h.data, "raft")))
	h.join(l.hosts[0])
	l.await("it is a voter again", func() bool { return len(l.hosts[0].status().Voters) == 3 })
}
