package observe

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/raft"
)

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

// cluster makes a whole of hosts hv1, hv2, ... in these states, members for an hour, of which the first n vote.
func cluster(voters int, states ...placement.HostState) whole {
	w := whole{now: noon, sole: map[placement.HostID]bool{}, names: map[placement.HostID]string{}}
	for i, state := range states {
		h := placement.Host{
			ID: placement.HostID(fmt.Sprintf("%032x", i+1)), Name: fmt.Sprintf("hv%d", i+1), State: state,
			At: noon.Add(-time.Minute).Unix(), JoinAt: noon.Add(-time.Hour).Unix(),
		}
		w.hosts, w.names[h.ID] = append(w.hosts, h), h.Name
		if i < voters {
			w.voters = append(w.voters, h.ID)
		}
	}
	return w
}

// releases is a well cluster whose hosts run these: a name and the highest cluster version that it can.
func releases(programs ...string) whole {
	w := cluster(3, up, up, up)
	for i, p := range programs {
		if _, err := fmt.Sscanf(p, "%s %d", &w.hosts[i].Program, &w.hosts[i].Version); err != nil {
			panic(err)
		}
	}
	return w
}

// with changes a whole.
func (w whole) with(change func(*whole)) whole {
	change(&w)
	return w
}

var severities = map[Severity]string{Warning: "warning", Critical: "critical"}

// briefly gives findings as "severity kind subject".
func briefly(all []Finding) (short []string) {
	for _, f := range all {
		s := severities[f.Severity] + " " + f.Kind
		short = append(short, strings.TrimSpace(s+" "+f.Subject))
	}
	return short
}

const (
	up      = placement.Alive
	down    = placement.Down
	lost    = placement.Lost
	leaving = placement.Leaving
)

func TestFindingsOfTheWhole(t *testing.T) {
	for name, tt := range map[string]struct {
		whole whole
		want  []string
	}{
		"one host":                 {cluster(1, up), nil},
		"two hosts":                {cluster(1, up, up), nil},
		"three hosts":              {cluster(3, up, up, up), nil},
		"five hosts":               {cluster(5, up, up, up, up, up), nil},
		"drained":                  {cluster(3, up, up, leaving), nil},
		"before there is anything": {whole{now: noon}, nil},
		"one of two is down":       {cluster(1, up, down), []string{"warning host-down hv2"}},
		"a voter of three is down": {cluster(3, up, up, down), []string{"warning host-down hv3", "warning too-few-voters"}},
		"a non-voter is down":      {cluster(3, up, up, up, down), []string{"warning host-down hv4"}},
		"one of five is down":      {cluster(5, up, up, up, up, down), []string{"warning host-down hv5"}},
		"two of five are down": {cluster(5, up, up, up, down, down),
			[]string{"warning host-down hv4", "warning host-down hv5", "warning too-few-voters"}},
		"one votes of three":     {cluster(1, up, up, up), []string{"warning too-few-voters"}},
		"lost":                   {cluster(3, up, up, up, lost), []string{"warning host-lost hv4"}},
		"lost with its contents": {cluster(3, up, up, up, lost).with(func(w *whole) { w.sole[w.hosts[3].ID] = true }), []string{"critical host-lost hv4"}},
		"no leader for a moment": {cluster(3, up, up, up).with(func(w *whole) { w.leaderless = 2 * time.Second }), nil},
		"no leader":              {cluster(3, up, up, up).with(func(w *whole) { w.leaderless = time.Minute }), []string{"critical no-leader"}},
		"the third has just come": {cluster(1, up, up, up).with(func(w *whole) {
			w.hosts = slices.Clone(w.hosts)
			w.hosts[2].JoinAt = noon.Add(-time.Second).Unix()
		}), nil},
		"copies are missing": {cluster(3, up, up, up).with(func(w *whole) { w.missing = lack{shards: 2, files: []string{"a", "b"}} }),
			[]string{"warning copies-missing"}},
		"content is unavailable": {cluster(3, up, up, up).with(func(w *whole) { w.lost = lack{shards: 1, files: []string{"a"}} }),
			[]string{"critical content-unavailable"}},
		"one release":  {releases("v0.2.0 2", "v0.2.0 2", "v0.2.0 2"), nil},
		"two releases": {releases("v0.2.0 2", "v0.3.0 2", "v0.3.0 2"), []string{"warning mixed-versions"}},
		"one is older": {releases("dev 2", "dev 3", "dev 3"), []string{"warning mixed-versions"}},
		"split": {cluster(3, up, up, up).with(func(w *whole) {
			w.split = []placement.DomainView{{Domain: placement.Domain{Name: "web"}, Host: w.hosts[0].ID, Others: []placement.HostID{w.hosts[1].ID}}}
		}), []string{"critical split-domain web"}},
	} {
		got := judgeWhole(tt.whole)
		Sort(got)
		if short := briefly(got); !slices.Equal(short, tt.want) {
			t.Errorf("%s: %q, want %q", name, short, tt.want)
		}
		readable(t, got)
	}
}

func TestFindingsOfAHost(t *testing.T) {
	const day = 24 * time.Hour
	well := own{now: noon, host: "hv1", bytes: 5, high: 90, free: 100, reserve: 10, expires: noon.Add(6 * day)}
	with := func(change func(*own)) own {
		o := well
		change(&o)
		return o
	}
	for name, tt := range map[string]struct {
		own  own
		want []string
	}{
		"well":                     {well, nil},
		"eviction is under way":    {with(func(o *own) { o.bytes, o.crowded = 95, time.Second }), nil},
		"nothing more to evict":    {with(func(o *own) { o.bytes, o.crowded = 95, time.Hour }), []string{"warning disk-nearly-full hv1"}},
		"others fill the disk":     {with(func(o *own) { o.free = 9 }), []string{"warning disk-nearly-full hv1"}},
		"free space is not told":   {with(func(o *own) { o.free, o.reserve = 0, 0 }), nil},
		"no room":                  {with(func(o *own) { o.noRoom, o.free = 2, 9 }), []string{"critical disk-nearly-full hv1"}},
		"damage":                   {with(func(o *own) { o.damaged = []damage{{name: "a", chunks: 2, since: noon}} }), []string{"warning damaged-chunks a"}},
		"damage beyond healing":    {with(func(o *own) { o.damaged = []damage{{name: "a", chunks: 1, lost: true}} }), []string{"critical damaged-chunks a"}},
		"renewed in good time":     {with(func(o *own) { o.expires = noon.Add(3 * day) }), nil},
		"renewal fails early":      {with(func(o *own) { o.renewal = errors.New("read-only") }), []string{"warning certificate-expiring hv1"}},
		"clocks that nearly agree": {with(func(o *own) { o.skews = map[string]time.Duration{"hv2": 29 * time.Second, "hv3": -time.Second} }), nil},
		"clocks that do not": {with(func(o *own) { o.skews = map[string]time.Duration{"hv2": time.Hour, "hv3": -time.Minute} }),
			[]string{"warning clock-skew hv2", "warning clock-skew hv3"}},
		"a clone has the memory of another": {with(func(o *own) { o.doubts = []Doubt{{"shared memory", []string{"web"}}} }),
			[]string{"critical claimed-twice web"}},
		"recovered apart": {with(func(o *own) {
			o.trouble = []trouble{{raft.Trouble{Kind: raft.TroubleApart, Text: "two recoveries"}, "hv2"}}
		}), []string{"critical recovered-apart hv2"}},
		"an old copy knocks": {with(func(o *own) {
			o.trouble = []trouble{{raft.Trouble{Kind: raft.TroubleOldCopy, Text: "an old copy"}, "hv2"}}
		}), []string{"warning old-copy hv2"}},
		"expires in some days":    {with(func(o *own) { o.expires = noon.Add(3*day - 1) }), []string{"warning certificate-expiring hv1"}},
		"expires today":           {with(func(o *own) { o.expires = noon.Add(day - 1) }), []string{"critical certificate-expiring hv1"}},
		"expired, renewal failed": {with(func(o *own) { o.expires, o.renewal = noon.Add(-1), errors.New("x") }), []string{"critical certificate-expiring hv1"}},
	} {
		got := judgeOwn(tt.own)
		if short := briefly(got); !slices.Equal(short, tt.want) {
			t.Errorf("%s: %q, want %q", name, short, tt.want)
		}
		for _, f := range got {
			if f.Host != "hv1" {
				t.Errorf("%s: found by %q", name, f.Host)
			}
		}
		readable(t, got)
	}
}

// readable wants findings of known kinds that say in one sentence each what is wrong, and what to do.
func readable(t *testing.T, all []Finding) {
	t.Helper()
	for _, f := range all {
		if !slices.Contains(Kinds, f.Kind) {
			t.Errorf("%s is no known kind", f.Kind)
		}
		for _, text := range []string{f.Text, f.Next} {
			if text == "" || strings.HasSuffix(text, ".") || strings.ContainsAny(text, "\n%!") {
				t.Errorf("%s: %q does not read well", f.Kind, text)
			}
		}
	}
}

func TestFindingsName(t *testing.T) {
	w := cluster(3, up, up, up)
	w.missing = lack{shards: 7, files: []string{"a", "b", "c", "d", "e"}, toGo: 1, bytes: 1 << 20}
	f := judgeWhole(w)[0]
	if want := "7 shards of 5 files have fewer copies than wanted: a, b, c and 2 more"; f.Text != want {
		t.Errorf("%q, want %q", f.Text, want)
	}
	if want := "wait: live hosts are making 1 copy, 1.0 MiB; virtswarm status tells how far they are"; f.Next != want {
		t.Errorf("%q, want %q", f.Next, want)
	}
}

func TestFindingsAreSorted(t *testing.T) {
	all := []Finding{
		{Severity: Warning, Kind: "c", Since: time.Unix(5, 0)}, {Severity: Warning, Kind: "a"}, {Severity: Critical, Kind: "z", Since: time.Unix(9, 0)},
		{Severity: Warning, Kind: "b", Since: time.Unix(5, 0)}, {Severity: Critical, Kind: "y", Since: time.Unix(3, 0)},
	}
	Sort(all)
	if got := briefly(all); !slices.Equal(got, []string{"critical y", "critical z", "warning b", "warning c", "warning a"}) {
		t.Errorf("got %q", got)
	}
}

// A finding keeps its beginning as long as it is there, and has a new one when it comes back.
func TestFindingsRememberTheirBeginning(t *testing.T) {
	var m memory
	f := func() []Finding {
		return []Finding{{Kind: "k", Subject: "s"}, {Kind: "k", Subject: "known", Since: time.Unix(7, 0)}}
	}
	at := func(second int64) int64 {
		all := f()
		m.date(all, time.Unix(second, 0))
		if all[1].Since.Unix() != 7 {
			t.Errorf("what was known became %v", all[1].Since)
		}
		return all[0].Since.Unix()
	}
	if first, second := at(100), at(200); first != 100 || second != 100 {
		t.Errorf("since %d, and then since %d, want 100", first, second)
	}
	m.date(nil, time.Unix(300, 0))
	if again := at(400); again != 400 {
		t.Errorf("back since %d, want 400", again)
	}
}

// Every kind is in the manual, and the manual has no other.
func TestFindingKindsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "## What is wrong")
	table, _, _ = strings.Cut(table, "\n## ")
	var told []string
	for line := range strings.Lines(table) {
		if kind, ok := strings.CutPrefix(line, "| `"); ok {
			told = append(told, kind[:strings.Index(kind, "`")])
		}
	}
	slices.Sort(told)
	if want := slices.Sorted(slices.Values(Kinds)); !slices.Equal(told, want) {
		t.Errorf("docs/operations.md tells of %q, want %q", told, want)
	}
}
