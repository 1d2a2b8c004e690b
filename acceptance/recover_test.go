package acceptance

import (
	"context"
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

// Of three hosts one is lost, and another one leaves, in good order or because it is cut off: the third goes on. So it
// does when a host is killed and removed at once.
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

// All hosts that were drained, one after the other, are switched off at once: the only one that is left goes on.
func TestDrainedHostsMayBeSwitchedOffAtOnce(t *testing.T) {
	l := newLab(t, 3, "")
	l.voters(3)
	for _, name := range []string{"h3", "h2"} {
		l.hosts[0].must("drain", name, "--wait")
	}
	for _, h := range l.hosts[1:] {
		h.cmd.Process.Kill()
	}
	for _, h := range l.hosts[1:] {
		h.kill()
	}
	l.await("the host that is left leads", l.hosts[0].leads)
	for _, h := range l.hosts[1:] {
		h.start()
		h.must("undrain")
	}
	l.voters(3)
}

// The voters that a recovery left out come back with their old directories, a majority. They have a leader of their
// own, and both sides say that something critical is wrong. A second recovery, at one of those that were left out, is
// refused.
func TestLeftOutHostsComeBack(t *testing.T) {
	l := newLab(t, 3, "")
	l.voters(3)
	for _, h := range l.hosts {
		h.kill()
	}
	first, other := l.hosts[0], l.hosts[1]
	if r := first.recover("--without", "h2,h3"); r.code != 0 {
		t.Fatalf("recover: %+v", r)
	}
	first.start()
	other.refusedToRecover(38, "h1: the host is up and does not take this one for a member", "--without", "h1,h3")
	if r := other.recover(); r.code != 0 || !strings.Contains(r.stdout, "h1 is up and goes on without this host") {
		t.Errorf("the survey at a host that was left out: %+v", r)
	}
	for _, h := range l.hosts[1:] {
		h.launch()
	}
	for h, kind := range map[*host]string{first: "removed-host", other: "refused", l.hosts[2]: "refused"} {
		l.await(h.name+" says what is wrong", func() bool {
			r := h.run("health")
			return r.code == 2 && strings.Contains(r.stdout, kind)
		})
	}
	// The way out: those who were left out join anew.
	for _, h := range l.hosts[1:] {
		h.stop()
		h.join(first)
	}
	l.voters(3)
	l.await("all is well again", func() bool { return first.run("health").code != 2 })
}

// What recover refuses, and why. Nothing is changed by it.
func TestRecoverRefuses(t *testing.T) {
	l := newLab(t, 3, "")
	l.voters(3)
	h := l.hosts[2]
	h.refusedToRecover(31, "uses this data directory") // its daemon runs
	h.stop()
	h.refusedToRecover(38, "h1: the host answers", "--without", "h1")
	l.hosts[0].kill()
	h.refusedToRecover(38, "2 of 3 voters answer", "--without", "h1")
	l.hosts[1].kill()
	h.refusedToRecover(38, "h1: the host does not answer", "--without", "h2")
	h.refusedToRecover(30, "h9", "--without", "h1,h2,h9")
	h.refusedToRecover(2, "this is the host", "--without", "h1,h2,h3")
	if r := h.recover(); r.code != 0 || !strings.Contains(r.stdout, "--without h1,h2") {
		t.Errorf("recover without names: %+v", r)
	}
	for _, h := range l.hosts {
		h.launch()
	}
	l.await("a leader, as ever", h.leads)
}

// refusedToRecover runs recover, which must fail with a code and name what is wrong.
func (h *host) refusedToRecover(code int, about string, args ...string) {
	h.lab.t.Helper()
	if r := h.recover(args...); r.code != code || !strings.Contains(r.stderr, about) {
		h.lab.t.Errorf("virtswarmd recover %q: exit code %d, want %d and %q named:\n%s%s", args, r.code, code, about, r.stdout, r.stderr)
	}
}

// Two survivors are recovered apart. Neither follows the other, both say so, and the documented way makes one cluster
// of them again, with all that the stores hold.
func TestRecoveredApart(t *testing.T) {
	l := newLab(t, 3, "")
	l.voters(3)
	file := l.random("file", 3<<20, 1)
	l.hosts[0].must("publish", file, "file", "--replicas", "all")
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
	l.walk("apart")
	l.await("one cluster", func() bool { s := other.status(); return s.HostsAlive == 2 && !s.Staleness.Stale })
	l.replicated(one)
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
	l.walk("oldcopy")
	l.await("it is a voter again", func() bool { return len(l.hosts[0].status().Voters) == 3 })
}
