//go:build libvirt_dlopen

package virt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"libvirt.org/go/libvirt"

	"github.com/virtswarm/virtswarm/placement"
)

// testURI is a driver inside this process; all connections of the process share its domains.
const testURI = "test:///default"

// open connects as somebody else than the watcher, until the test ends.
func open(t testing.TB, uri string) *libvirt.Connect {
	t.Helper()
	release, err := startEvents()
	if err != nil {
		t.Skipf("needs libvirt's client library (Debian's libvirt0): %v", err)
	}
	t.Cleanup(release)
	c, err := libvirt.NewConnect(uri)
	if err != nil {
		t.Fatalf("connect to %s: %v", uri, err)
	}
	t.Cleanup(func() { _, _ = c.Close() })
	return c
}

// watch runs a watcher until the test ends, or stop is called.
func watch(t testing.TB, cfg Config) (w *Watcher, stop func()) {
	t.Helper()
	if testing.Verbose() && cfg.Logger == nil {
		if _, bench := t.(*testing.B); !bench {
			cfg.Logger = hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: t.Output()})
		}
	}
	w, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(stop)
	return w, stop
}

// patience is what a test waits for a change at most; QEMU is emulated.
const patience = 30 * time.Second

// until waits for a change after which the picture is as told.
func until(t testing.TB, w *Watcher, what string, ok func(domains map[string]placement.Domain) bool) {
	t.Helper()
	late := time.After(patience)
	for {
		changed := w.Changed()
		list, known := w.Domains()
		if known && ok(byName(list)) {
			return
		}
		select {
		case <-changed:
		case <-late:
			t.Fatalf("waited %v for %s: known %v, connected %v, %+v", patience, what, known, w.Connected(), list)
		}
	}
}

func byName(list []placement.Domain) map[string]placement.Domain {
	m := map[string]placement.Domain{}
	for _, d := range list {
		m[d.Name] = d
	}
	return m
}

// untilState waits until a domain is in a state, and returns it; in none if it is gone.
func untilState(t testing.TB, w *Watcher, name string, state placement.DomainState) (d placement.Domain) {
	t.Helper()
	until(t, w, fmt.Sprintf("%s to be %q", name, state), func(domains map[string]placement.Domain) bool {
		d = domains[name]
		return d.State == state
	})
	return d
}

func untilConnected(t testing.TB, w *Watcher, want bool) {
	t.Helper()
	late := time.After(patience)
	for {
		changed := w.Changed()
		if w.Connected() == want {
			return
		}
		select {
		case <-changed:
		case <-late:
			t.Fatalf("waited %v for connected to be %v", patience, want)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// define defines a domain of the test driver until the test ends.
func define(t testing.TB, c *libvirt.Connect, name, more string) *libvirt.Domain {
	t.Helper()
	d, err := c.DomainDefineXML("<domain type='test'><name>" + name + "</name><memory>4096</memory><vcpu>2</vcpu><os><type>hvm</type></os>" + more + "</domain>")
	must(t, err)
	t.Cleanup(func() {
		_ = d.Destroy()
		_ = d.Undefine()
		_ = d.Free()
	})
	return d
}

func TestWatchFollowsADomain(t *testing.T) {
	c := open(t, testURI)
	w, _ := watch(t, Config{URI: testURI})
	untilState(t, w, "test", placement.DomainRunning) // the driver's own
	d := define(t, c, "a", "<devices><disk type='file'><source file='/images/a'/><target dev='vda'/></disk></devices>")
	got := untilState(t, w, "a", placement.DomainOff)
	uuid, err := d.GetUUIDString()
	must(t, err)
	want := placement.Domain{UUID: uuid, Name: "a", State: placement.DomainOff, Manager: placement.ManagedByLibvirt, VCPUs: 2, Memory: 4 << 20, Disks: chained([]string{"/images/a"})}
	if !got.Equal(want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	for _, step := range []struct {
		do   func() error
		want placement.DomainState
	}{
		{d.Create, placement.DomainRunning}, {d.Suspend, placement.DomainPaused}, {d.Resume, placement.DomainRunning},
		{d.Destroy, placement.DomainOff}, {d.Undefine, ""},
	} {
		must(t, step.do())
		untilState(t, w, "a", step.want)
	}
	list, _ := w.Domains()
	if !slices.IsSortedFunc(list, func(a, b placement.Domain) int { return strings.Compare(a.UUID, b.UUID) }) {
		t.Error("not sorted by UUID")
	}
}

func TestWatchKeepsThePicture(t *testing.T) {
	c := open(t, testURI)
	w, stop := watch(t, Config{URI: testURI})
	if _, known := w.Domains(); known && !w.Connected() {
		t.Error("known before it was connected")
	}
	define(t, c, "kept", "")
	untilState(t, w, "kept", placement.DomainOff)
	stop()
	if _, known := w.Domains(); !known || w.Connected() {
		t.Errorf("after the end: known %v, connected %v", known, w.Connected())
	}
	err := w.SetMetadata(t.Context(), someUUID, func(m Metadata) (Metadata, error) { return m, nil })
	if !errors.Is(err, ErrDisconnected) {
		t.Errorf("set metadata without a connection: %v", err)
	}
}

// TestReconcileFindsWhatEventsDoNotSay loses all events.
func TestReconcileFindsWhatEventsDoNotSay(t *testing.T) {
	c := open(t, testURI)
	w, _ := watch(t, Config{URI: testURI, Reconcile: 20 * time.Millisecond})
	untilState(t, w, "test", placement.DomainRunning)
	w.mu.Lock()
	s := w.session
	w.mu.Unlock()
	for _, id := range s.conn.(*libvirtConn).callbacks {
		must(t, s.conn.(*libvirtConn).DomainEventDeregister(id))
	}
	d := define(t, c, "silent", "")
	untilState(t, w, "silent", placement.DomainOff)
	must(t, d.Undefine())
	untilState(t, w, "silent", "")
}

func TestMetadata(t *testing.T) {
	c := open(t, testURI)
	r := prometheus.NewRegistry()
	w, _ := watch(t, Config{URI: testURI, Metrics: r})
	d := define(t, c, "told", "")
	uuid, err := d.GetUUIDString()
	must(t, err)
	untilState(t, w, "told", placement.DomainOff)
	tagged := func(tags ...string) {
		t.Helper()
		until(t, w, fmt.Sprintf("tags %q", tags), func(m map[string]placement.Domain) bool { return slices.Equal(m["told"].Tags, tags) })
	}
	add := func(tag string) func(Metadata) (Metadata, error) {
		return func(m Metadata) (Metadata, error) {
			m.Tags = append(m.Tags, tag)
			m.Needs = []placement.Need{{Name: "a", ID: someDigest, Path: "/a'\"<b"}}
			return m, nil
		}
	}
	must(t, w.SetMetadata(t.Context(), uuid, add("web")))
	tagged("web")
	must(t, d.Create())
	must(t, w.SetMetadata(t.Context(), uuid, add("db")))
	tagged("db", "web")
	must(t, d.Destroy())
	untilState(t, w, "told", placement.DomainOff)
	tagged("db", "web") // it was written to what is defined, too
	if got, _ := w.Domains(); byName(got)["told"].Needs[0].Path != "/a'\"<b" {
		t.Errorf("needs %+v", byName(got)["told"].Needs)
	}
	// Somebody else, with libvirt's own means.
	must(t, d.SetMetadata(libvirt.DOMAIN_METADATA_ELEMENT, "<domain><tag>else</tag></domain>", "vs", Namespace, libvirt.DOMAIN_AFFECT_CONFIG))
	tagged("else")

	must(t, d.SetMetadata(libvirt.DOMAIN_METADATA_ELEMENT, "<domain><tag>else</tag><file name='/'/></domain>", "vs", Namespace, libvirt.DOMAIN_AFFECT_CONFIG))
	tagged()
	for range 3 {
		must(t, d.Create())
		untilState(t, w, "told", placement.DomainRunning)
		must(t, d.Destroy())
		untilState(t, w, "told", placement.DomainOff)
	}
	if n := testutil.ToFloat64(w.metrics.badMetadata); n != 1 {
		t.Errorf("bad metadata counted %v times, it is one", n)
	}
	if err := w.SetMetadata(t.Context(), uuid, add("x")); !errors.Is(err, ErrBadMetadata) {
		t.Errorf("over what cannot be read: %v", err)
	}
	must(t, d.SetMetadata(libvirt.DOMAIN_METADATA_ELEMENT, "", "", Namespace, libvirt.DOMAIN_AFFECT_CONFIG))
	if err := w.SetMetadata(t.Context(), uuid, add("not valid")); !errors.Is(err, ErrBadMetadata) {
		t.Errorf("an invalid tag: %v", err)
	}
	stop := errors.New("stop")
	if err := w.SetMetadata(t.Context(), uuid, func(Metadata) (Metadata, error) { return Metadata{}, stop }); !errors.Is(err, stop) {
		t.Errorf("an error of edit: %v", err)
	}
	for _, uuid := range []string{someUUID, "told", ""} {
		if err := w.SetMetadata(t.Context(), uuid, add("x")); !errors.Is(err, ErrNoDomain) {
			t.Errorf("of %q, that is not there: %v", uuid, err)
		}
	}
	if n := testutil.ToFloat64(w.metrics.connected); n != 1 {
		t.Errorf("connected is %v", n)
	}
	if problems, err := testutil.GatherAndLint(r); err != nil || len(problems) > 0 {
		t.Errorf("metrics: %v, %v", problems, err)
	}
}

// TestSetMetadataOneAfterTheOther has many change the same metadata: none is lost.
func TestSetMetadataOneAfterTheOther(t *testing.T) {
	c := open(t, testURI)
	w, _ := watch(t, Config{URI: testURI})
	d := define(t, c, "busy", "")
	uuid, err := d.GetUUIDString()
	must(t, err)
	untilState(t, w, "busy", placement.DomainOff)
	const n = 20
	errs := make(chan error, n)
	for i := range n {
		go func() {
			errs <- w.SetMetadata(t.Context(), uuid, func(m Metadata) (Metadata, error) {
				m.Tags = append(m.Tags, fmt.Sprintf("t%d", i))
				return m, nil
			})
		}()
	}
	for range n {
		must(t, <-errs)
	}
	until(t, w, "all tags", func(m map[string]placement.Domain) bool { return len(m["busy"].Tags) == n })
}

func TestNoDaemon(t *testing.T) {
	open(t, testURI) // skips without libvirt
	w, _ := watch(t, Config{URI: "qemu+unix:///system?socket=" + t.TempDir() + "/none"})
	err := errors.New("none")
	for !strings.Contains(err.Error(), "libvirtd") { // until it has tried
		<-time.After(time.Millisecond)
		err = w.Plug(t.Context(), someUUID, "<disk/>")
	}
	if !errors.Is(err, ErrDisconnected) {
		t.Errorf("plug: %v", err)
	}
	if list, known := w.Domains(); known || list != nil || w.Connected() {
		t.Errorf("domains %v, known %v, connected %v", list, known, w.Connected())
	}
}

// TestEventLoopEnds runs watchers one after the other and at once; when the last has ended nothing of them is left.
func TestEventLoopEnds(t *testing.T) {
	open(t, testURI)
	fds := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(list)
	}
	before := 0
	for i := range 10 {
		a, stopA := watch(t, Config{URI: testURI})
		b, stopB := watch(t, Config{URI: testURI})
		untilState(t, a, "test", placement.DomainRunning)
		untilState(t, b, "test", placement.DomainRunning)
		stopA()
		stopB()
		if i == 0 {
			before = fds()
		}
	}
	if now := fds(); now > before {
		t.Errorf("%d open files, %d after the first round", now, before)
	}
	events.mu.Lock()
	defer events.mu.Unlock()
	if events.users != 1 {
		t.Errorf("%d users of the event loop, the test is the only one", events.users)
	}
}

// BenchmarkWatch has 500 domains: the time until all are known, and from a change to its being shown.
func BenchmarkWatch(b *testing.B) {
	c := open(b, testURI)
	const n = 500
	domains := make([]*libvirt.Domain, n)
	for i := range domains {
		domains[i] = define(b, c, fmt.Sprintf("d%03d", i), `<metadata><v:domain xmlns:v="urn:virtswarm:domain:1"><v:file name="images/a" path="/images/a"/><v:tag>web</v:tag></v:domain></metadata>
			<devices><disk type='file'><source file='/images/a'/><target dev='vda'/></disk><disk type='file'><source file='/images/b'/><target dev='vdb'/></disk></devices>`)
		must(b, domains[i].Create())
	}
	b.Run("reconcile", func(b *testing.B) {
		for b.Loop() {
			w, stop := watch(b, Config{URI: testURI})
			until(b, w, "all", func(m map[string]placement.Domain) bool { return len(m) == n+1 })
			stop()
		}
	})
	b.Run("event", func(b *testing.B) {
		w, stop := watch(b, Config{URI: testURI})
		untilState(b, w, "d000", placement.DomainRunning)
		for b.Loop() {
			must(b, domains[0].Suspend())
			untilState(b, w, "d000", placement.DomainPaused)
			must(b, domains[0].Resume())
			untilState(b, w, "d000", placement.DomainRunning)
		}
		stop()
	})
}
