package observe

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/raft"
)

const (
	// leaderPatience is how long a cluster may be without a leader before it is a finding: an election takes two seconds.
	leaderPatience = 5 * time.Second
	// settleVoters is how long a new host may take to become a voter.
	settleVoters = 30 * time.Second
	// crowdPatience is how long a store may be above its high watermark while what may go is evicted.
	crowdPatience = time.Minute
	// expiresSoon and expiresNow are what is left of a certificate that should have been renewed long before.
	expiresSoon = 3 * 24 * time.Hour
	expiresNow  = 24 * time.Hour
	// skewAllowed is how far two clocks may be apart: NTP keeps them within milliseconds.
	skewAllowed = 30 * time.Second
)

func leaderRule(w whole) []Finding {
	if w.leaderless < leaderPatience {
		return nil
	}
	need := len(w.voters)/2 + 1
	text := fmt.Sprintf("the cluster has no leader: nothing can be published or changed; of its voters (%s) %d must be up",
		strings.Join(w.namesOf(w.voters), ", "), need)
	var since time.Time
	if w.leaderless > leaderPatience { // else it is not known: none answered just now
		since = w.now.Add(-w.leaderless)
	}
	return []Finding{finding(Critical, kindNoLeader, "", since, text,
		"bring back voters until a majority of them is up and reaches the others; if they are lost for good, see: virtswarmd recover")}
}

// namesOf gives the names of hosts, sorted.
func (w whole) namesOf(ids []placement.HostID) []string {
	names := make([]string, 0, len(ids))
	for _, id := range ids {
		name, ok := w.names[id]
		if !ok {
			name = string(id)
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func hostsRule(w whole) (all []Finding) {
	for _, h := range w.hosts {
		switch h.State {
		case placement.Down:
			all = append(all, finding(Warning, kindHostDown, h.Name, time.Unix(h.At, 0),
				h.Name+" is silent: its copies do not count until it is back",
				"start virtswarmd there, or repair its network; if it stays away for longer than the grace, its copies are made anew elsewhere"))
		case placement.Lost:
			s, text := Warning, h.Name+" is lost: its copies are made anew on other hosts"
			if w.sole[h.ID] {
				s, text = Critical, h.Name+" is lost, and holds what no other host has"
			}
			all = append(all, finding(s, kindHostLost, h.Name, time.Unix(h.At, 0), text,
				"start virtswarmd there; if the host will not come back, run: virtswarm leave "+h.Name))
		}
	}
	return all
}

// votersRule is about clusters that are meant to survive a failure: of one or two hosts only one votes, and that is as
// it should be. Hosts that came a moment ago are still to become voters.
func votersRule(w whole) []Finding {
	up := map[placement.HostID]bool{}
	settled := 0
	var down, drained []string
	for _, h := range w.hosts {
		up[h.ID] = h.State.Serves()
		if w.now.Sub(time.Unix(h.JoinAt, 0)) >= settleVoters {
			settled++
		}
		if !h.State.Serves() {
			down = append(down, h.Name)
		}
		if h.State == placement.Leaving {
			drained = append(drained, h.Name)
		}
	}
	living := 0
	for _, v := range w.voters {
		if up[v] {
			living++
		}
	}
	if settled < 3 || living > len(w.voters)/2+1 || len(w.voters) == 0 || w.leaderless >= leaderPatience { // that says more
		return nil
	}
	text := fmt.Sprintf("%d of %s %s up: if one more fails, nothing can be published or changed",
		living, count(len(w.voters), "voter"), verb(living, "is", "are"))
	next := "look at the logs of the hosts that do not vote: a healthy one becomes a voter within seconds"
	switch {
	case len(down) > 0:
		slices.Sort(down)
		next = "bring back " + few(down) + ", or add a host"
	case len(drained) > 0:
		slices.Sort(drained)
		next = "end the maintenance of " + few(drained) + " (virtswarm undrain), or add a host"
	}
	return []Finding{finding(Warning, kindFewVoters, "", time.Time{}, text, next)}
}

func copiesRule(w whole) (all []Finding) {
	if l := w.lost; l.shards > 0 {
		all = append(all, finding(Critical, kindUnavailable, "", time.Time{},
			fmt.Sprintf("%s of %s %s on no host that is up: %s",
				count(l.shards, "shard"), count(len(l.files), "file"), verb(l.shards, "is", "are"), few(l.files)),
			"bring back the hosts that hold them; see: virtswarm show NAME"))
	}
	if l := w.missing; l.shards > 0 {
		next := "add hosts, or make room on those that are there: see virtswarm hosts and virtswarm status"
		switch {
		case l.toGo > 0:
			next = fmt.Sprintf("wait: live hosts are making %d %s, %s; virtswarm status tells how far they are",
				l.toGo, verb(l.toGo, "copy", "copies"), humanize.IBytes(uint64(l.bytes)))
		case l.awaited > 0:
			next = "bring back the hosts that are down; if they stay away for longer than the grace, the copies are made anew elsewhere"
		}
		all = append(all, finding(Warning, kindMissing, "", time.Time{},
			fmt.Sprintf("%s of %s %s fewer copies than wanted: %s",
				count(l.shards, "shard"), count(len(l.files), "file"), verb(l.shards, "has", "have"), few(l.files)), next))
	}
	return all
}

func splitRule(w whole) (all []Finding) {
	for _, d := range w.split {
		hosts := few(w.namesOf(append([]placement.HostID{d.Host}, d.Others...)))
		all = append(all, finding(Critical, kindSplit, d.Name, time.Time{},
			fmt.Sprintf("domain %s runs on more than one host: %s; two QEMUs may write to one disk", d.Name, hosts),
			"end it on all of them but one (virsh destroy), and check its disks before it is used"))
	}
	return all
}

// versionsRule is about hosts whose daemons are of different releases, or older than the newest of them can.
func versionsRule(w whole) []Finding {
	byProgram, newest := map[string][]string{}, 0
	for _, h := range w.hosts {
		newest = max(newest, h.CanVersion())
	}
	var behind []string
	for _, h := range w.hosts {
		program := fmt.Sprintf("%s (cluster version %d)", cmp.Or(h.Program, "an unknown release"), h.CanVersion())
		byProgram[program] = append(byProgram[program], h.Name)
		if h.CanVersion() < newest {
			behind = append(behind, h.Name)
		}
	}
	if len(byProgram) < 2 {
		return nil
	}
	var parts []string
	for _, program := range slices.Sorted(maps.Keys(byProgram)) {
		names := byProgram[program]
		slices.Sort(names)
		parts = append(parts, few(names)+" "+verb(len(names), "runs", "run")+" "+program)
	}
	next := "finish the upgrade: all hosts are to run one release"
	if len(behind) > 0 {
		slices.Sort(behind)
		next = "upgrade " + few(behind) + ": until then the cluster does without what only the newer release can"
	}
	return []Finding{finding(Warning, kindVersions, "", time.Time{}, "hosts run different releases: "+strings.Join(parts, "; "), next)}
}

func diskRule(o own) []Finding {
	find := func(s Severity, text, next string) []Finding {
		return []Finding{finding(s, kindDiskFull, o.host, time.Time{}, text, next)}
	}
	switch {
	case o.noRoom > 0:
		return find(Critical, fmt.Sprintf("%s has no room for %s that it must hold", o.host, count(o.noRoom, "file")),
			"free space there, raise its quota (virtswarm host set), remove files, or give it a smaller weight")
	case o.reserve > 0 && o.free < o.reserve:
		return find(Warning, fmt.Sprintf("the file system of %s's data has %s free, and %s are to be left to others",
			o.host, humanize.IBytes(uint64(max(o.free, 0))), humanize.IBytes(uint64(o.reserve))),
			"free space there, or move the data directory to a larger file system")
	case o.crowded >= crowdPatience:
		return find(Warning, fmt.Sprintf("the store of %s holds %s, more than its high mark of %s, and nothing of it may be evicted",
			o.host, humanize.IBytes(uint64(o.bytes)), humanize.IBytes(uint64(o.high))),
			"raise its quota (virtswarm host set), add a host, or remove files (virtswarm unpin, virtswarm rm)")
	}
	return nil
}

func damageRule(o own) (all []Finding) {
	for _, d := range o.damaged {
		s, next := Warning, "wait: it is fetched from another host; if the disk does this again, replace it"
		if d.lost {
			s, next = Critical, "bring back a host that holds the file, then run virtswarm verify; if the disk does this again, replace it"
		}
		all = append(all, finding(s, kindDamaged, d.name, d.since,
			fmt.Sprintf("%s of %s %s found damaged on the disk of %s and not healed yet",
				count(d.chunks, "chunk"), d.name, verb(d.chunks, "was", "were"), o.host), next))
	}
	return all
}

// verb chooses by number: one shard is, two shards are.
func verb(n int, one, more string) string {
	if n == 1 {
		return one
	}
	return more
}

func doubtsRule(o own) (all []Finding) {
	for _, d := range o.doubts {
		all = append(all, finding(Critical, kindClaimed, d.Domains[0], time.Time{},
			fmt.Sprintf("more than one VM on %s has the %s of %s: no guest is served by it", o.host, d.What, strings.Join(d.Domains, " and ")),
			"end the one that is a copy, and give it devices of its own: docs/guest.md, A clone"))
	}
	return all
}

func certificateRule(o own) []Finding {
	left := o.expires.Sub(o.now)
	if left >= expiresSoon && o.renewal == nil {
		return nil
	}
	s := Warning
	if left < expiresNow {
		s = Critical
	}
	text := fmt.Sprintf("the certificate of %s expires at %s", o.host, o.expires.UTC().Format(time.RFC3339))
	if left <= 0 {
		text = fmt.Sprintf("the certificate of %s expired at %s: other hosts refuse it", o.host, o.expires.UTC().Format(time.RFC3339))
	}
	next := "check the clock of the host, and that a host that votes is up: it signs certificates"
	if o.renewal != nil {
		text += fmt.Sprintf(", and could not be renewed: %v", o.renewal)
		next = "mend what is named: the host tries again by itself"
	}
	return []Finding{finding(s, kindCertificate, o.host, time.Time{}, text, next)}
}

// troubleNext says what to do about a host with which this one does not speak.
var troubleNext = map[raft.TroubleKind]string{
	raft.TroubleAhead: "recover at the host that is ahead instead, or give up what only it has: at the recovered cluster run " +
		"virtswarm leave `force` HOST, then let it join anew; see docs/operations.md, When it is bad",
	raft.TroubleApart: "choose the cluster that is to stay; there run virtswarm leave `force` HOST, then let the other host join anew: " +
		"what only it published is a stray there, for virtswarm adopt",
	raft.TroubleOldCopy: "run virtswarm leave `force` HOST, and let it join anew: its stored files stay",
	raft.TroubleTwin:    "stop one of the two machines; a cloned one joins anew, with a directory and a name of its own",
	raft.TroubleRemoved: "stop virtswarmd there, or let the host join anew",
	raft.TroubleRefused: "look at virtswarm health on HOST; if its cluster is to stay, stop virtswarmd here and let this host join it anew",
}

func troubleRule(o own) (all []Finding) {
	for _, t := range o.trouble {
		s := Warning
		if t.Kind == raft.TroubleAhead || t.Kind == raft.TroubleApart || t.Kind == raft.TroubleRefused || t.LeftOut {
			s = Critical // two catalogues are in use
		}
		all = append(all, finding(s, string(t.Kind), t.peer, t.Since, t.Text, strings.ReplaceAll(troubleNext[t.Kind], "HOST", t.peer)))
	}
	return all
}

// clockRule is about clocks that differ from the leader's. One host that is alone in the right looks wrong: the text
// names both.
func clockRule(o own) (all []Finding) {
	for _, host := range slices.Sorted(maps.Keys(o.skews)) {
		skew, way := o.skews[host], "ahead of"
		if skew < 0 {
			skew, way = -skew, "behind"
		}
		if skew < skewAllowed {
			continue
		}
		all = append(all, finding(Warning, kindClock, host, time.Time{},
			fmt.Sprintf("the clock of %s is %s %s that of %s, which leads", host, skew.Round(time.Second), way, o.host),
			"set both by NTP (timedatectl); certificates and times in the catalogue go by clocks"))
	}
	return all
}
