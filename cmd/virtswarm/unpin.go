package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

func newUnpin(c *cli) *cobra.Command {
	var from []string
	cmd := &cobra.Command{
		Use:     "unpin NAME[@b3:DIGITS] --from all|HOST,...",
		GroupID: groupFiles,
		Short:   "Take back a distribute: hosts need not hold a file whole",
		Long: `Unpin takes hosts from those that distribute told to hold the file. What they have of it becomes cache,
which goes when its space is needed, except the shards that they keep as homes. Copies that --replicas asked for
stay.`,
		Example: `  virtswarm unpin images/debian-12.raw --from all
  virtswarm unpin images/debian-12.raw@b3:0f1e2d3c --from alpha,beta`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			all := slices.Contains(from, "all")
			if all && len(from) > 1 {
				return usageError("--from %s: it is all, or names of hosts", strings.Join(from, ","))
			}
			req := &v1.UnpinRequest{All: all}
			if !all {
				req.Hosts = from
			}
			return c.unpin(cmd.Context(), args[0], req)
		},
		ValidArgsFunction: c.completeRef,
	}
	cmd.Flags().StringSliceVar(&from, "from", nil, "hosts, by name or id and separated by commas, or all")
	must(cmd.MarkFlagRequired("from"))
	must(cmd.RegisterFlagCompletionFunc("from", c.completeHosts))
	return cmd
}

func (c *cli) unpin(ctx context.Context, arg string, req *v1.UnpinRequest) error {
	var err error
	if req.Name, req.Id, err = c.resolve(ctx, arg); err != nil {
		return err
	}
	resp, err := c.host().Control.Unpin(ctx, req)
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(resp)
	}
	if len(resp.GetHosts()) == 0 {
		_, err = fmt.Fprintf(c.stdout, "%s was pinned on none of them\n", resp.GetName())
		return err
	}
	_, err = fmt.Fprintf(c.stdout, "%s is not pinned any more on %s\n", resp.GetName(), strings.Join(resp.GetHosts(), ", "))
	return err
}
