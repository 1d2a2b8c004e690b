package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

func newDrain(c *cli) *cobra.Command {
	req := &v1.DrainRequest{}
	cmd := &cobra.Command{
		Use:     "drain [HOST]",
		GroupID: groupCluster,
		Short:   "Move what this host, or another one, keeps to others, before maintenance",
		Long: `Drain tells a host that it keeps nothing any more: its shards get their copies on other hosts, while it
stays a member and serves on. It returns once that is in the catalogue; with --wait once the host can be taken away
without any file having fewer copies than wanted. Interrupted, the draining goes on. Undrain takes the order back.

It refuses if the other hosts are too few, or have no room, unless --force is given: then they take what they can.`,
		Example: `  virtswarm drain --wait && systemctl stop virtswarmd
  virtswarm drain beta
  virtswarm undrain beta`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				req.Host = args[0]
			}
			return c.drain(cmd.Context(), req)
		},
		ValidArgsFunction: c.completeHost,
	}
	cmd.Flags().BoolVar(&req.Wait, "wait", false, "show progress and return when all it held is safe elsewhere")
	cmd.Flags().BoolVar(&req.Force, "force", false, "even if the other hosts cannot hold all of it")
	return cmd
}

func (c *cli) drain(ctx context.Context, req *v1.DrainRequest) error {
	m := c.meter()
	defer m.clear()
	var last *v1.DrainProgress
	stream, err := c.host().Control.Drain(ctx, req)
	err = events(stream, err, func(p *v1.DrainProgress) error {
		last = p
		if c.json {
			return c.printJSON(p)
		}
		if !p.GetDone() {
			m.show(step{
				label: "moving", done: p.GetTotalBytes() - p.GetLeftBytes(), total: p.GetTotalBytes(), rate: p.GetRate(),
				note: plural(p.GetLeftShards(), "shard") + " left",
			})
		}
		return nil
	})
	m.clear()
	if err != nil || c.json {
		return err
	}
	if !last.GetDone() {
		return errNoEnd
	}
	if last.GetLeftShards() > 0 {
		_, err = fmt.Fprintf(c.stdout, "%s is drained; %s, %s, not safe elsewhere yet (see: virtswarm host show %s)\n",
			last.GetHost(), plural(last.GetLeftShards(), "shard"), size(last.GetLeftBytes()), quote(last.GetHost()))
		return err
	}
	_, err = fmt.Fprintf(c.stdout, "%s is drained; all it held is safe elsewhere\n", last.GetHost())
	return err
}

func newUndrain(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:     "undrain [HOST]",
		GroupID: groupCluster,
		Short:   "Let a drained host keep shards again",
		Long: `Undrain takes back a drain: the host gets its share of the shards again. What it still holds counts at
once; what others fetched meanwhile is cache there.`,
		Example: `  virtswarm undrain
  virtswarm undrain beta`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &v1.UndrainRequest{}
			if len(args) == 1 {
				req.Host = args[0]
			}
			resp, err := c.host().Control.Undrain(cmd.Context(), req)
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(resp)
			}
			_, err = fmt.Fprintf(c.stdout, "%s is %s\n", resp.GetHost().GetName(), word(resp.GetHost().GetState()))
			return err
		},
		ValidArgsFunction: c.completeHost,
	}
}
