package placement

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/virtswarm/virtswarm/internal/content"
)

func TestNothingBeforeInit(t *testing.T) {
	w := &world{State: New()}
	for _, c := range sample()[1:] {
		w.refuse(t, c, ErrNotInitialised)
	}
	w.do(t, sample()[0])
	w.again(t, sample()[0])
	w.refuse(t, Command{InitCluster: &InitCluster{ID: "other", Host: hostNumbered(1)}}, ErrOtherCluster)
	if w.ClusterID() != "c1" {
		t.Errorf("cluster %q", w.ClusterID())
	}
	if _, err := w.Apply(w.Applied(), sample()[0]); !isErr(err, ErrBadCommand) {
		t.Errorf("an index twice: %v", err)
	}
}

func TestHostsComeAndGo(t *testing.T) {
	w := newWorld(t, 3)
	h, ok := w.HostByName("host2")
	if !ok || h.ID != hostID(2) || h.State != Alive || h.Weight != DefaultWeight || h.Joined == 0 || h.JoinAt != 100 {
		t.Fatalf("host2: %+v, %v", h, ok)
	}
	if byID, ok := w.HostByName(string(hostID(2))); !ok || byID.Name != "host2" {
		t.Errorf("by id: %+v, %v", byID, ok)
	}

	add := Command{AddHost: &AddHost{Host: hostNumbered(4), TokenID: tokenID(4), Now: 100}}
	w.refuse(t, add, ErrTokenUnknown)
	token := Command{CreateToken: &CreateToken{ID: tokenID(4), Hash: strings.Repeat("4", 64), Expires: 200, Now: 100}}
	w.do(t, token)
	w.again(t, token)
	other := token
	other.CreateToken = &CreateToken{ID: tokenID(4), Hash: strings.Repeat("5", 64), Expires: 200, Now: 100}
	w.refuse(t, other, ErrBadCommand)
	late := Command{AddHost: &AddHost{Host: hostNumbered(4), TokenID: tokenID(4), Now: 200}}
	w.refuse(t, late, ErrTokenExpired)
	taken := Command{AddHost: &AddHost{Host: hostNumbered(4), TokenID: tokenID(4), Now: 100}}
	taken.AddHost.Host.Name = "host1"
	w.refuse(t, taken, ErrNameTaken)
	w.do(t, add)
	w.again(t, add)
	w.refuse(t, Command{AddHost: &AddHost{Host: hostNumbered(5), TokenID: tokenID(4), Now: 100}}, ErrTokenUsed)
	if tok, _ := w.Token(tokenID(4)); tok.UsedBy != hostID(4) {
		t.Errorf("token: %+v", tok)
	}

	update := Command{UpdateHost: &UpdateHost{ID: hostID(4), Name: "four", Addr: "four:1", Weight: 50, Labels: map[string]string{"rack": "r1"}}}
	w.do(t, update)
	w.again(t, update)
	if h, _ := w.HostByName("four"); h.Addr != "four:1" || h.Weight != 50 || h.Labels["rack"] != "r1" {
		t.Errorf("updated: %+v", h)
	}
	if _, ok := w.HostByName("host4"); ok {
		t.Error("the old name is still known")
	}
	w.do(t, Command{UpdateHost: &UpdateHost{ID: hostID(4), Labels: map[string]string{}}})
	if h, _ := w.Host(hostID(4)); len(h.Labels) != 0 || h.Weight != 50 {
		t.Errorf("labels not removed, or more than that: %+v", h)
	}
	w.refuse(t, Command{UpdateHost: &UpdateHost{ID: hostID(4), Name: "host1"}}, ErrNameTaken)
	w.refuse(t, Command{UpdateHost: &UpdateHost{ID: hostID(9), Name: "nine"}}, ErrNoHost)

	remove := Command{RemoveHost: &RemoveHost{ID: hostID(4)}}
	w.do(t, remove)
	w.refuse(t, remove, ErrNoHost)
	if !remove.Settled(ErrNoHost) || remove.Settled(ErrLastHost) {
		t.Error("a repeated removal is not taken for done")
	}
	if !w.WasRemoved(hostID(4)) || w.WasRemoved(hostID(3)) || w.WasRemoved(hostID(9)) {
		t.Error("removals are not remembered")
	}
	w.do(t, Command{CreateToken: &CreateToken{ID: tokenID(40), Hash: strings.Repeat("4", 64), Expires: 300, Now: 210}})
	if _, ok := w.Token(tokenID(4)); ok {
		t.Error("an expired token is not forgotten")
	}
	w.do(t, Command{AddHost: &AddHost{Host: hostNumbered(4), TokenID: tokenID(40), Now: 220}})
	if w.WasRemoved(hostID(4)) {
		t.Error("a host that is back counts as removed")
	}
	for n := 4; n > 1; n-- {
		w.do(t, Command{RemoveHost: &RemoveHost{ID: hostID(n)}})
	}
	w.refuse(t, Command{RemoveHost: &RemoveHost{ID: hostID(1)}}, ErrLastHost)
}

func TestHostStates(t *testing.T) {
	w := newWorld(t, 2)
	set := func(from, to HostState) Command {
		return Command{SetHostState: &SetHostState{ID: hostID(2), From: from, To: to, Now: 500}}
	}
	w.do(t, set(Alive, Down))
	w.again(t, set(Alive, Down))
	if h, _ := w.Host(hostID(2)); h.State != Down || h.Since != w.next-1 || h.At != 500 {
		t.Errorf("down: %+v", h)
	}
	w.do(t, set("", Leaving))
	w.again(t, set(Alive, Down)) // the leader does not overrule the operator
	w.again(t, set(Down, Alive))
	w.do(t, set("", Alive))
	w.refuse(t, set("", "sleepy"), ErrBadCommand)
	w.refuse(t, Command{SetHostState: &SetHostState{ID: hostID(9), To: Down}}, ErrNoHost)
}

func TestVersions(t *testing.T) {
	w := newWorld(t, 2)
	v1, v2 := publishing("img", 1, 2, 2, 1), publishing("img", 2, 3, 1, 1)
	v2.Publish.At = 200
	w.refuse(t, publishing("img", 1, 2, 2, 9), ErrNoHost)
	w.do(t, v1)
	w.again(t, v1)
	w.do(t, v2)
	w.again(t, v2)
	w.again(t, v1) // the first attempt's answer was lost; a newer version must stay the newest
	f, ok := w.File("img")
	if !ok || len(f.Versions) != 2 || f.Newest().ID != digest(2) || f.Newest().Guests != "none" {
		t.Fatalf("file: %+v, %v", f, ok)
	}
	back := publishing("img", 1, 2, 2, 1)
	back.Publish.At = 300 // a new publish of the old content
	w.do(t, back)
	if v, err := w.Lookup("img", content.Digest{}); err != nil || v.ID != digest(1) || v.At != 300 {
		t.Errorf("newest: %+v, %v", v, err)
	}
	if v, err := w.Lookup("img", digest(2)); err != nil || v.Size != 3*content.ShardSize {
		t.Errorf("second: %+v, %v", v, err)
	}
	if _, err := w.Lookup("img", digest(3)); !isErr(err, ErrNoFile) {
		t.Errorf("unknown version: %v", err)
	}
	if _, err := w.Lookup("other", content.Digest{}); !isErr(err, ErrNoFile) {
		t.Errorf("unknown name: %v", err)
	}

	policy := back
	policy.Publish = &Publish{}
	*policy.Publish = *back.Publish
	policy.Publish.Replicas, policy.Publish.Guests = 0, "all"
	w.do(t, policy)
	if f, _ := w.File("img"); len(f.Versions) != 3 || f.Newest().Replicas != 0 || f.Newest().Guests != "all" {
		t.Errorf("policy: %+v", f)
	}
	if c, _ := w.Content(digest(1)); c.Replicas != 0 {
		t.Errorf("replicas: %d, want 0: every host", c.Replicas)
	}

	conflict := publishing("else", 1, 5, 1, 1)
	w.refuse(t, conflict, ErrContentConflict)

	w.do(t, Command{RemoveFile: &RemoveFile{Name: "img", ID: digest(1)}})
	if f, _ := w.File("img"); len(f.Versions) != 1 || f.Newest().ID != digest(2) {
		t.Errorf("after removal: %+v", f)
	}
	if _, ok := w.Content(digest(1)); ok {
		t.Error("a content without names is still there")
	}
	w.refuse(t, Command{RemoveFile: &RemoveFile{Name: "img", ID: digest(1)}}, ErrNoFile)
	rest := Command{RemoveFile: &RemoveFile{Name: "img"}}
	w.do(t, rest)
	w.refuse(t, rest, ErrNoFile)
	if w.Files() != 0 || w.Contents() != 0 || len(w.Names("")) != 0 {
		t.Error("something is left")
	}
}

func TestContentsAreShared(t *testing.T) {
	w := newWorld(t, 3)
	w.do(t, publishing("a", 1, 2, 1, 1))
	w.do(t, publishing("b", 1, 2, 3, 2))
	c, _ := w.Content(digest(1))
	if !slices.Equal(c.Names, []string{"a", "b"}) || c.Replicas != 3 {
		t.Errorf("content: %+v", c)
	}
	if h := w.Holders(digest(1)); len(h) != 2 || !h[0].Shards.All() || !h[1].Shards.All() {
		t.Errorf("holders: %+v: both publishers hold it", h)
	}
	w.do(t, Command{RemoveFile: &RemoveFile{Name: "b"}})
	if c, _ := w.Content(digest(1)); c.Replicas != 1 || len(c.Names) != 1 {
		t.Errorf("content: %+v", c)
	}
}

func TestNamesByPrefix(t *testing.T) {
	w := newWorld(t, 1)
	for i, name := range []string{"b", "a/2", "a", "a/1", "a/10", "ab"} {
		w.do(t, publishing(name, i, 1, 1, 1))
	}
	list := func(prefix string) string {
		var names []string
		for _, f := range w.Names(prefix) {
			names = append(names, f.Name)
		}
		return strings.Join(names, " ")
	}
	for prefix, want := range map[string]string{"": "a a/1 a/10 a/2 ab b", "a/": "a/1 a/10 a/2", "a/1": "a/1 a/10", "c": ""} {
		if got := list(prefix); got != want {
			t.Errorf("%q: %q, want %q", prefix, got, want)
		}
	}
}

func TestReports(t *testing.T) {
	w := newWorld(t, 3)
	w.do(t, publishing("a", 1, 10, 2, 1))
	part, _ := ParseShardSet("0-3,7")
	report := Command{Report: &Report{Host: hostID(2), Holdings: []Holding{{digest(1), part}, {digest(5), AllShards()}}}}
	r := w.do(t, report)
	if !r.Changed || !slices.Equal(r.Unknown, []content.Digest{digest(5)}) {
		t.Errorf("result: %+v", r)
	}
	w.again(t, report)
	if got := w.Held(hostID(2), digest(1)); !got.Equal(part) {
		t.Errorf("held: %q", got)
	}
	whole, _ := ParseShardSet("0-9")
	w.do(t, Command{Report: &Report{Host: hostID(2), Holdings: []Holding{{digest(1), whole}}}})
	if got := w.Held(hostID(2), digest(1)); !got.All() {
		t.Errorf("all ten shards are %q, not all", got)
	}
	beyond, _ := ParseShardSet("10")
	w.refuse(t, Command{Report: &Report{Host: hostID(2), Holdings: []Holding{{digest(1), beyond}}}}, ErrContentConflict)
	w.refuse(t, Command{Report: &Report{Host: hostID(2), Holdings: []Holding{{digest(1), part}}, Dropped: []content.Digest{digest(1)}}}, ErrBadCommand)
	w.refuse(t, Command{Report: &Report{Host: hostID(9)}}, ErrNoHost)
	drop := Command{Report: &Report{Host: hostID(2), Dropped: []content.Digest{digest(1)}}}
	w.do(t, drop)
	w.again(t, drop)
	if h := w.Holders(digest(1)); len(h) != 1 || h[0].Host != hostID(1) {
		t.Errorf("holders: %+v", h)
	}
	w.do(t, Command{RemoveHost: &RemoveHost{ID: hostID(1)}})
	if h := w.Holders(digest(1)); len(h) != 0 {
		t.Errorf("holders after removal: %+v", h)
	}
}

func TestDistribute(t *testing.T) {
	w := newWorld(t, 4)
	w.do(t, publishing("a", 1, 10, 1, 1))
	to := func(hosts ...int) Command {
		d := &Distribute{Name: "a"}
		for _, n := range hosts {
			d.Hosts = append(d.Hosts, hostID(n))
		}
		return Command{Distribute: d}
	}
	w.do(t, to(3, 2))
	w.again(t, to(2, 3))
	w.do(t, to(4))
	c, _ := w.Content(digest(1))
	if !slices.Equal(c.Targets.Hosts, []HostID{hostID(2), hostID(3), hostID(4)}) {
		t.Errorf("targets: %+v", c.Targets)
	}
	if !w.HomeShards(hostID(3), digest(1)).All() {
		t.Error("a target need not hold all")
	}
	w.do(t, Command{SetHostState: &SetHostState{ID: hostID(3), To: Down, Now: 1}})
	if !w.HomeShards(hostID(3), digest(1)).All() {
		t.Error("a target that is down is none any more")
	}
	w.do(t, Command{RemoveHost: &RemoveHost{ID: hostID(3)}})
	if c, _ := w.Content(digest(1)); slices.Contains(c.Targets.Hosts, hostID(3)) || !w.HomeShards(hostID(3), digest(1)).Empty() {
		t.Errorf("a removed host is still a target: %+v", c.Targets)
	}
	w.refuse(t, to(3), ErrNoHost)
	w.refuse(t, Command{Distribute: &Distribute{Name: "b", All: true}}, ErrNoFile)
	w.refuse(t, Command{Distribute: &Distribute{Name: "a"}}, ErrBadCommand)
	all := Command{Distribute: &Distribute{Name: "a", All: true}}
	w.do(t, all)
	w.again(t, all)
	w.again(t, to(2))
	if r, _ := w.Replication(digest(1)); r.Targets != 3 || r.TargetsFull != 1 {
		t.Errorf("targets %d, full %d", r.Targets, r.TargetsFull)
	}
}

func TestChangedSince(t *testing.T) {
	w := newWorld(t, 3)
	for i := 1; i <= 5; i++ {
		w.do(t, publishing(fmt.Sprint("f", i), i, 4, 2, 1))
	}
	at := w.Applied()
	if c := w.ChangedSince(at); len(c.Contents) != 0 || c.Removed {
		t.Errorf("nothing changed, but: %+v", c)
	}
	if c := w.ChangedSince(0); len(c.Contents) != 5 || !c.Removed {
		t.Errorf("from the beginning: %+v", c)
	}
	for range 3000 { // more changes than the log of them keeps
		w.do(t, Command{Report: &Report{Host: hostID(2), Holdings: []Holding{{digest(2), AllShards()}}}})
		w.do(t, Command{Report: &Report{Host: hostID(2), Dropped: []content.Digest{digest(2)}}})
	}
	w.do(t, Command{RemoveFile: &RemoveFile{Name: "f4"}})
	c := w.ChangedSince(at)
	if !slices.Equal(c.Contents, []content.Digest{digest(2)}) || !c.Removed {
		t.Errorf("changed: %+v", c)
	}
	if n := len(w.changes.entries); n > 2000 {
		t.Errorf("the log of changes has %d entries", n)
	}
	at = w.Applied()
	w.do(t, Command{SetHostState: &SetHostState{ID: hostID(3), To: Down, Now: 1}})
	if c := w.ChangedSince(at); len(c.Contents) != 4 || c.Removed {
		t.Errorf("a host went down: %+v", c)
	}
	if d := w.Must(hostID(1), at); len(d) != 4 {
		t.Errorf("duties: %+v", d)
	}
}

func TestEmptyFileHasHomes(t *testing.T) {
	w := newWorld(t, 3)
	w.do(t, publishing("empty", 1, 0, 2, 1))
	c, _ := w.Content(digest(1))
	homes := w.Homes(digest(1), 0)
	if c.Shards != 1 || len(homes) != 2 {
		t.Errorf("content %+v, homes %v", c, homes)
	}
	for _, h := range homes {
		w.do(t, Command{Report: &Report{Host: h, Holdings: []Holding{{digest(1), AllShards()}}}})
	}
	if r, _ := w.Replication(digest(1)); !r.OK() || r.MinCopies != 2 {
		t.Errorf("replication %+v", r)
	}
}
