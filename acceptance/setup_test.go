package acceptance

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// waitingLab makes n hosts that wait to be told their cluster, and start none.
func waitingLab(t *testing.T, n int) *lab {
	t.Helper()
	l := newLab(t, 0, "first_start: wait\n")
	net := network()
	for i := range n {
		l.hosts = append(l.hosts, l.newHost(fmt.Sprintf("h%d", i+1), fmt.Sprintf("%s.%d:7117", net, i+1)))
	}
	return l
}

// waits starts a daemon and waits until it waits.
func (h *host) waits() {
	h.lab.t.Helper()
	h.launch()
	h.lab.await(h.name+" waits for its cluster", func() bool { return h.run("status").code == 36 })
}

// cluster is the id of the cluster that a host is of.
func (h *host) cluster() string {
	h.lab.t.Helper()
	var s struct {
		Cluster string `json:"cluster_id"`
	}
	h.json(&s, "status", "--wait", patience.String())
	return s.Cluster
}

func (h *host) token() string {
	h.lab.t.Helper()
	return strings.TrimSpace(h.must("token").stdout)
}

// A daemon that waits does nothing on its own; init and join make it go on, once.
func TestSetup(t *testing.T) {
	l := waitingLab(t, 3)
	first, second, third := l.hosts[0], l.hosts[1], l.hosts[2]
	for _, h := range l.hosts {
		h.waits()
	}
	first.refused(36, "virtswarm init", "ls")
	first.refused(36, "virtswarm join", "publish", l.config, "x")
	if code, _ := first.health(); code != 3 {
		t.Errorf("health of a host of no cluster ended with %d", code)
	}
	if exists(filepath.Join(first.data, "pki")) {
		t.Error("a host that waits has made an identity")
	}

	var made struct {
		Cluster string `json:"cluster_id"`
		Host    string `json:"host_id"`
	}
	first.json(&made, "init")
	if got := first.cluster(); got != made.Cluster || len(made.Host) != 32 {
		t.Errorf("init made %+v, status tells of cluster %s", made, got)
	}
	first.refused(2, made.Cluster, "init")
	first.refused(2, made.Cluster, "join", second.addr, "vst1.x")

	token := first.token()
	for about, args := range map[string][]string{
		"127.0.0.1:1":  {"join", "127.0.0.1:1", token},
		"HOST:PORT":    {"join", "nowhere", token},
		"checksum":     {"join", first.addr, token[:len(token)-3] + "xxx"},
		"not a valid ": {"join", first.addr, "vst1.x"},
	} {
		r := second.run(args...)
		if r.code == 0 || !strings.Contains(r.stderr, about) || !strings.Contains(r.stderr, "next:") {
			t.Errorf("%.40q: exit code %d: %s", args, r.code, r.stderr)
		}
	}
	second.must("join", first.addr, token)
	if got := second.cluster(); got != made.Cluster {
		t.Errorf("the host joined cluster %s, not %s", got, made.Cluster)
	}
	second.refused(2, made.Cluster, "init")
	third.refused(18, "virtswarm token", "join", first.addr, token) // used
	third.must("join", second.addr, first.token())

	file := l.random("a", 1<<20, 1)
	third.must("publish", file, "a", "--replicas", "all")
	for _, h := range l.hosts {
		h.kill()
	}
	for _, h := range l.hosts {
		h.start() // with first_start: wait, which does not concern members
	}
	out := l.out("a")
	second.must("pull", "a", out)
	l.same(file, out)
}

// --join works on a host that would wait, and a bare daemon founds without first_start: wait.
func TestJoinFlagOfAWaitingHost(t *testing.T) {
	l := waitingLab(t, 2)
	l.hosts[0].waits()
	l.hosts[0].must("init")
	l.hosts[1].join(l.hosts[0])
	if a, b := l.hosts[0].cluster(), l.hosts[1].cluster(); a != b {
		t.Errorf("clusters %s and %s", a, b)
	}
}

// Killed at any moment of init or join, a daemon waits again, or is the member that it was to be.
func TestKilledDuringSetup(t *testing.T) {
	l := waitingLab(t, 1)
	founder := l.hosts[0]
	net := strings.TrimSuffix(founder.addr, ".1:7117")
	founder.waits()
	founder.must("init")
	// What is seen on disk is where the daemon is when it is killed, or a little behind. The marks founding and joining
	// are there for a moment only, before raft.
	for i, seen := range []string{"founding", "pki", "pki/host.key", "pki/host.crt", "store", "raft", "raft/vote"} {
		for _, joins := range []bool{false, true} {
			if joins && seen == "founding" {
				seen = "joining"
			}
			h := l.newHost(fmt.Sprintf("k%d-%v", i, joins), fmt.Sprintf("%s.%d:7117", net, 10+2*i+len(fmt.Sprint(joins))-4))
			h.waits()
			args := []string{"init"}
			if joins {
				args = []string{"join", founder.addr, founder.token()}
			}
			done := make(chan result, 1)
			go func() { done <- h.run(args...) }()
			l.await(seen+" is there", func() bool {
				return exists(filepath.Join(h.data, seen)) || strings.HasSuffix(seen, "ing") && exists(filepath.Join(h.data, "raft"))
			})
			h.kill()
			<-done
			h.launch()
			var r result
			l.await(h.name+" answers", func() bool { r = h.run("status"); return r.code == 0 || r.code == 36 })
			if r.code == 36 {
				t.Logf("killed when %s was there: it waits again", seen)
				h.must(args...)
			}
			if got := h.cluster(); joins != (got == founder.cluster()) {
				t.Errorf("killed when %s was there: the host is of cluster %s", seen, got)
			}
			h.kill()
		}
	}
}

// A member that lost its Raft data does not vote again under its old id; it comes back under a new one.
func TestLostRaftData(t *testing.T) {
	l := newLab(t, 3, "")
	l.voters(3)
	h, at := l.hosts[2], l.hosts[0]
	file := l.random("a", 5<<20, 2)
	at.must("publish", file, "a", "--replicas", "all")
	h.kill()
	l.check(os.RemoveAll(filepath.Join(h.data, "raft")))
	h.refusedToStart(37, "virtswarm leave --force h3")
	h.refusedToStart(29, "h3", "--join", at.addr, "--token", at.token()) // beside its old self
	h.refusedToStart(37, "")                                             // and is what it was
	at.must("leave", "--force", "h3")
	h.refusedToStart(18, "", "--join", at.addr, "--token", "vst1.x")
	h.refusedToStart(19, "127.0.0.1:1", "--join", "127.0.0.1:1", "--token", at.token())
	h.refusedToStart(37, "")
	h.join(at)
	l.voters(3)
	if got, want := h.cluster(), at.cluster(); got != want {
		t.Errorf("the host is of cluster %s, not %s", got, want)
	}
	if n := h.metric(recoveredBytes); n < 5<<20 {
		t.Errorf("the host found %v bytes in its store", n)
	}
	h.stop()
	h.start("--join", at.addr, "--token", at.token()) // a member is a member
}

// A host that was removed while it was away joins anew with a token; without one it ends, and never founds a cluster.
func TestRemovedHostJoinsAnew(t *testing.T) {
	l := newLab(t, 3, "")
	l.voters(3)
	h, at := l.hosts[2], l.hosts[0]
	was := h.status().Host
	h.kill()
	at.must("leave", "--force", "h3")
	h.refusedToStart(25, "")
	used := at.token()
	fourth := l.newHost("h4", strings.Replace(at.addr, ".1:", ".4:", 1))
	fourth.start("--join", at.addr, "--token", used)
	before := l.listing(h.data)
	h.refusedToStart(18, "", "--join", at.addr, "--token", used)
	if after := l.listing(h.data); after != before {
		t.Errorf("a failed join changed the directory:\n%s\nwas:\n%s", after, before)
	}
	h.join(at)
	l.await("h3 is a member again", func() bool { return h.status().HostsAlive == 4 })
	if now := h.status().Host; now.Name != was.Name {
		t.Errorf("the host is %q now", now.Name)
	}
	h.kill()
	h.start()
}

// listing gives the names and contents of what makes a host a member.
func (l *lab) listing(data string) string {
	l.t.Helper()
	var all []string
	l.check(filepath.WalkDir(data, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && d.Name() == "store" {
			return filepath.SkipDir
		}
		line := path
		if d.Type().IsRegular() {
			line += " " + l.sum(path)
		}
		all = append(all, line)
		return nil
	}))
	text, err := json.MarshalIndent(all, "", " ")
	l.check(err)
	return string(text)
}

// A host of a cluster of its own that is told to join another one says so and changes nothing.
func TestTokenOfAnotherClusterIsRefused(t *testing.T) {
	a, b := newLab(t, 1, ""), newLab(t, 1, "")
	h, other := a.hosts[0], b.hosts[0]
	was := h.cluster()
	h.stop()
	h.refusedToStart(25, was, "--join", other.addr, "--token", other.token())
	h.start()
	if got := h.cluster(); got != was {
		t.Errorf("the host is of cluster %s, was of %s", got, was)
	}
}

// A data directory whose file system is not mounted is not touched.
func TestUnmountedData(t *testing.T) {
	l := newLab(t, 0, "")
	h := l.newHost("h1", network()+".1:7117")
	l.write(l.config, []byte(noLibvirt+"mount: "+filepath.Join(l.dir, "disk")+"\n"))
	h.data = filepath.Join(l.dir, "disk", "data")
	h.args[7] = h.data
	h.refusedToStart(28, filepath.Join(l.dir, "disk")+" is not mounted")
	if exists(filepath.Join(l.dir, "disk")) {
		t.Error("the daemon made the directory of the mount point")
	}
	l.check(os.Mkdir(filepath.Join(l.dir, "disk"), 0o700))
	l.hosts = append(l.hosts, h)
	l.mount("tmpfs", filepath.Join(l.dir, "disk"), "size=64m")
	h.start()
}
