package acceptance

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/placement"
)

const (
	// base is the first commit whose daemons tell versions, release 0.2.0: see RELEASING.md.
	base = "05489039f62996dcb2a3d9c9254daecd3f596bbf"
	// untold is release 0.1.0, which tells none.
	untold = "af128b6"
)

// next is the cluster version of the release after this one.
const next = placement.Newest + 1

var since = fmt.Sprintf("since:%q", fmt.Sprint(next))

// later are the edits that make the daemon under test one of a later release: it has a command and a field more, which
// the cluster may have from version next on.
var later = map[string][][2]string{
	"placement/version.go": {{fmt.Sprint("const Newest = ", placement.Newest), fmt.Sprint("const Newest = ", next)}},
	"placement/command.go": {
		{"RaiseVersion *RaiseVersion `json:\"raise_version,omitempty\"`", "RaiseVersion *RaiseVersion `json:\"raise_version,omitempty\"`\n\tRemark *Remark `json:\"remark,omitempty\" " + since + "`"},
		{"{\"raise_version\", c.RaiseVersion != nil},", "{\"raise_version\", c.RaiseVersion != nil},\n\t\t{\"remark\", c.Remark != nil},"},
		{"type Publish struct {", "type Remark struct {\n\tText string `json:\"text\"`\n}\n\ntype Publish struct {\n\tOrigin string `json:\"origin,omitempty\" " + since + "`"},
	},
	"placement/state.go": {
		{"	case c.RaiseVersion != nil:", "	case c.Remark != nil:\n\t\ts.remarks++\n\t\tr.Changed = true\n\tcase c.RaiseVersion != nil:"},
		{"	version int ", "	remarks int\n\tversion int "},
	},
	"placement/snapshot.go": {
		{"	ClusterVersion int `json:\"cluster_version,omitempty\"`", "	ClusterVersion int `json:\"cluster_version,omitempty\"`\n\tRemarks int `json:\"remarks,omitempty\"`"},
		{"s.recoveries, s.version, s.authorities}", "s.recoveries, s.version, s.remarks, s.authorities}"},
	},
	"placement/restore.go": {{"	p.s.version = h.ClusterVersion", "	p.s.version, p.s.remarks = h.ClusterVersion, h.Remarks"}},
	"hostd/control/publish.go": {
		{"	done, err := f.write(ctx, placement.Command{Publish: cmd}, cmd.Name)\n\tif err != nil {\n\t\treturn err\n\t}", strings.ReplaceAll(`	can := 0
	f.Node.View(func(s *placement.State) { can = s.Version() })
	if can >= NEXT {
		cmd.Origin = "somewhere"
	}
	done, err := f.write(ctx, placement.Command{Publish: cmd}, cmd.Name)
	if err == nil && can >= NEXT {
		_, err = f.write(ctx, placement.Command{Remark: &placement.Remark{Text: cmd.Name}}, cmd.Name)
	}
	if err != nil {
		return err
	}`, "NEXT", fmt.Sprint(next))},
	},
}

// buildLater builds the daemon under test with later's edits.
var buildLater = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(bin, "later")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	replace := map[string]string{}
	for file, edits := range later {
		product, err := filepath.Abs("../" + file)
		if err != nil {
			return "", err
		}
		p, err := os.ReadFile(product)
		if err != nil {
			return "", err
		}
		text := string(p)
		for _, e := range edits {
			if strings.Count(text, e[0]) != 1 {
				return "", fmt.Errorf("%s has %q %d times: adapt the edits", file, e[0], strings.Count(text, e[0]))
			}
			text = strings.Replace(text, e[0], e[1], 1)
		}
		replace[product] = filepath.Join(dir, strings.ReplaceAll(file, "/", "-"))
		if err := os.WriteFile(replace[product], []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600); err != nil {
		return "", err
	}
	return build("..", filepath.Join(dir, "virtswarmd"), "-overlay", filepath.Join(dir, "overlay.json"))
})

// build builds the daemon of a checkout.
func build(checkout, to string, args ...string) (string, error) {
	args = append([]string{"build", "-tags", "libvirt_dlopen", "-o", to}, args...)
	cmd := exec.Command("go", append(args, "./cmd/virtswarmd")...)
	cmd.Dir = checkout
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", to, err, out)
	}
	return to, nil
}

// buildAt builds the daemon of a commit, with arguments of go build. It needs the history of the checkout.
func buildAt(t *testing.T, commit string, args ...string) string {
	t.Helper()
	if err := exec.Command("git", "cat-file", "-e", commit+"^{commit}").Run(); err != nil {
		t.Skipf("this checkout has not the history: commit %s is missing (git fetch --unshallow)", commit)
	}
	dir := t.TempDir()
	if out, err := exec.Command("sh", "-c", "git -C .. archive "+commit+" | tar -x -C "+dir).CombinedOutput(); err != nil {
		t.Fatalf("unpack %s: %v: %s", commit, err, out)
	}
	program, err := build(dir, filepath.Join(dir, "virtswarmd"), args...)
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// clusterVersion is what a host says of it.
func (h *host) clusterVersion() int {
	h.lab.t.Helper()
	var s struct {
		Version int `json:"cluster_version"`
	}
	h.json(&s, "status")
	return s.Version
}

// become restarts a host with another daemon, and waits until it is a member that is up.
func (h *host) become(daemon string) {
	h.lab.t.Helper()
	if code := h.stop(); code != 0 {
		h.lab.t.Fatalf("%s ended with %d", h.name, code)
	}
	h.daemon = daemon
	h.start()
	h.lab.await(h.name+" is alive", func() bool {
		s := h.status() // a catalogue that is current
		return !s.Staleness.Stale && s.Host.State == "alive"
	})
}

// publishing publishes small files at hosts that run, one after another, until stop is called, which returns those that
// were acknowledged, by their sources.
func (l *lab) publishing() (stop func() map[string]string) {
	done, ended := make(chan struct{}), make(chan struct{})
	files := map[string]string{}
	go func() {
		defer close(ended)
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			case <-time.After(100 * time.Millisecond): // a load, and no storm
			}
			name := fmt.Sprintf("load/%d", i)
			source := filepath.Join(l.dir, fmt.Sprintf("load-%d", i))
			if os.WriteFile(source, fmt.Appendf(nil, "file %d of the load", i), 0o600) != nil {
				return
			}
			at := l.hosts[i%len(l.hosts)]
			if r := at.run("publish", source, name); r.code == 0 || r.code == 21 && strings.Contains(r.stdout, name) {
				files[name] = source
			}
		}
	}()
	return func() map[string]string {
		close(done)
		<-ended
		return files
	}
}

// TestUpgradeWhileItRuns: hosts of two releases live in one cluster, whichever is upgraded first and wherever the
// leader is. What only the later release can comes once all have it; until then a host may go back, and after that it
// may not.
func TestUpgradeWhileItRuns(t *testing.T) {
	old := buildAt(t, base)
	fresh, err := buildLater()
	if err != nil {
		t.Fatal(err)
	}
	for _, leaderFirst := range []bool{false, true} {
		t.Run(map[bool]string{false: "leader last", true: "leader first"}[leaderFirst], func(t *testing.T) {
			l := newLabOf(t, 3, old)
			l.voters(3)
			stop := l.publishing()
			order := l.others(l.leader(l.hosts[0]))
			if leaderFirst {
				order = append([]*host{l.leader(l.hosts[0])}, order...)
			} else {
				order = append(order, l.leader(l.hosts[0]))
			}
			for _, h := range order[:2] {
				h.become(fresh)
				l.finds(h, 1, "warning", "mixed-versions", "")
			}
			for _, h := range l.hosts {
				if v := h.clusterVersion(); v != 2 {
					t.Errorf("%s has cluster version %d although a host can only 2", h.name, v)
				}
			}
			order[0].become(old) // a release that does not please
			order[0].become(fresh)
			order[2].become(fresh)
			for _, h := range l.hosts {
				l.await("the version rises at "+h.name, func() bool { return h.clusterVersion() == next })
			}
			l.hosts[0].must("publish", l.random("last", 1000, 9), "last")
			files := stop()
			if len(files) == 0 {
				t.Fatal("nothing was published meanwhile")
			}
			l.hosts[1].must("catalogue", "save", filepath.Join(l.dir, "saved"))
			if text, err := exec.Command("zcat", filepath.Join(l.dir, "saved")).Output(); err != nil || !strings.Contains(string(text), `"remarks":`) {
				t.Errorf("the later command was not carried out: %v", err)
			}
			l.refusesToGoBack(order[1], old, fresh)
			l.wantAll(files)
		})
	}
}

// newLabOf is newLab with another daemon.
func newLabOf(t *testing.T, n int, daemon string) *lab {
	t.Helper()
	l := newLab(t, 0, "")
	net := network()
	for i := range n {
		h := l.newHost(fmt.Sprintf("h%d", i+1), fmt.Sprintf("%s.%d:7117", net, i+1))
		h.daemon = daemon
		l.hosts = append(l.hosts, h)
	}
	l.startAll()
	return l
}

// refusesToGoBack: the older daemon says what is wrong, and leaves all as it is.
func (l *lab) refusesToGoBack(h *host, old, fresh string) {
	l.t.Helper()
	h.stop()
	h.daemon = old
	h.launch()
	if code := h.wait(); code != 39 {
		l.t.Errorf("the older daemon ended with %d, want 39", code)
	}
	if text := tail(filepath.Join(l.dir, h.name+".log"), 5); !strings.Contains(text, "this virtswarm is too old") {
		l.t.Errorf("the older daemon says:\n%s", text)
	}
	h.daemon = fresh
	h.start()
}

// TestUpgradeFromTheFirstRelease: 0.1.0 tells no version, so all daemons are stopped and all are started; what they had
// is there.
func TestUpgradeFromTheFirstRelease(t *testing.T) {
	l := newLabOf(t, 3, buildAt(t, untold))
	files := map[string]string{}
	for i := range 5 {
		name := fmt.Sprintf("old/%d", i)
		files[name] = l.random(fmt.Sprintf("old-%d", i), 300<<10, byte(i))
		l.hosts[i%3].must("publish", files[name], name, "--replicas", "2")
	}
	for _, h := range l.hosts {
		h.stop()
		h.daemon = ""
	}
	for _, h := range l.hosts {
		h.launch()
	}
	for _, h := range l.hosts {
		l.await("the version rises at "+h.name, func() bool {
			return h.run("status", "--wait", "1s").code == 0 && h.clusterVersion() == placement.Newest
		})
	}
	l.hosts[2].must("publish", l.random("new", 1000, 9), "new")
	l.wantAll(files)
}
