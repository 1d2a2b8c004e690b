package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/reason"
)

func newAdopt(c *cli) *cobra.Command {
	req := &v1.AdoptRequest{}
	var replicas string
	cmd := &cobra.Command{
		Use:     "adopt {NAME | b3:DIGITS}... | --all",
		GroupID: groupFiles,
		Short:   "Enter strays in the catalogue under the names that they had",
		Long: `Adopt asks all hosts for their strays and enters those that are named, by one of their names or by the first
digits of their id, or all that have a name. Versions of one name keep their order. A version that would hide the newest
one of a name of this cluster is refused, as is a content of which no host that answers has some shards.

What is refused is listed; the exit code is then not 0, and what was entered stays.`,
		Example: `  virtswarm adopt --all
  virtswarm adopt images/debian-12.raw
  virtswarm adopt b3:5a0c12ef --as rescued/debian.raw`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("replicas") {
				n, err := parseReplicas(replicas)
				if err != nil {
					return err
				}
				req.Replicas = n
			}
			req.Which = args
			for _, arg := range append(args, req.As) {
				if err := checkText(arg); err != nil {
					return err
				}
			}
			return c.adopt(cmd.Context(), req)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&req.All, "all", false, "all strays that have a name")
	cmd.Flags().StringVar(&req.As, "as", "", "enter the one stray that is named under this name")
	cmd.Flags().StringVar(&replicas, "replicas", "", "copies to keep, or 'all' (default: as many as it had)")
	cmd.Flags().BoolVar(&req.Force, "force", false, "also contents of which some shards are on no host that answers")
	completeFlag(cmd, "replicas", "1", "2", "3", "all")
	return cmd
}

func (c *cli) adopt(ctx context.Context, req *v1.AdoptRequest) error {
	resp, err := c.host().Control.Adopt(ctx, req)
	if err != nil {
		return err
	}
	withFlags(resp.GetAdopted())
	if c.json {
		err = c.printJSON(resp)
	} else {
		c.noteSilent(resp.GetSilent())
		err = c.printAdopted("adopted", resp.GetAdopted())
	}
	if err != nil {
		return err
	}
	return refusedError(resp.GetAdopted(), resp.GetRefused())
}

// printAdopted lists what was entered and what was refused.
func (c *cli) printAdopted(verb string, all []*v1.Adopted) error {
	t := newTable(c.stdout)
	for _, a := range all {
		switch file := a.GetName() + idMark[:1] + a.GetId(); {
		case a.GetRefused() != "":
			t.row("refused", file, a.GetRefused())
		case a.GetMissingShards() > 0:
			t.row(verb, file, fmt.Sprintf("no host that answers has %d of %s", a.GetMissingShards(), plural(a.GetShards(), "shard")))
		default:
			t.row(verb, file, plural(a.GetShards(), "shard"))
		}
	}
	return t.flush()
}

// withFlags names flags where the daemon names fields.
func withFlags(all []*v1.Adopted) {
	for _, a := range all {
		a.Refused = reason.Flags(a.GetRefused())
	}
}

// refusedError is the error of a command that could not enter everything; nil if it could.
func refusedError(all []*v1.Adopted, refused uint32) error {
	for _, a := range all {
		if a.GetRefused() != "" {
			return reason.Wrap(reason.Reason(a.GetReason()), a.GetName(), fmt.Errorf("%s refused, the first because %s", plural(refused, "version"), a.GetRefused())).
				WithHint("the list above says what to do about each; what was entered stays, and to repeat the command is harmless")
		}
	}
	return nil
}
