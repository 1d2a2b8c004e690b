package acceptance

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	publishers, pullers = 3, 2
	// liveNames bounds the names of a publisher, maxFile a file in bytes.
	liveNames = 10
	maxFile   = 3 << 20
	// toolPatience bounds one call of the operator's tool.
	toolPatience = time.Minute
)

// version is one that was acknowledged.
type version struct {
	name, id, sum string
	mayBeGone     bool // its removal was asked for
}

// load publishes, removes and pulls files at all hosts, and remembers what was acknowledged.
type load struct {
	lab     *lab
	program string
	over    chan struct{}
	working sync.WaitGroup
	gate    sync.RWMutex // held for reading by whoever is at work, and for writing while nobody shall be
	paused  bool         // for who starts and pauses

	mu       sync.Mutex
	versions map[string]version // by id
	count    map[string]int
	wrong    []string
}

// newLoad makes a load that is paused.
func newLoad(l *lab, program string) *load {
	w := &load{lab: l, program: program, over: make(chan struct{}), paused: true, versions: map[string]version{}, count: map[string]int{}}
	w.gate.Lock()
	for n := range publishers {
		w.working.Go(func() { w.publish(n) })
	}
	for n := range pullers {
		w.working.Go(func() { w.pull(n) })
	}
	return w
}

func (w *load) start() {
	if w.paused {
		w.paused = false
		w.gate.Unlock()
	}
}

// pause waits until nothing is under way.
func (w *load) pause() {
	if !w.paused {
		w.gate.Lock()
		w.paused = true
	}
}

// run lets the load go on for a while, and pauses it.
func (w *load) run(d time.Duration) {
	w.start()
	after(w.lab.t, d)
	w.pause()
}

// stop ends the load.
func (w *load) stop() {
	close(w.over)
	w.start()
	w.working.Wait()
}

// tool runs the operator's tool at a host, however that ends.
func (w *load) tool(h *host, args ...string) result {
	ctx, cancel := context.WithTimeout(context.Background(), toolPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, w.program, append([]string{"--socket", h.socket}, args...)...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Run()
	code := -1
	if cmd.ProcessState != nil {
		code = cmd.ProcessState.ExitCode()
	}
	return result{stdout.String(), stderr.String(), code}
}

// turn waits until the load may work, and is false once it is over. done ends the turn.
func (w *load) turn(pause time.Duration) (done func(), ok bool) {
	select {
	case <-w.over:
		return nil, false
	case <-time.After(pause): // a load, and no storm
	}
	w.gate.RLock()
	select {
	case <-w.over:
		w.gate.RUnlock()
		return nil, false
	default:
	}
	return w.gate.RUnlock, true
}

func (w *load) counts(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count[what]++
}

// publish publishes versions of names of its own, and removes the oldest name when they are too many.
func (w *load) publish(n int) {
	rng := rand.New(rand.NewPCG(uint64(n), 0))
	var names []string
	for i := 0; ; i++ {
		done, ok := w.turn(100 * time.Millisecond)
		if !ok {
			return
		}
		at := w.lab.hosts[rng.IntN(len(w.lab.hosts))]
		name := fmt.Sprintf("soak/%d/%d", n, i)
		if len(names) > 0 && rng.IntN(3) == 0 { // one more version of a name
			name = names[len(names)-1]
		}
		if w.publishOne(at, name, fmt.Sprintf("%d-%d", n, i), rng) && !slices.Contains(names, name) {
			names = append(names, name)
		}
		if len(names) > liveNames {
			w.remove(at, names[0])
			names = names[1:]
		}
		done()
	}
}

// publishOne publishes a new file.
func (w *load) publishOne(at *host, name, file string, rng *rand.Rand) bool {
	data := make([]byte, 1+rng.IntN(maxFile))
	rand.NewChaCha8([32]byte([]byte(fmt.Sprintf("%-32s", file)))).Read(data)
	source := filepath.Join(w.lab.dir, "source-"+file)
	if err := os.WriteFile(source, data, 0o600); err != nil {
		w.counts("sources that could not be written: " + err.Error())
		return false
	}
	defer os.Remove(source)
	r := w.tool(at, "publish", source, name, "--json")
	var published struct {
		Result struct {
			ID string `json:"id"`
		} `json:"result"`
	}
	for line := range strings.Lines(r.stdout) {
		json.Unmarshal([]byte(line), &published) // the last one with a result
	}
	if r.code != 0 && r.code != 21 || published.Result.ID == "" {
		w.counts(fmt.Sprintf("publications that failed with exit code %d", r.code))
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count["versions acknowledged"]++
	w.versions[published.Result.ID] = version{name: name, id: published.Result.ID, sum: sumOf(data)}
	return true
}

func sumOf(p []byte) string {
	sum := sha256.Sum256(p)
	return hex.EncodeToString(sum[:])
}

// remove removes a name with all its versions. From the moment that this is asked for they may be gone.
func (w *load) remove(at *host, name string) {
	w.mu.Lock()
	for id, v := range w.versions {
		if v.name == name {
			v.mayBeGone = true
			w.versions[id] = v
		}
	}
	w.mu.Unlock()
	r := w.tool(at, "rm", name)
	w.counts(fmt.Sprintf("removals with exit code %d", r.code))
	if r.code == 0 {
		w.mu.Lock()
		defer w.mu.Unlock()
		maps.DeleteFunc(w.versions, func(_ string, v version) bool { return v.name == name })
	}
}

// pull pulls versions at random hosts, and compares them.
func (w *load) pull(n int) {
	rng := rand.New(rand.NewPCG(uint64(n), 1))
	for i := 0; ; i++ {
		done, ok := w.turn(100 * time.Millisecond)
		if !ok {
			return
		}
		w.mu.Lock()
		ids := slices.Sorted(maps.Keys(w.versions))
		var v version
		if len(ids) > 0 {
			v = w.versions[ids[rng.IntN(len(ids))]]
		}
		w.mu.Unlock()
		if v.id != "" {
			at := w.lab.hosts[rng.IntN(len(w.lab.hosts))]
			if r := w.pullOne(at, v, fmt.Sprintf("%d-%d", n, i)); r.code != 0 {
				w.counts(fmt.Sprintf("pulls that failed with exit code %d", r.code))
			}
		}
		done()
	}
}

// pullOne pulls a version and compares it, if it comes.
func (w *load) pullOne(at *host, v version, file string) result {
	out := w.lab.out(file)
	r := w.tool(at, "pull", v.name+"@"+v.id, out)
	p, err := os.ReadFile(out)
	if r.code == 0 && (err != nil || sumOf(p) != v.sum) || r.code != 0 && err == nil && sumOf(p) != v.sum {
		w.mu.Lock()
		w.wrong = append(w.wrong, fmt.Sprintf("%s@%s pulled at %s: %d bytes, %v", v.name, v.id, at.name, len(p), err))
		w.mu.Unlock()
	}
	if r.code == 0 {
		w.counts("pulls compared")
	}
	os.Remove(out)
	return r
}

// tell logs the figures.
func (w *load) tell(t *testing.T) {
	for _, what := range sorted(w.count) {
		t.Logf("%6d %s", w.count[what], what)
	}
	for _, text := range w.wrong {
		t.Errorf("wrong bytes: %s", text)
	}
	t.Logf("%6d pulls with wrong bytes", len(w.wrong))
}

func sorted(m map[string]int) []string { return slices.Sorted(maps.Keys(m)) }
