package placement

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func domainNumbered(n int) Domain {
	return Domain{
		UUID: fmt.Sprintf("%08x-0000-4000-8000-000000000000", n), Name: fmt.Sprintf("vm%d", n), State: DomainRunning,
		Manager: ManagedByLibvirt, VCPUs: 2, Memory: 1 << 30,
		Disks: []Disk{{Target: "vda", Chain: []string{"/images/vm.qcow2", "/images/base.raw"}}},
		Needs: []Need{{Name: "images/base.raw", Path: "/images/base.raw"}},
	}
}

func drawTags(t *rapid.T) (tags []string) {
	for _, tag := range []string{"db", "web"} {
		if rapid.Bool().Draw(t, tag) {
			tags = append(tags, tag)
		}
	}
	return tags
}

// drawDomains draws a report on few domains, so that hosts contend for them.
func drawDomains(t *rapid.T, host HostID) *ReportDomains {
	r := &ReportDomains{Host: host, Seq: uint64(rapid.IntRange(1, 30).Draw(t, "seq"))}
	for i := 1; i <= 3; i++ {
		switch rapid.IntRange(0, 3).Draw(t, "says") {
		case 0, 1:
			d := domainNumbered(i)
			d.State = rapid.SampledFrom([]DomainState{DomainRunning, DomainPaused, DomainMigrating, DomainOff, DomainCrashed}).Draw(t, "state")
			d.Tags = drawTags(t)
			r.Domains = append(r.Domains, d)
		case 2:
			r.Gone = append(r.Gone, domainNumbered(i).UUID)
		}
	}
	return r
}

// checkDomains checks what holds of domains at every index.
func checkDomains(t *rapid.T, s *State) {
	claims := 0
	tags := map[string][]HostID{}
	for _, v := range s.Domains() {
		d := s.domains[v.UUID]
		claims += len(d.claims)
		if again := s.view(d.claims); !again.same(v) || v.Changed > s.applied || len(v.Others) != len(d.claims)-1 {
			t.Fatalf("domain %s is seen as %+v, derived %+v", v.UUID, v, again)
		}
		c, ok := d.claimOf(v.Host)
		if !ok || v.State != c.Domain.State && v.State != DomainUnknown {
			t.Fatalf("domain %+v is on a host that says %+v", v, c)
		}
		for _, o := range d.claims { // nobody who is up and runs it is passed over for one who does not
			runs := o.Domain.State == DomainRunning && s.hosts[o.Host].State.Serves()
			if runs && (v.State != DomainRunning && v.State != DomainPaused || v.Since < o.Since) {
				t.Fatalf("domain %+v, but host %s runs it", v, o.Host)
			}
		}
		if v.State.Active() || v.State == DomainUnknown {
			for _, tag := range v.Tags {
				tags[tag] = append(tags[tag], v.Host)
			}
		}
	}
	for _, h := range s.Hosts() {
		claims -= len(s.ClaimedBy(h.ID))
	}
	if claims != 0 {
		t.Fatalf("%d claims of nobody", claims)
	}
	for _, c := range s.contents {
		var want []HostID
		for _, tag := range c.targets.Tags {
			want = append(want, tags[tag]...)
		}
		if want = union(want, nil); !slices.Equal(want, c.follows) {
			t.Fatalf("content %s of tags %v follows %v, not %v", c.id.Short(), c.targets.Tags, c.follows, want)
		}
	}
}

// teller reports the domains of a host, with numbers that grow.
type teller struct {
	w    *world
	t    *testing.T
	host int
	seq  uint64
}

func (x *teller) say(state DomainState, spoil ...func(*Domain)) {
	x.t.Helper()
	d := domainNumbered(1)
	d.State = state
	for _, f := range spoil {
		f(&d)
	}
	x.seq++
	x.w.do(x.t, Command{ReportDomains: &ReportDomains{Host: hostID(x.host), Seq: x.seq, Domains: []Domain{d}}})
}

func (x *teller) gone() {
	x.t.Helper()
	x.seq++
	x.w.do(x.t, Command{ReportDomains: &ReportDomains{Host: hostID(x.host), Seq: x.seq, Gone: []string{domainNumbered(1).UUID}}})
}

// is checks where the domain is, and how.
func (w *world) is(t *testing.T, host int, state DomainState, split bool) {
	t.Helper()
	v, ok := w.Domain(domainNumbered(1).UUID)
	if !ok || v.Host != hostID(host) || v.State != state || v.Split != split {
		t.Errorf("on %s: %s (known: %v, split: %v), want host %d: %s, split: %v", v.Host, v.State, ok, v.Split, host, state, split)
	}
}

func tellers(t *testing.T, w *world) (a, b *teller) {
	return &teller{w: w, t: t, host: 1}, &teller{w: w, t: t, host: 2}
}

// TestMigration: the domain is at its source until it runs at its destination, however the reports cross.
func TestMigration(t *testing.T) {
	w := newWorld(t, 2)
	a, b := tellers(t, w)
	a.say(DomainRunning)
	b.say(DomainMigrating)
	w.is(t, 1, DomainRunning, false)
	a.say(DomainMigrating) // the last pages go
	w.is(t, 1, DomainMigrating, false)
	b.say(DomainRunning)
	w.is(t, 2, DomainRunning, false)
	a.gone()
	w.is(t, 2, DomainRunning, false)

	// And back: the source's last words come before and after; then it is only defined there.
	a.say(DomainMigrating)
	w.is(t, 2, DomainRunning, false)
	a.say(DomainRunning)
	w.is(t, 1, DomainRunning, true) // host 2 has not said yet that it is over
	b.say(DomainOff)
	w.is(t, 1, DomainRunning, false)
}

// TestMigrationFails: it stays where it was.
func TestMigrationFails(t *testing.T) {
	w := newWorld(t, 2)
	a, b := tellers(t, w)
	a.say(DomainRunning)
	b.say(DomainMigrating)
	a.say(DomainMigrating)
	b.gone()
	w.is(t, 1, DomainMigrating, false)
	a.say(DomainRunning)
	w.is(t, 1, DomainRunning, false)
}

// TestPausedMigration: a paused domain looks the same on both sides until the one that it came from notices.
func TestPausedMigration(t *testing.T) {
	w := newWorld(t, 2)
	a, b := tellers(t, w)
	migrates := func(way string) func(*Domain) { return func(d *Domain) { d.Migration = way } }
	a.say(DomainPaused)
	a.say(DomainPaused, migrates(MigratingOut))
	b.say(DomainMigrating, migrates(MigratingIn))
	w.is(t, 1, DomainPaused, false)
	b.say(DomainPaused)
	w.is(t, 2, DomainPaused, false)
	a.say(DomainPaused) // it did not go
	w.is(t, 2, DomainPaused, true)
	a.say(DomainOff)
	w.is(t, 2, DomainPaused, false)
}

// TestSplitView: two hosts run the same domain; the newest proof wins, and it is said.
func TestSplitView(t *testing.T) {
	w := newWorld(t, 2)
	a, b := tellers(t, w)
	a.say(DomainRunning)
	state := func(host int, to HostState) {
		w.do(t, Command{SetHostState: &SetHostState{ID: hostID(host), To: to, Now: 1}})
	}
	state(1, Down)
	w.is(t, 1, DomainUnknown, false)
	b.say(DomainOff) // defined elsewhere is no proof
	w.is(t, 1, DomainUnknown, false)
	b.say(DomainRunning) // started elsewhere is
	w.is(t, 2, DomainRunning, false)
	state(1, Alive)
	w.is(t, 2, DomainRunning, true)
	if n := w.SplitDomains(); n != 1 {
		t.Errorf("%d domains are split", n)
	}
	a.say(DomainRunning, func(d *Domain) { d.VCPUs = 4 }) // the same run, not a newer one
	w.is(t, 2, DomainRunning, true)
	a.say(DomainCrashed)
	w.is(t, 2, DomainRunning, false)
	w.do(t, Command{RemoveHost: &RemoveHost{ID: hostID(2)}})
	w.is(t, 1, DomainCrashed, false)
	a.gone()
	if list := w.Domains(); len(list) != 0 {
		t.Errorf("left: %+v", list)
	}
}

// TestLateReports: a report that was overtaken changes nothing.
func TestLateReports(t *testing.T) {
	w := newWorld(t, 1)
	a, _ := tellers(t, w)
	a.say(DomainRunning)
	late := Command{ReportDomains: &ReportDomains{Host: hostID(1), Seq: 2, Domains: []Domain{domainNumbered(1)}}}
	a.seq = 5
	a.say(DomainOff)
	w.again(t, late)
	w.is(t, 1, DomainOff, false)
	w.refuse(t, Command{ReportDomains: &ReportDomains{Host: hostID(7), Seq: 1}}, ErrNoHost)
}

// TestDomainEvents: a watcher hears each change once and in order, and is told when it has missed some.
func TestDomainEvents(t *testing.T) {
	w := newWorld(t, 2)
	a, b := tellers(t, w)
	at := w.Applied()
	a.say(DomainRunning)
	a.say(DomainRunning) // no change
	b.say(DomainMigrating)
	b.say(DomainRunning)
	a.gone()
	w.do(t, Command{SetHostState: &SetHostState{ID: hostID(2), To: Down, Now: 1}})
	b.gone()
	var story []string
	events, ok := w.DomainEvents(at)
	for _, e := range events {
		story = append(story, fmt.Sprintf("%s@%s others:%d gone:%v", e.View.State, e.View.Host[31:], len(e.View.Others), e.Gone))
	}
	want := "running@1 others:0 gone:false, running@1 others:1 gone:false, running@2 others:1 gone:false, " +
		"running@2 others:0 gone:false, unknown@2 others:0 gone:false, unknown@2 others:0 gone:true"
	if got := strings.Join(story, ", "); !ok || got != want {
		t.Errorf("heard: %s\nwant:  %s", got, want)
	}
	for range 2 * maxEvents {
		a.say(DomainRunning)
		a.say(DomainPaused)
	}
	if _, ok := w.DomainEvents(at); ok {
		t.Error("forgotten events are not missed")
	}
	now := w.Applied()
	a.gone()
	if events, ok := w.DomainEvents(now); !ok || len(events) != 1 || len(w.domainLog.events) > 2*maxEvents {
		t.Errorf("%d events, %v; %d kept", len(events), ok, len(w.domainLog.events))
	}
}

// TestTagsAreFollowed: what is wanted where domains of a tag run is wanted where they run now.
func TestTagsAreFollowed(t *testing.T) {
	w := newWorld(t, 3)
	a, b := tellers(t, w)
	web := func(d *Domain) { d.Tags = []string{"web"} }
	w.do(t, publishing("a", 1, 10, 1, 3))
	order := Command{Distribute: &Distribute{Name: "a", Tags: []string{"web"}}}
	w.do(t, order)
	w.again(t, order)
	follows := func(hosts ...int) {
		t.Helper()
		c, _ := w.Content(digest(1))
		var want []HostID
		for _, h := range hosts {
			want = append(want, hostID(h))
		}
		if !slices.Equal(c.Follows, want) {
			t.Errorf("follows %v, want %v", c.Follows, want)
		}
		for _, h := range want {
			if !w.HomeShards(h, digest(1)).All() {
				t.Errorf("host %s need not hold it", h)
			}
		}
		if r, _ := w.Replication(digest(1)); r.Targets != len(hosts) {
			t.Errorf("%d targets", r.Targets)
		}
	}
	follows()
	a.say(DomainRunning)
	follows()
	a.say(DomainRunning, web)
	follows(1)
	b.say(DomainMigrating, web)
	follows(1)
	at := w.Applied()
	b.say(DomainRunning, web)
	follows(2)
	if c := w.ChangedSince(at); len(c.Contents) != 1 {
		t.Error("hosts are not told that their duties changed")
	}
	b.say(DomainOff, web)
	a.gone()
	follows()
	w.do(t, Command{Unpin: &Unpin{Name: "a", Tags: []string{"web"}}})
	b.say(DomainRunning, web)
	follows()
}

func TestDomainsAreValidated(t *testing.T) {
	for what, spoil := range map[string]func(*Domain){
		"uuid":        func(d *Domain) { d.UUID = strings.ToUpper("abcdefab-0000-4000-8000-000000000000") },
		"short uuid":  func(d *Domain) { d.UUID = "1" },
		"name":        func(d *Domain) { d.Name = "a\nb" },
		"state":       func(d *Domain) { d.State = DomainUnknown },
		"manager":     func(d *Domain) { d.Manager = "me" },
		"migration":   func(d *Domain) { d.Migration = "up" },
		"memory":      func(d *Domain) { d.Memory = -1 },
		"disks":       func(d *Domain) { d.Disks = make([]Disk, MaxDisks+1) },
		"disk":        func(d *Domain) { d.Disks[0].Target = "" },
		"chain":       func(d *Domain) { d.Disks[0].Chain = make([]string, MaxChain+1) },
		"image":       func(d *Domain) { d.Disks[0].Chain[0] = strings.Repeat("x", MaxPath+1) },
		"needs":       func(d *Domain) { d.Needs = make([]Need, MaxNeeds+1) },
		"need":        func(d *Domain) { d.Needs[0].Name = "../x" },
		"path":        func(d *Domain) { d.Needs[0].Path = "relative" },
		"digest":      func(d *Domain) { d.Needs[0].ID = strings.Repeat("x", MaxLabel+1) },
		"tag":         func(d *Domain) { d.Tags = []string{"a b"} },
		"no tag":      func(d *Domain) { d.Tags = []string{""} },
		"long tag":    func(d *Domain) { d.Tags = []string{strings.Repeat("x", MaxTag+1)} },
		"tag order":   func(d *Domain) { d.Tags = []string{"b", "a"} },
		"equal tags":  func(d *Domain) { d.Tags = []string{"a", "a"} },
		"many of tag": func(d *Domain) { d.Tags = make([]string, MaxTags+1) },
	} {
		d := domainNumbered(1)
		if err := d.Validate(); err != nil {
			t.Fatal(err)
		}
		spoil(&d)
		c := Command{ReportDomains: &ReportDomains{Host: hostID(1), Seq: 1, Domains: []Domain{d}}}
		err := c.Validate()
		if !errors.Is(err, ErrInvalidDomain) && !errors.Is(err, ErrInvalidName) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, r := range map[string]ReportDomains{
		"no number":  {Host: hostID(1)},
		"twice":      {Host: hostID(1), Seq: 1, Domains: []Domain{domainNumbered(1), domainNumbered(1)}},
		"both":       {Host: hostID(1), Seq: 1, Domains: []Domain{domainNumbered(1)}, Gone: []string{domainNumbered(1).UUID}},
		"gone twice": {Host: hostID(1), Seq: 1, Gone: []string{"a", "a"}},
	} {
		if err := r.validate(); !errors.Is(err, ErrBadCommand) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestSilentDomainIsUnknown: it stays where it is, and nobody says that it runs.
func TestSilentDomainIsUnknown(t *testing.T) {
	w := &world{State: New()}
	host := hostNumbered(1)
	host.Version = Newest
	w.do(t, Command{InitCluster: &InitCluster{ID: "c", Host: host, Now: 1}})
	d := Domain{UUID: "a1330000-0000-4000-8000-000000000001", Name: "web", State: DomainRunning, Manager: ManagedByQMP}
	for seq, silent := range []bool{false, true, false} {
		d.Silent = silent
		w.do(t, Command{ReportDomains: &ReportDomains{Host: hostID(1), Seq: uint64(seq + 1), Domains: []Domain{d}}})
		want := DomainRunning
		if silent {
			want = DomainUnknown
		}
		if v, ok := w.Domain(d.UUID); !ok || v.State != want || v.Host != hostID(1) {
			t.Errorf("silent %v: it is %s", silent, v.State)
		}
	}
}
