package placement

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/virtswarm/virtswarm/internal/content"
)

func (w *world) setState(t fataler, host int, to HostState) {
	t.Helper()
	w.do(t, Command{SetHostState: &SetHostState{ID: hostID(host), To: to, Now: 1}})
}

func (w *world) holds(t fataler, host int, shards ShardSet) {
	t.Helper()
	r := &Report{Host: hostID(host), Holdings: []Holding{{digest(1), shards}}}
	if shards.Empty() {
		r.Holdings, r.Dropped = nil, []content.Digest{digest(1)}
	}
	w.do(t, Command{Report: r})
}

// fill has every host report what it must hold of content 1.
func (w *world) fill(t fataler, hosts int) {
	t.Helper()
	for n := 1; n <= hosts; n++ {
		if must := w.HomeShards(hostID(n), digest(1)); !must.Empty() {
			w.holds(t, n, must)
		}
	}
}

// TestDownHostStaysHomeOfWhatItHolds: nothing moves when a host goes down that has all it must have; what it does not
// have yet gets other homes at once, and so does what is published while it is down.
func TestDownHostStaysHomeOfWhatItHolds(t *testing.T) {
	w := newWorld(t, 4)
	w.do(t, publishing("a", 1, 20, 2, 1))
	w.fill(t, 4)
	before := homesOf(w.State, digest(1))
	must := w.HomeShards(hostID(2), digest(1))
	if must.Empty() || must.All() {
		t.Fatalf("host 2 must hold %q, the test says nothing", must)
	}
	w.setState(t, 2, Down)
	if got := homesOf(w.State, digest(1)); !slices.EqualFunc(got, before, slices.Equal) {
		t.Error("homes moved although the down host holds all it must")
	}
	if r, _ := w.Replication(digest(1)); r.Awaited != must.Count(20) || r.ToGo != 0 || r.UnderReplicated != r.Awaited || r.Possible != 1 {
		t.Errorf("replication %+v, want %d awaited", r, must.Count(20))
	}

	first := slices.IndexFunc(before, func(h []HostID) bool { return slices.Contains(h, hostID(2)) })
	lacking := must.Bits(20)
	lacking.Clear(first)
	w.setState(t, 2, Alive)
	w.holds(t, 2, ShardsIn(lacking))
	w.setState(t, 2, Down)
	for shard, homes := range homesOf(w.State, digest(1)) {
		if moved := !slices.Equal(homes, before[shard]); moved != (shard == first) || slices.Contains(homes, hostID(2)) && moved {
			t.Errorf("shard %d, homes %v before, %v now: only shard %d should move", shard, before[shard], homes, first)
		}
	}

	w.do(t, publishing("b", 2, 20, 2, 1))
	for shard, homes := range homesOf(w.State, digest(2)) {
		if slices.Contains(homes, hostID(2)) || len(homes) != 2 {
			t.Errorf("shard %d of what is published while host 2 is down has homes %v", shard, homes)
		}
	}

	w.setState(t, 2, Lost)
	if !w.HomeShards(hostID(2), digest(1)).Empty() {
		t.Error("a lost host is a home")
	}
	w.setState(t, 2, Alive)
	if got := homesOf(w.State, digest(1)); !slices.EqualFunc(got, before, slices.Equal) {
		t.Error("the homes are others when the host is back")
	}
}

func TestSafeWithout(t *testing.T) {
	w := newWorld(t, 4)
	w.do(t, publishing("a", 1, 20, 2, 1))
	if safe := w.SafeWithout(hostID(1), digest(1)); !safe.Empty() {
		t.Errorf("the only holder could drop %q", safe)
	}
	w.fill(t, 4)
	w.holds(t, 1, AllShards())
	must := w.HomeShards(hostID(1), digest(1))
	surplus := content.NewBits(20)
	surplus.SetRange(0, 20)
	surplus.AndNot(must.Bits(20))
	if got := w.SafeWithout(hostID(1), digest(1)); !got.Equal(ShardsIn(surplus)) {
		t.Errorf("safe without host 1: %q, want %q: all that it need not keep", got, ShardsIn(surplus))
	}
	w.setState(t, 2, Down)
	at2 := w.HomeShards(hostID(2), digest(1))
	safe := w.SafeWithout(hostID(1), digest(1))
	for shard := range 20 {
		if safe.Has(shard) && (at2.Has(shard) || must.Has(shard)) {
			t.Errorf("shard %d counts as safe, a home of it is down or it must be kept", shard)
		}
	}
	w.setState(t, 2, Alive)
	w.do(t, Command{Distribute: &Distribute{Name: "a", Hosts: []HostID{hostID(1)}}})
	if safe := w.SafeWithout(hostID(1), digest(1)); !safe.Empty() {
		t.Errorf("a target could drop %q", safe)
	}
	w.do(t, Command{RemoveFile: &RemoveFile{Name: "a"}})
	if !w.SafeWithout(hostID(1), digest(1)).All() {
		t.Error("what nothing refers to is not safe to drop")
	}
}

func TestDraining(t *testing.T) {
	w := newWorld(t, 3)
	w.do(t, publishing("a", 1, 20, 2, 1))
	w.fill(t, 3)
	must := w.HomeShards(hostID(2), digest(1)).Count(20)
	if l := w.Load(hostID(2)); l.Shards != must || l.Held != must || l.Bytes != int64(must)*content.ShardSize {
		t.Errorf("load %+v, want %d shards", l, must)
	}
	if err := w.CanDrain(hostID(2)); err != nil {
		t.Error(err)
	}
	w.setState(t, 2, Leaving)
	if d := w.Draining(hostID(2)); d.Shards != must || d.Bytes != int64(must)*content.ShardSize {
		t.Errorf("draining %+v, want %d shards", d, must)
	}
	w.fill(t, 3) // the others take over
	if d := w.Draining(hostID(2)); d != (Drain{}) {
		t.Errorf("draining %+v although the others have it", d)
	}
	if l := w.Load(hostID(2)); l != (Load{}) {
		t.Errorf("a drained host must hold %+v", l)
	}

	w.do(t, Command{Publish: publishing("b", 1, 20, 3, 1).Publish})
	err := w.CanDrain(hostID(2))
	if !isErr(err, ErrTooFewHosts) || !strings.Contains(err.Error(), `"b"`) {
		t.Errorf("three copies on two hosts: %v", err)
	}
	w.fill(t, 3)
	if d := w.Draining(hostID(2)); d != (Drain{}) {
		t.Errorf("draining %+v: what is impossible is not waited for", d)
	}
	w.setState(t, 1, Down)
	w.setState(t, 3, Lost)
	if err := w.CanDrain(hostID(2)); !isErr(err, ErrLastHost) {
		t.Errorf("nobody else is there: %v", err)
	}
}

func TestUnpin(t *testing.T) {
	w := newWorld(t, 4)
	w.do(t, publishing("a", 1, 2, 1, 1))
	w.do(t, Command{Distribute: &Distribute{Name: "a", Hosts: []HostID{hostID(2), hostID(3)}}})
	one := Command{Unpin: &Unpin{Name: "a", Hosts: []HostID{hostID(2), hostID(4)}}}
	w.do(t, one)
	w.again(t, one)
	if c, _ := w.Content(digest(1)); !slices.Equal(c.Targets.Hosts, []HostID{hostID(3)}) {
		t.Errorf("targets %+v", c.Targets)
	}
	w.do(t, Command{Distribute: &Distribute{Name: "a", All: true}})
	w.do(t, one)
	if c, _ := w.Content(digest(1)); c.Targets.All || !slices.Equal(c.Targets.Hosts, []HostID{hostID(1), hostID(3)}) {
		t.Errorf("targets of all but two: %+v", c.Targets)
	}
	w.do(t, Command{Unpin: &Unpin{Name: "a", All: true}})
	if c, _ := w.Content(digest(1)); !c.Targets.IsZero() {
		t.Errorf("targets %+v", c.Targets)
	}
	w.refuse(t, Command{Unpin: &Unpin{Name: "b", All: true}}, ErrNoFile)
	w.refuse(t, Command{Unpin: &Unpin{Name: "a"}}, ErrBadCommand)
}

func TestLimits(t *testing.T) {
	w := newWorld(t, 2)
	set := func(u UpdateHost) Command { u.ID = hostID(2); return Command{UpdateHost: &u} }
	up, quota, high, low := int64(1000), int64(1<<40), 60, 50
	w.do(t, set(UpdateHost{Up: &up, Quota: &quota, High: &high, Low: &low, Relabel: map[string]string{"rack": "r1", "zone": "z1"}}))
	w.again(t, set(UpdateHost{Up: &up}))
	h, _ := w.Host(hostID(2))
	if h.Limits != (Limits{Up: 1000, Quota: 1 << 40, High: 60, Low: 50}) || h.Labels["rack"] != "r1" {
		t.Errorf("host %+v", h)
	}
	none := int64(0)
	w.do(t, set(UpdateHost{Up: &none, Relabel: map[string]string{"zone": ""}}))
	if h, _ = w.Host(hostID(2)); h.Limits.Up != 0 || h.Limits.Quota != 1<<40 || len(h.Labels) != 1 {
		t.Errorf("host %+v", h)
	}
	above, negative, huge := 70, int64(-1), int64(MaxQuota+1)
	w.refuse(t, set(UpdateHost{Low: &above}), ErrInvalidHost)
	w.refuse(t, set(UpdateHost{Down: &negative}), ErrInvalidHost)
	w.refuse(t, set(UpdateHost{Quota: &huge}), ErrInvalidHost)
	w.refuse(t, set(UpdateHost{Relabel: manyLabels(MaxLabels)}), ErrInvalidHost)
	for _, c := range []struct{ l, want [2]int }{{[2]int{0, 0}, [2]int{90, 80}}, {[2]int{50, 0}, [2]int{50, 49}}, {[2]int{0, 85}, [2]int{90, 85}}} {
		if high, low := (Limits{High: c.l[0], Low: c.l[1]}).Watermarks(); high != c.want[0] || low != c.want[1] {
			t.Errorf("watermarks of %v: %d, %d, want %v", c.l, high, low, c.want)
		}
	}
}

// TestOldSnapshotIsRead: version 1 knew neither limits nor lost hosts.
func TestOldSnapshotIsRead(t *testing.T) {
	w := newWorld(t, 3)
	w.do(t, publishing("a", 1, 3, 2, 1))
	w.setState(t, 3, Down)
	now := lines(t, w.State)
	body := now[:bytes.LastIndexByte(now[:len(now)-1], '\n')+1] // without the end
	old := bytes.Replace(body, fmt.Appendf(nil, `"version":%d`, snapshotVersion), []byte(`"version":1`), 1)
	s, err := restoreLines(bytes.NewReader(seal(old)))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(image(t, s), image(t, w.State)) {
		t.Error("a snapshot of version 1 gives another catalogue")
	}
}
