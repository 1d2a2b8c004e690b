package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

func newGuest(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "guest",
		GroupID: groupCluster,
		Short:   "Show or change what one domain needs, its tags, and its guest link",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usageError("guest: say what to do: needs, tags, push, attach-shm or detach-shm")
		},
	}
	cmd.AddCommand(newGuestNeeds(c), newGuestTags(c), newGuestPush(c), newGuestAttachShm(c), newGuestDetachShm(c))
	return cmd
}

func newGuestNeeds(c *cli) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "needs DOMAIN [add|rm NAME[@b3:DIGITS]]",
		Short: "Show, add or remove files that must be present before the domain starts",
		Long: `Needs shows which files a domain needs on its host, and adds or removes one. They stand in the domain's libvirt
metadata, from where the libvirt hook takes them: before the domain starts, or arrives by a migration, each is made present
on that host. Without a version the newest is meant, at the time when it is made present.

With --path the host puts the file there, for a disk or its backing file; else it is only in the store.`,
		Example: `  virtswarm guest needs web1
  virtswarm guest needs web1 add images/debian-12.raw --path /var/lib/libvirt/images/debian-12.raw
  virtswarm guest needs web1 rm images/debian-12.raw`,
		Args: cobra.MatchAll(cobra.MinimumNArgs(1), cobra.MaximumNArgs(3)),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &v1.SetGuestRequest{Guest: args[0]}
			switch {
			case len(args) == 2 || len(args) == 3 && args[1] != "add" && args[1] != "rm":
				return usageError("%s: it is: needs DOMAIN [add|rm NAME]", strings.Join(args[1:], " "))
			case len(args) == 3 && args[1] == "rm":
				req.Remove = []string{args[2]}
			case len(args) == 3:
				need := &v1.GuestNeed{Path: path}
				var err error
				if need.Name, need.Id, err = c.resolve(cmd.Context(), args[2]); err != nil {
					return err
				}
				req.Add = []*v1.GuestNeed{need}
			}
			return c.setGuest(cmd.Context(), req)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&path, "path", "", "where the host is to put the file, an absolute path")
	return cmd
}

func newGuestTags(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "tags DOMAIN [add|rm TAG...]",
		Short: "Show, add or remove tags of a domain",
		Long: `Tags shows, adds or removes tags of a domain, which stand in its libvirt metadata. 'distribute --to tag:NAME' makes
the hosts that run such domains hold a file, and guest policies may name them.`,
		Example: `  virtswarm guest tags web1 add web
  virtswarm distribute images/site.raw --to tag:web`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &v1.SetGuestRequest{Guest: args[0]}
			switch {
			case len(args) == 1:
			case len(args) > 2 && args[1] == "add":
				req.AddTags = args[2:]
			case len(args) > 2 && args[1] == "rm":
				req.RemoveTags = args[2:]
			default:
				return usageError("%s: it is: tags DOMAIN [add|rm TAG...]", strings.Join(args[1:], " "))
			}
			return c.setGuest(cmd.Context(), req)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

// setGuest changes, or only shows, what a domain's metadata says.
func (c *cli) setGuest(ctx context.Context, req *v1.SetGuestRequest) error {
	resp, err := c.host().Control.SetGuest(ctx, req)
	if err != nil {
		return err
	}
	return c.printGuest(resp.GetGuest())
}

// printGuest shows what can be changed of a domain.
func (c *cli) printGuest(g *v1.Guest) error {
	if c.json {
		return c.printJSON(g)
	}
	text := fmt.Sprintf("%s, on %s, tags: %s\n", g.GetName(), g.GetHost(), joined(g.GetTags()))
	if p := g.GetPush(); p != nil {
		text += fmt.Sprintf("publishes up to %s under %s/, guests that may read it: %s\n",
			size(p.GetQuota()), cmp.Or(p.GetPrefix(), "guests/"+g.GetUuid()), cmp.Or(p.GetGuests(), "none"))
	}
	if g.GetShm() != 0 || g.GetWantShm() != 0 {
		text += fmt.Sprintf("shared memory: %s now, %s at each start\n", orNone(g.GetShm()), orNone(g.GetWantShm()))
	}
	if _, err := fmt.Fprint(c.stdout, text); err != nil || len(g.GetNeeds()) == 0 {
		return err
	}
	t := newTable(c.stdout, "NEEDS", "VERSION", "AT")
	for _, n := range g.GetNeeds() {
		version, path := "newest", "-"
		if n.GetId() != "" {
			version = shortID(n.GetId())
		}
		if n.GetPath() != "" {
			path = n.GetPath()
		}
		t.row(n.GetName(), version, path)
	}
	return t.flush()
}

// orNone gives bytes as people read them.
func orNone(n uint64) string {
	if n == 0 {
		return "none"
	}
	return size(n)
}
