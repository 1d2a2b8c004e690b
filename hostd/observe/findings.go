package observe

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/raft"
)

// What is wrong is decided here and nowhere else. Two snapshots of facts go in: the whole, which every host sees alike
// in its catalogue, and what one host alone knows of itself. Findings come out; nothing here asks or waits.
//
// A further kind is a fact in whole or own, a rule in wholeRules or ownRules, a word in Kinds, and a row in the
// table of docs/operations.md.

// The kinds of findings. They are a promise to programs.
const (
	kindHostDown     = "host-down"
	kindHostLost     = "host-lost"
	kindFewVoters    = "too-few-voters"
	kindNoLeader     = "no-leader"
	kindMissing      = "copies-missing"
	kindUnavailable  = "content-unavailable"
	kindDiskFull     = "disk-nearly-full"
	kindDamaged      = "damaged-chunks"
	kindSplit        = "split-domain"
	kindCertificate  = "certificate-expiring"
	kindVersions     = "mixed-versions"
	kindClock        = "clock-skew"
	kindClaimed      = "claimed-twice"
	maxFindingsNamed = 3 // files that a finding about many names
)

// Kinds lists them all.
var Kinds = []string{
	kindHostDown, kindHostLost, kindFewVoters, kindNoLeader, kindMissing, kindUnavailable, kindDiskFull, kindDamaged, kindSplit,
	kindCertificate, kindVersions, kindClock, kindClaimed, string(raft.TroubleAhead), string(raft.TroubleApart), string(raft.TroubleOldCopy), string(raft.TroubleTwin),
	string(raft.TroubleRemoved), string(raft.TroubleRefused),
}

// Severity says how bad a finding is; the greater, the worse.
type Severity int

// A warning is something to look at during the day; a critical finding, at night.
const (
	Warning Severity = iota + 1
	Critical
)

// Finding is one thing that is wrong.
type Finding struct {
	Severity Severity
	Kind     string // one of Kinds
	Subject  string // the host, file or domain that it is about; empty for the cluster
	Host     string // the name of the host that found it; empty if every host does
	Text     string // what is wrong
	Next     string // what to do
	Since    time.Time
}

// whole is the cluster as every host sees it.
type whole struct {
	now        time.Time
	leaderless time.Duration // how long this host has known no leader; 0 if it knows one
	hosts      []placement.Host
	voters     []placement.HostID
	missing    lack                      // files with fewer copies than they want and could have
	lost       lack                      // files of which a shard has no copy on a live host
	sole       map[placement.HostID]bool // hosts that are not up and hold something of a file of lost
	split      []placement.DomainView    // domains that run on more than one host
	names      map[placement.HostID]string
}

// lack sums up the files that lack something.
type lack struct {
	shards  int
	files   []string // their names
	toGo    int      // copies that live hosts have still to make
	bytes   int64    // what they weigh
	awaited int      // copies on hosts that are down
}

// Doubt is an identity of guests that more than one claims, and the names of those that do.
type Doubt struct {
	What    string
	Domains []string
}

// own is what one host knows of itself.
type own struct {
	now     time.Time
	host    string
	crowded time.Duration // how long the store has been above its high watermark: all that may go has gone
	bytes   int64         // in the store
	high    int64         // its high watermark
	free    int64         // in the file system
	reserve int64         // of that, to be left to others; 0 if the file system does not tell
	noRoom  int           // files that must be held and do not fit
	damaged []damage
	expires time.Time                // of the host's certificate
	renewal error                    // why the certificate was not renewed the last time, if it was tried
	trouble []trouble                // with other hosts
	doubts  []Doubt                  // identities that more than one guest claims
	skews   map[string]time.Duration // if it leads: how far the clocks of other hosts, by name, are ahead of its own
}

// trouble is a raft.Trouble with another host, by its name.
type trouble struct {
	raft.Trouble
	peer string
}

// damage is what is damaged and not healed of one file.
type damage struct {
	name   string
	chunks int
	since  time.Time
	lost   bool // no live host holds what is damaged
}

var wholeRules = []func(whole) []Finding{leaderRule, hostsRule, votersRule, copiesRule, splitRule, versionsRule}

var ownRules = []func(own) []Finding{diskRule, damageRule, certificateRule, troubleRule, clockRule, doubtsRule}

// judgeWhole gives what is wrong with the cluster.
func judgeWhole(w whole) (all []Finding) {
	for _, rule := range wholeRules {
		all = append(all, rule(w)...)
	}
	return all
}

// judgeOwn gives what is wrong with a host.
func judgeOwn(o own) (all []Finding) {
	for _, rule := range ownRules {
		for _, f := range rule(o) {
			f.Host = o.host
			all = append(all, f)
		}
	}
	return all
}

// Sort puts the worst first, then the oldest; those of unknown age come last among their like.
func Sort(all []Finding) {
	age := func(f Finding) int64 {
		if f.Since.IsZero() {
			return 1<<63 - 1
		}
		return f.Since.Unix()
	}
	slices.SortStableFunc(all, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(b.Severity, a.Severity), cmp.Compare(age(a), age(b)), cmp.Compare(a.Kind, b.Kind),
			cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Host, b.Host))
	})
}

// finding makes one; since may be the zero time, which means that it is not known.
func finding(s Severity, kind, subject string, since time.Time, text, next string) Finding {
	return Finding{Severity: s, Kind: kind, Subject: subject, Text: text, Next: next, Since: since}
}

// few names the first few of a sorted list.
func few(names []string) string {
	if len(names) <= maxFindingsNamed {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:maxFindingsNamed], ", "), len(names)-maxFindingsNamed)
}

// count gives "1 file", "2 files".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// memory remembers since when findings are there that do not know it themselves. It is safe for concurrent use.
type memory struct {
	mu    sync.Mutex
	since map[[2]string]time.Time
}

// date gives every finding of a complete list its beginning, and forgets those that are not there any more.
func (m *memory) date(all []Finding, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	known := map[[2]string]time.Time{}
	for i := range all {
		f := &all[i]
		key := [2]string{f.Kind, f.Subject}
		if f.Since.IsZero() {
			if f.Since = m.since[key]; f.Since.IsZero() {
				f.Since = now
			}
		}
		known[key] = f.Since
	}
	m.since = known
}
