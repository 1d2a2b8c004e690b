package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

type guestsShape struct {
	Staleness stalenessShape `json:"staleness"`
	Guests    []guestShape   `json:"guests"`
}

// guestShape is a domain on the one host where it is.
type guestShape struct {
	UUID      string      `json:"uuid"`
	Name      string      `json:"name"`
	State     string      `json:"state"`
	HostID    string      `json:"host_id"`
	Host      string      `json:"host"`
	Manager   string      `json:"manager"`
	VCPUs     uint32      `json:"vcpus"`
	Memory    uint64      `json:"memory"`
	CID       uint32      `json:"cid"`
	Migration string      `json:"migration"`
	Disks     []diskShape `json:"disks"`
	Needs     []needShape `json:"needs"`
	Tags      []string    `json:"tags"`
	Others    []string    `json:"others"`
	Split     bool        `json:"split"`
	Index     uint64      `json:"index"`
	Shm       uint64      `json:"shm"`      // bytes plugged now
	WantShm   uint64      `json:"want_shm"` // bytes that its metadata asks for
	Push      *pushShape  `json:"push"`     // null: its guest may publish nothing
}

type pushShape struct {
	Prefix string `json:"prefix"` // empty: guests/UUID
	Quota  uint64 `json:"quota"`
	Guests string `json:"guests"`
}

type diskShape struct {
	Target string   `json:"target"`
	Chain  []string `json:"chain"`
}

type needShape struct {
	Name string `json:"name"`
	ID   string `json:"id"` // empty: the newest version
	Path string `json:"path"`
}

// guestEventShape is one line of guests --watch.
type guestEventShape struct {
	Index   uint64      `json:"index"`
	Guest   *guestShape `json:"guest"` // null in a list of none
	Gone    bool        `json:"gone"`
	Initial bool        `json:"initial"`
	Reset   bool        `json:"reset"`
}

func newGuests(c *cli) *cobra.Command {
	var host string
	var watch bool
	cmd := &cobra.Command{
		Use:     "guests",
		GroupID: groupCluster,
		Short:   "List the domains of the cluster, and on which host each is",
		Long: `Guests lists the domains that run or are defined on any host, each once: where it runs, else where it was
last. ALSO ON are other hosts that know it: where it is defined, or goes to. A domain is split (!) if a second host that
is up says that it runs there; the newer one is shown.

With --watch it goes on and prints each change once, in order, until it is interrupted.`,
		Example: `  virtswarm guests --host beta
  virtswarm guests --watch
  virtswarm guests --json | jq -r '.guests[] | select(.state == "running") | "\(.name) \(.host)"'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if watch {
				return c.watchGuests(cmd.Context(), host)
			}
			return c.guests(cmd.Context(), host)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&host, "host", "", "only those on this host, by name or id")
	cmd.Flags().BoolVar(&watch, "watch", false, "print every change from now on")
	must(cmd.RegisterFlagCompletionFunc("host", c.completeHosts))
	return cmd
}

func (c *cli) guests(ctx context.Context, host string) error {
	resp, err := c.host().Control.Guests(ctx, &v1.GuestsRequest{Host: host})
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(guestsShape{Staleness: stalenessJSON(resp.GetStaleness()), Guests: list(resp.GetGuests(), guestJSON)})
	}
	c.noteStale(resp.GetStaleness())
	t := newTable(c.stdout, "GUEST", "STATE", "HOST", "VCPUS", "MEMORY", "CID", "UUID", "TAGS", "ALSO ON")
	for _, g := range resp.GetGuests() {
		t.row(g.GetName(), guestState(g), g.GetHost(), g.GetVcpus(), size(g.GetMemory()), orDash(g.GetCid()), g.GetUuid(),
			joined(g.GetTags()), joined(g.GetOthers()))
	}
	return t.flush()
}

func (c *cli) watchGuests(ctx context.Context, host string) error {
	stream, err := c.host().Control.WatchGuests(ctx, &v1.WatchGuestsRequest{Host: host})
	return events(stream, err, func(e *v1.GuestEvent) error {
		g := e.GetGuest()
		if c.json {
			return c.printJSON(guestEventJSON(e))
		}
		if g == nil {
			return nil
		}
		what := guestState(g)
		if e.GetGone() {
			what = "gone"
		}
		_, err := fmt.Fprintf(c.stdout, "%d\t%s\t%s\t%s\t%s\n", e.GetIndex(), g.GetName(), what, g.GetHost(), g.GetUuid())
		return err
	})
}

// guestState gives a state as people read it, with what is remarkable about it.
func guestState(g *v1.Guest) string {
	text := enumText(g.GetState(), "GUEST_STATE_")
	if m := g.GetMigration(); m != "" && g.GetState() == v1.GuestState_GUEST_STATE_RUNNING {
		text += " (migrates)"
	}
	if g.GetSplit() {
		text += " (split!)"
	}
	return text
}

func joined(texts []string) string {
	if len(texts) == 0 {
		return "-"
	}
	return strings.Join(texts, ",")
}

func orDash(n uint32) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

func guestJSON(g *v1.Guest) guestShape {
	return guestShape{
		UUID: g.GetUuid(), Name: g.GetName(), State: enumText(g.GetState(), "GUEST_STATE_"), HostID: g.GetHostId(), Host: g.GetHost(),
		Manager: g.GetManager(), VCPUs: g.GetVcpus(), Memory: g.GetMemory(), CID: g.GetCid(), Migration: g.GetMigration(),
		Disks: list(g.GetDisks(), func(d *v1.GuestDisk) diskShape {
			return diskShape{Target: d.GetTarget(), Chain: append([]string{}, d.GetChain()...)}
		}),
		Needs: list(g.GetNeeds(), func(n *v1.GuestNeed) needShape {
			return needShape{Name: n.GetName(), ID: n.GetId(), Path: n.GetPath()}
		}),
		Tags: append([]string{}, g.GetTags()...), Others: append([]string{}, g.GetOthers()...), Split: g.GetSplit(), Index: g.GetChanged(),
		Shm: g.GetShm(), WantShm: g.GetWantShm(), Push: pushJSON(g.GetPush()),
	}
}

func pushJSON(p *v1.GuestPush) *pushShape {
	if p == nil {
		return nil
	}
	return &pushShape{Prefix: p.GetPrefix(), Quota: p.GetQuota(), Guests: cmp.Or(p.GetGuests(), "none")}
}

func guestEventJSON(e *v1.GuestEvent) guestEventShape {
	s := guestEventShape{Index: e.GetIndex(), Gone: e.GetGone(), Initial: e.GetInitial(), Reset: e.GetReset_()}
	if g := e.GetGuest(); g != nil {
		shape := guestJSON(g)
		s.Guest = &shape
	}
	return s
}
