package hostd

import (
	"strings"
	"testing"

	"github.com/virtswarm/virtswarm/internal/api"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/raft"
)

// members reads survivors like "a*v4/10 bv- c4/12": * this host, v votes, - does not answer, else term/entry; ~ follows
// another recovery, ! refuses this host.
func members(text string) (all []Survivor) {
	for _, f := range strings.Fields(text) {
		s := Survivor{
			ID: placement.HostID(f[:1]), Name: f[:1], Self: strings.Contains(f, "*"), Voter: strings.Contains(f, "v"), Answers: !strings.ContainsAny(f, "-!"),
			Why: "connection refused", Refuses: strings.Contains(f, "!"),
		}
		if strings.Contains(f, "~") {
			s.End.Lineage = "other"
		}
		if term, entry, ok := strings.Cut(strings.Trim(f[1:], "*v~"), "/"); ok {
			s.End = raft.LogEnd{Term: number(term), Index: number(entry), Lineage: s.End.Lineage}
		}
		all = append(all, s)
	}
	return all
}

func number(digits string) (n uint64) {
	for _, d := range digits {
		n = 10*n + uint64(d-'0')
	}
	return n
}

func TestCheckRecovery(t *testing.T) {
	for _, c := range []struct {
		name, members, without string
		force                  bool
		reason                 reason.Reason
		says                   string
	}{
		{"the rest is gone", "a*v4/10 bv- cv-", "b,c", false, 0, ""},
		{"a survivor that is level", "a*v4/10 b4/10 cv- dv-", "c,d", false, 0, ""},
		{"a survivor that is behind", "a*v4/10 b3/99 cv- dv-", "c,d", false, 0, ""},
		{"a survivor that is ahead", "a*v4/10 b4/12 cv- dv-", "c,d", false, reason.UnsafeRecovery, "b: its log ends with entry 12 of term 4"},
		{"a survivor of a later term", "a*v4/10 b5/9 cv- dv-", "c,d", false, reason.UnsafeRecovery, "entry 9 of term 5"},
		{"a survivor that is ahead, forced", "a*v4/10 b4/12 cv- dv-", "c,d", true, 0, ""},
		{"one that answers is not gone", "a*v4/10 bv4/10 cv- dv- ev-", "b,c,d,e", false, reason.UnsafeRecovery, "b: the host answers"},
		{"one is not accounted for", "a*v4/10 bv- cv-", "b", false, reason.UnsafeRecovery, "c: the host does not answer"},
		{"the majority lives", "a*v4/10 bv4/10 cv-", "c", false, reason.UnsafeRecovery, "2 of 3 voters answer"},
		{"it was recovered elsewhere", "a*v4/10 b~5/11 cv- dv-", "c,d", false, reason.UnsafeRecovery, "another recovery"},
		{"it was recovered without this host", "a*v4/10 bv! cv-", "b,c", false, reason.UnsafeRecovery, "b: the host is up and does not take this one for a member"},
		{"itself", "a*v4/10 bv- cv-", "a,b,c", false, reason.Usage, "this is the host"},
		{"nobody of that name", "a*v4/10 bv- cv-", "b,x", false, reason.NoSuchHost, "x"},
		{"nobody of that name, forced", "a*v4/10 bv- cv-", "b,x", true, reason.NoSuchHost, "x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			gone, err := checkRecovery(members(c.members), strings.Split(c.without, ","), c.force)
			if c.reason == 0 {
				if err != nil || len(gone) != len(strings.Split(c.without, ",")) {
					t.Fatalf("gone %v, %v", gone, err)
				}
				return
			}
			if e := api.AsError(err); e.Reason != c.reason || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("%v (%s), want %s that says %q", err, e.Reason, c.reason, c.says)
			}
		})
	}
}
