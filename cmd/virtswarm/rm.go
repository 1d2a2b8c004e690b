package main

import (
	"context"

	"github.com/spf13/cobra"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

func newRm(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:     "rm NAME[@b3:DIGITS]",
		GroupID: groupFiles,
		Short:   "Remove a file, or one version of it, from the cluster",
		Long: `Rm takes the name with all its versions, or the version named, out of the catalogue. Hosts then free the
space of content that no other name refers to. Files that were pulled stay where they are.`,
		Example: `  virtswarm rm images/debian-11.raw
  virtswarm rm images/debian-12.raw@b3:0f1e2d3c`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.rm(cmd.Context(), args[0])
		},
		ValidArgsFunction: c.completeRef,
	}
}

func (c *cli) rm(ctx context.Context, arg string) error {
	name, id, err := c.resolve(ctx, arg)
	if err != nil {
		return err
	}
	resp, err := c.host().Control.Remove(ctx, &v1.RemoveRequest{Name: name, Id: id})
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(resp)
	}
	t := newTable(c.stdout)
	for _, f := range resp.GetRemoved() {
		t.row("removed", f.GetName()+idMark[:1]+f.GetId(), size(f.GetSize()))
	}
	return t.flush()
}
