package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

func newLeave(c *cli) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "leave [HOST]",
		GroupID: groupCluster,
		Short:   "Take this host, or a dead one, out of the cluster",
		Long: `Leave waits until others hold what this host must hold, then takes it out of the cluster and ends its
daemon. Its certificate is worth nothing from then on; to come back it must join anew. Interrupted while it waits,
the host stays a member.

A host that is down for good is removed from any other one, by name. With --force nothing is waited for, and a host
that is up is cut off: what nobody else holds is lost.`,
		Example: `  virtswarm leave
  virtswarm leave beta
  virtswarm leave beta --force`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &v1.LeaveRequest{Force: force}
			if len(args) == 1 {
				req.Host = args[0]
			}
			return c.leave(cmd.Context(), req)
		},
		ValidArgsFunction: c.completeHost,
	}
	cmd.Flags().BoolVar(&force, "force", false, "wait for nothing, and cut it off if it is up")
	return cmd
}

func (c *cli) leave(ctx context.Context, req *v1.LeaveRequest) error {
	m := c.meter()
	defer m.clear()
	var last *v1.LeaveProgress
	stream, err := c.host().Control.Leave(ctx, req)
	err = events(stream, err, func(p *v1.LeaveProgress) error {
		last = p
		if c.json {
			return c.printJSON(p)
		}
		if p.GetPhase() == v1.LeavePhase_LEAVE_PHASE_DRAINING {
			m.show(step{label: "moving", unit: "shard", done: p.GetDone(), total: p.GetTotal()})
		}
		return nil
	})
	m.clear()
	if err != nil {
		return err
	}
	if last.GetPhase() != v1.LeavePhase_LEAVE_PHASE_DONE {
		return errNoEnd
	}
	if !c.json {
		_, err = fmt.Fprintf(c.stdout, "%s has left the cluster\n", last.GetHost())
	}
	return err
}
