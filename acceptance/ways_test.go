package acceptance

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// line is one line of a way back, as docs/operations.md has it: what is typed at which host.
type line struct {
	host string
	args []string
}

// wayIn reads the console block behind a mark in docs/operations.md.
func wayIn(t *testing.T, name string) (lines []line) {
	t.Helper()
	p, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(p), "<!-- way: "+name+" -->\n```console\n")
	block, _, end := strings.Cut(rest, "\n```")
	if !ok || !end {
		t.Fatalf("docs/operations.md has no way %q", name)
	}
	for _, text := range strings.Split(block, "\n") {
		host, command, ok := strings.Cut(text, "# ")
		command, _, _ = strings.Cut(command, "  # ")
		if !ok || !strings.HasPrefix(host, "hv") {
			t.Fatalf("way %s: %q is no line", name, text)
		}
		lines = append(lines, line{host, strings.Fields(command)})
	}
	return lines
}

var hostName = regexp.MustCompile(`\bhv(\d)\b`)

// walk types the lines of a way at the hosts of the lab: hv1 is h1 and so on, but hv4 is the host that is named, if one
// is. Paths, addresses and tokens are the lab's.
func (l *lab) walk(way string, hv4 ...string) {
	l.t.Helper()
	ours := func(text string) string {
		if len(hv4) > 0 {
			text = strings.ReplaceAll(text, "hv4", hv4[0])
		}
		return hostName.ReplaceAllString(text, "h$1")
	}
	token := ""
	for _, ln := range wayIn(l.t, way) {
		h := l.named(ours(ln.host))
		args := make([]string, len(ln.args))
		for i, a := range ln.args {
			a = ours(a)
			if host, ok := strings.CutSuffix(a, ":7117"); ok {
				a = l.named(host).addr
			}
			a = strings.ReplaceAll(a, "/etc/virtswarm/virtswarm.yaml", l.config)
			a = strings.ReplaceAll(a, "/var/lib/virtswarm", h.data)
			a = strings.ReplaceAll(a, "/backup", l.dir)
			if strings.HasPrefix(a, "vst1.") {
				a = token
			}
			args[i] = a
		}
		if text := l.typed(h, args); strings.HasPrefix(text, "vst1.") {
			token = strings.Fields(text)[0]
		}
	}
}

// typed does one line at a host and returns what it printed.
func (l *lab) typed(h *host, args []string) string {
	l.t.Helper()
	l.t.Logf("%s# %s", h.name, strings.Join(args, " "))
	switch args[0] {
	case "systemctl":
		if args[1] == "stop" {
			if h.cmd != nil { // it may have ended by itself
				h.stop()
			}
		} else { // as systemctl: the daemon answers, whether its host has a cluster or not
			h.launch()
			l.await(h.name+" answers", func() bool { return h.run("status").code != 19 })
		}
	case "virtswarmd":
		if args[1] != "recover" {
			h.start(args[1:]...)
			return ""
		}
		if r := h.recover(args[4:]...); r.code != 0 { // behind --config FILE
			l.t.Fatalf("%v: %+v", args, r)
		}
	case "virtswarm":
		if args[1] == "health" { // it tells of those who are lost, too
			h.run(args[1:]...)
			return ""
		}
		return h.must(args[1:]...).stdout
	case "rm", "mkdir", "mv":
		l.check(l.command(args))
	default:
		l.t.Fatalf("%q cannot be typed here", args)
	}
	return ""
}

// command carries out what the ways do to directories: rm -r PATH…, mkdir DIR, mv PATH… DIR.
func (l *lab) command(args []string) error {
	switch args[0] {
	case "mkdir":
		return os.Mkdir(args[1], 0o700)
	case "mv":
		for _, from := range args[1 : len(args)-1] {
			if err := os.Rename(from, filepath.Join(args[len(args)-1], filepath.Base(from))); err != nil {
				return err
			}
		}
		return nil
	}
	for _, path := range args[2:] {
		if !exists(path) {
			l.t.Fatalf("%s is not there to be removed", path)
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

// Every way back that the manual names is walked as it stands there.

// Three of five hosts, voters, are destroyed with their disks.
func TestWayBackFromALostMajority(t *testing.T) {
	l := newLab(t, 5, "")
	l.voters(5)
	files := map[string]string{}
	for i := range 6 {
		name := "file/" + string(rune('a'+i))
		files[name] = l.random("file"+string(rune('a'+i)), 2<<20, byte(i))
		l.hosts[i%5].must("publish", files[name], name, "--replicas", "4")
	}
	l.replicated(l.hosts[0])
	for _, h := range l.hosts[:3] {
		h.destroy()
	}
	l.await("no leader is left", func() bool { return l.hosts[3].run("rm", "x").code == 20 })
	first, second := l.mostAdvanced(l.hosts[3], l.hosts[4])
	l.walk("majority", first.name)
	l.await("the other survivor follows", func() bool {
		s := second.status()
		return !s.Staleness.Stale && s.Leader != nil && s.Files == len(files)
	})
	for _, h := range l.hosts[1:3] {
		h.join(first)
	}
	l.await("five voters again", func() bool { return len(first.status().Voters) == 5 })
	l.replicated(first)
	l.intact(files)
}

// Three of five hosts are destroyed, and the Raft directories of the other two are lost; their stores and a saved
// catalogue are left.
func TestWayBackFromALostCatalogue(t *testing.T) {
	l := newLab(t, 5, "")
	l.voters(5)
	files := map[string]string{}
	publish := func(name string, seed byte) {
		files[name] = l.random(name, 3<<20, seed)
		l.hosts[0].must("publish", files[name], name, "--replicas", "4") // so that two hosts of five have all of it
	}
	publish("saved", 1)
	l.hosts[0].must("catalogue", "save", filepath.Join(l.dir, "catalogue"))
	publish("later", 2)
	l.replicated(l.hosts[0])
	for _, h := range l.hosts[2:] {
		h.destroy()
	}
	l.write(l.config, []byte("host_timeout: 3s\ngrace: 3s\nfirst_start: wait\n"+noLibvirt)) // as the package has it
	l.walk("lostcatalogue")
	for _, h := range l.hosts[2:] {
		h.join(l.hosts[0])
	}
	l.replicated(l.hosts[0])
	l.intact(files)
}

// mostAdvanced returns the one of two survivors whose log is the longer, as 'virtswarmd recover' tells it.
func (l *lab) mostAdvanced(a, b *host) (best, other *host) {
	l.t.Helper()
	a.stop()
	var r recovery
	l.check(json.Unmarshal([]byte(a.recover("--json").stdout), &r))
	a.launch() // without a majority it never gets ready
	l.await(a.name+" answers", func() bool { return a.run("status").code == 0 })
	for _, s := range r.Hosts {
		for _, own := range r.Hosts {
			if own.Self && s.Name == b.name && (s.Term > own.Term || s.Term == own.Term && s.Index > own.Index) {
				return b, a
			}
		}
	}
	return a, b
}
