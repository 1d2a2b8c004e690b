package acceptance

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// strays is what the tests read of 'strays --json'.
type strays struct {
	Strays []struct {
		Host       string   `json:"host"`
		ID         string   `json:"id"`
		Names      []string `json:"names"`
		Shards     int      `json:"shards"`
		HeldShards int      `json:"held_shards"`
		Cluster    string   `json:"cluster"`
	} `json:"strays"`
	Silent []string `json:"silent"`
}

// loseCatalogue kills all hosts, moves their certificates and Raft directories away, and makes a new cluster of them.
func (l *lab) loseCatalogue() {
	l.t.Helper()
	for _, h := range l.hosts {
		h.kill()
	}
	away, err := os.MkdirTemp(l.dir, "away.")
	l.check(err)
	for _, h := range l.hosts {
		for _, dir := range []string{"raft", "pki"} {
			l.check(os.Rename(filepath.Join(h.data, dir), filepath.Join(away, h.name+"-"+dir)))
		}
	}
	l.startAll()
}

// contents is how many contents are in the store of a host.
func (h *host) contents() int {
	h.lab.t.Helper()
	list, err := filepath.Glob(filepath.Join(h.data, "store", "files", "*", "data"))
	h.lab.check(err)
	return len(list)
}

// precious publishes files of several sizes, copies and versions, and returns where the newest version of each name
// stands.
func (l *lab) precious() map[string]string {
	l.t.Helper()
	files := map[string]string{}
	for i, size := range []int64{0, 1, 300_000, 5 << 20, 150 << 20} {
		name := fmt.Sprintf("images/größe %d", size)
		files[name] = l.random(fmt.Sprintf("precious%d", i), size, byte(i+1))
		l.hosts[i%len(l.hosts)].must("publish", files[name], name, "--replicas", fmt.Sprint(i%3+1), "--guests", "tag:web")
	}
	old := l.random("old", 3<<20, 100)
	l.hosts[0].must("publish", old, "versioned")
	l.hosts[0].must("publish", files["images/größe 300000"], "versioned")
	files["versioned"] = files["images/größe 300000"]
	return files
}

// wantAll pulls every file at every host, and compares it.
func (l *lab) wantAll(files map[string]string) {
	l.t.Helper()
	for _, h := range l.hosts {
		n := 0
		for name, source := range files {
			n++
			out := l.out(fmt.Sprintf("%s-%d", h.name, n))
			h.must("pull", name, out)
			l.same(source, out)
			l.check(os.Remove(out))
		}
	}
}

// policies is what the catalogue says of each name: its versions, copies and guests.
func (l *lab) policies() map[string]string {
	l.t.Helper()
	var ls struct {
		Files []struct {
			Name     string `json:"name"`
			ID       string `json:"id"`
			Replicas int    `json:"replicas"`
			Guests   string `json:"guests"`
			Versions int    `json:"versions"`
			At       string `json:"published_at"`
		} `json:"files"`
	}
	l.hosts[0].json(&ls, "ls")
	all := map[string]string{}
	for _, f := range ls.Files {
		all[f.Name] = fmt.Sprint(f.ID, f.Replicas, f.Guests, f.Versions, f.At)
	}
	return all
}

// A new cluster that is founded over an old store keeps what is in it, also over a restart, and shows it.
func TestNewClusterKeepsTheStore(t *testing.T) {
	l := newLab(t, 1, "")
	h := l.hosts[0]
	file := l.random("f", 5<<20, 1)
	h.must("publish", file, "keep/me")
	l.loseCatalogue()
	for range 2 {
		var s strays
		h.json(&s, "strays")
		if len(s.Strays) != 1 || !slices.Equal(s.Strays[0].Names, []string{"keep/me"}) || s.Strays[0].HeldShards != s.Strays[0].Shards || s.Strays[0].Cluster == "" {
			t.Fatalf("strays are %+v", s)
		}
		if got := h.metric("virtswarm_keeper_stray_bytes"); got != 5<<20 {
			t.Errorf("%.0f bytes of strays", got)
		}
		h.kill()
		h.start()
	}
	out := l.out("f")
	h.must("adopt", "keep/me")
	h.must("pull", "keep/me", out)
	l.same(file, out)
	h.must("rm", "keep/me")
	l.await("what an operator removes goes at once", func() bool { return h.contents() == 0 })
}

// All hosts lose their catalogue. What their stores remember of it brings every file back.
func TestLostCatalogueIsAdopted(t *testing.T) {
	l := newLab(t, 3, "")
	files := l.precious()
	l.replicated(l.hosts[0])
	before := l.policies()
	l.loseCatalogue()
	var s strays
	l.hosts[1].json(&s, "strays", "--all")
	if len(s.Strays) < len(files) || len(s.Silent) > 0 {
		t.Errorf("strays are %+v", s)
	}
	if r := l.hosts[2].run("adopt", "--all"); r.code != 0 {
		t.Fatalf("adopt: %s%s", r.stdout, r.stderr)
	}
	l.wantAll(files)
	for name, want := range before {
		if got := l.policies()[name]; got != want {
			t.Errorf("%s is %s, was %s", name, got, want)
		}
	}
	if r := l.hosts[0].run("adopt", "images/größe 1"); r.code != 15 {
		t.Errorf("adopted again: exit code %d: %s", r.code, r.stderr)
	}
	s = strays{}
	l.hosts[1].json(&s, "strays", "--all")
	if len(s.Strays) != 0 {
		t.Errorf("strays are left: %+v", s)
	}
}

// The same by a catalogue that was saved before. To restore it again changes nothing, and a damaged one is refused.
func TestLostCatalogueIsRestored(t *testing.T) {
	l := newLab(t, 3, "")
	files := l.precious()
	l.replicated(l.hosts[0])
	l.hosts[0].must("distribute", "versioned", "--to", "h2,h3", "--watch")
	before := l.policies()
	saved := filepath.Join(l.dir, "catalogue")
	l.write(saved, []byte("an older one"))
	l.hosts[1].must("catalogue", "save", saved)
	if fi, err := os.Stat(saved); err != nil || fi.Mode() != 0o600 {
		t.Errorf("saved as %v, %v", fi, err)
	}
	if left, err := filepath.Glob(filepath.Join(l.dir, ".catalogue*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
	l.loseCatalogue()
	p, err := os.ReadFile(saved)
	l.check(err)
	half := filepath.Join(l.dir, "half")
	l.write(half, p[:len(p)/2])
	if r := l.hosts[0].run("catalogue", "restore", half); r.code != 22 || l.hosts[0].status().Files != 0 {
		t.Errorf("half a catalogue: exit code %d: %s", r.code, r.stderr)
	}
	l.hosts[2].must("catalogue", "restore", saved, "--dry-run")
	if n := l.hosts[2].status().Files; n != 0 {
		t.Errorf("a dry run entered %d names", n)
	}
	l.hosts[2].must("catalogue", "restore", saved)
	l.wantAll(files)
	if got := l.copies(l.hosts[0], "versioned"); got["h2"] == 0 || got["h3"] == 0 {
		t.Errorf("the order to hold is gone: %v", got)
	}
	l.hosts[0].must("catalogue", "restore", saved)
	for name, want := range before {
		if got := l.policies()[name]; got != want {
			t.Errorf("%s is %s, was %s", name, got, want)
		}
	}
}

// Strays go when their time has come, and nothing else does.
func TestStraysExpire(t *testing.T) {
	l := newLab(t, 1, "keep_strays: 1s\n")
	h := l.hosts[0]
	h.must("publish", l.random("old", 5<<20, 1), "old")
	l.loseCatalogue()
	file := l.random("new", 5<<20, 2)
	h.must("publish", file, "new")
	l.await("the stray is dropped", func() bool { return h.contents() == 1 })
	out := l.out("new")
	h.must("pull", "new", out)
	l.same(file, out)
}
