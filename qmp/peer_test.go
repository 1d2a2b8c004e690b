package qmp

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

// greeting is QEMU 7.2's.
const greeting = `{"QMP": {"version": {"qemu": {"micro": 15, "minor": 2, "major": 7}, "package": "Debian 1:7.2"}, "capabilities": ["oob"]}}` + "\r\n"

// patience is how long a test waits for what must come.
const patience = 60 * time.Second

// quick are times for tests in which every peer answers, be the machine ever so busy.
func quick() times {
	t := usual
	t.line, t.gap, t.settle, t.retryMin, t.retryMax = 50*time.Millisecond, time.Millisecond, time.Millisecond, 5*time.Millisecond, 100*time.Millisecond
	t.refresh, t.rescan = 200*time.Millisecond, 200*time.Millisecond
	return t
}

// journal is a log to wait for.
type journal struct {
	mu    sync.Mutex
	text  bytes.Buffer
	wrote chan struct{}
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	close(j.wrote)
	j.wrote = make(chan struct{})
	return j.text.Write(p)
}

// lines returns those that have all of the words.
func (j *journal) lines(words ...string) (found []string, wrote <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
next:
	for line := range strings.Lines(j.text.String()) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue next
			}
		}
		found = append(found, line)
	}
	return found, j.wrote
}

func (j *journal) await(t *testing.T, words ...string) {
	t.Helper()
	for timeout := time.After(patience); ; {
		found, wrote := j.lines(words...)
		if len(found) > 0 {
			return
		}
		select {
		case <-wrote:
		case <-timeout:
			t.Fatalf("the log never said %q:\n%s", words, j.text.String())
		}
	}
}

// watch runs a Watcher until the test ends.
func watch(t *testing.T, limits times, cfg Config) (*Watcher, *journal) {
	t.Helper()
	j := &journal{wrote: make(chan struct{})}
	cfg.Logger = hclog.New(&hclog.LoggerOptions{Output: j, Level: hclog.Debug})
	w := New(cfg)
	w.times = limits
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(patience):
			t.Error("Run does not return")
		}
	})
	return w, j
}

// await waits for a picture.
func await(t *testing.T, w *Watcher, what string, ok func([]Guest) bool) []Guest {
	t.Helper()
	for timeout := time.After(patience); ; {
		changed := w.Changed()
		guests := w.Guests()
		if ok(guests) {
			return guests
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("no picture with %s; the last is %+v", what, guests)
		}
	}
}

func count(n int) func([]Guest) bool { return func(g []Guest) bool { return len(g) == n } }

// serve listens on a socket and hands each connection, which it closes afterwards, to a script.
func serve(t *testing.T, path string, script func(net.Conn)) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer c.Close()
				defer context.AfterFunc(ctx, func() { c.Close() })()
				script(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		cancel()
		running.Wait()
	})
	return l
}

// scripted is a peer that answers commands as it is told to: by name, and path where the command has one. What is not
// listed it does not know.
type scripted map[string]string

// honest tells of a guest with a vsock.
func honest(uuid string) scripted {
	return scripted{
		"query-status":               `{"status": "running", "singlestep": false, "running": true}`,
		"query-uuid":                 `{"UUID": "` + uuid + `"}`,
		"query-name":                 `{"name": "web"}`,
		"query-memory-size-summary":  `{"base-memory": 1073741824, "plugged-memory": 1048576}`,
		"query-cpus-fast":            `[{"cpu-index": 0}, {"cpu-index": 1}]`,
		"query-block":                `[]`,
		"qom-list " + peripheral:     `[{"name": "type", "type": "string"}, {"name": "v0", "type": "child<vhost-user-vsock-pci>"}]`,
		"qom-list " + peripheralAnon: `[{"name": "device[0]", "type": "child<vhost-vsock-pci>"}]`,
		"qom-get /machine/peripheral-anon/device[0]": `7`,
	}
}

func (s scripted) run(c net.Conn) {
	fmt.Fprint(c, greeting)
	s.answer(c)
}

func (s scripted) answer(c net.Conn) {
	dec := json.NewDecoder(c)
	for {
		var cmd struct {
			Execute   string
			Arguments struct{ Path string }
			ID        int
		}
		if dec.Decode(&cmd) != nil {
			return
		}
		reply := fmt.Sprintf(`{"id": %d, "error": {"class": "CommandNotFound", "desc": "%s is not known"}}`, cmd.ID, cmd.Execute)
		if cmd.Execute == "qmp_capabilities" {
			reply = fmt.Sprintf(`{"return": {}, "id": %d}`, cmd.ID)
		} else if v, ok := s[strings.TrimSpace(cmd.Execute+" "+cmd.Arguments.Path)]; ok {
			reply = fmt.Sprintf(`{"return": %s, "id": %d}`, v, cmd.ID)
		}
		if _, err := c.Write([]byte(reply + "\r\n")); err != nil {
			return
		}
	}
}

const someUUID = "6b1e1d9a-0c8f-4bd0-9f2e-6a2b6c1f0a01"

// TestGuest looks at a guest of whom a peer tells.
func TestGuest(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.qmp")
	serve(t, path, honest(strings.ToUpper(someUUID)).run)
	serve(t, filepath.Join(dir, "other"), func(net.Conn) { t.Error("a socket of another name was connected to") })
	w, _ := watch(t, quick(), Config{Paths: []string{dir}})
	got := await(t, w, "one guest", count(1))[0]
	want := Guest{Socket: path, UUID: someUUID, Name: "web", Status: "running", VCPUs: 2, Memory: 1<<30 + 1<<20, CID: 7}
	if !got.Equal(want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

// TestPoorGuest: a QEMU that tells nothing but its status, and what takes the place of the rest.
func TestPoorGuest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "web-1.sock")
	serve(t, path, scripted{"query-status": `{"status": "preconfig"}`}.run)
	a, _ := watch(t, quick(), Config{Paths: []string{path}, Host: "h1"})
	got := await(t, a, "one guest", count(1))[0]
	if want := (Guest{Socket: path, UUID: nameUUID("unix://h1" + path), Name: "web-1", Status: "preconfig"}); !got.Equal(want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestNameUUID(t *testing.T) {
	// As Python's uuid.uuid5(uuid.NAMESPACE_URL, …) says.
	if got := nameUUID("http://www.python.org/"); got != "c2a8cbf8-d0f1-5ef4-9740-c3faec8ab1a0" {
		t.Error(got)
	}
	for _, bad := range []string{"", "x", noUUID + "0", strings.ReplaceAll(someUUID, "-", ""), strings.Replace(someUUID, "6", "g", 1), "-" + noUUID[:35]} {
		if id, err := parseUUID(bad); err == nil {
			t.Errorf("%q: %s", bad, id)
		}
	}
}

// TestOneUUID: of two processes that claim one UUID the picture has the one that does not wait for the other's memory.
func TestOneUUID(t *testing.T) {
	dir := t.TempDir()
	first, second := honest(someUUID), honest(someUUID)
	first["query-status"] = `{"status": "inmigrate"}`
	serve(t, filepath.Join(dir, "1.qmp"), first.run)
	w, _ := watch(t, quick(), Config{Paths: []string{dir}})
	await(t, w, "the first", func(g []Guest) bool { return len(g) == 1 && g[0].Status == "inmigrate" })
	l := serve(t, filepath.Join(dir, "2.qmp"), second.run)
	await(t, w, "the second", func(g []Guest) bool { return len(g) == 1 && g[0].Status == "running" })
	l.Close()
}

// TestSocketComesAndGoes: a path that does not exist yet, a listener that appears there twice, a file that nobody
// serves.
func TestSocketComesAndGoes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.qmp")
	w, _ := watch(t, quick(), Config{Paths: []string{path}})
	for range 2 {
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(true)
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			honest(someUUID).run(c)
		}()
		await(t, w, "one guest", count(1))
		l.Close()
		c.Close()
		<-done
		await(t, w, "no guest", count(0))
	}
}

// TestPaths: a directory that is made later, and a path that is neither a socket nor a directory.
func TestPaths(t *testing.T) {
	root := t.TempDir()
	dir, file := filepath.Join(root, "later"), filepath.Join(root, "a.qmp")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	limits := quick()
	limits.rescan = time.Hour // the file system tells
	w, log := watch(t, limits, Config{Paths: []string{dir, file}})
	log.await(t, "WARN", "neither", file)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	serve(t, filepath.Join(dir, "web.sock"), honest(someUUID).run)
	await(t, w, "one guest", count(1))
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	serve(t, file, honest(strings.Replace(someUUID, "6", "7", 1)).run)
	await(t, w, "two guests", count(2))
	if found, _ := log.lines("WARN"); len(found) != 1 {
		t.Errorf("warnings: %q", found)
	}
}
