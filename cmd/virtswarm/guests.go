package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

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
		return c.printJSON(resp)
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
			return c.printJSON(e)
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
	text := word(g.GetState())
	if m := g.GetMigration(); m != "" && g.GetState() == v1.GuestState_GUEST_STATE_RUNNING {
		text += " (migrates)"
	}
	if a := g.GetAwaits(); a != "" {
		text += " (its start waits for " + a + ")"
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
