package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

func newInit(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:     "init",
		GroupID: groupCluster,
		Short:   "Make a new cluster with this host as its first member",
		Long: `Init tells a daemon that waits for its cluster (first_start: wait) to make a new one. The daemon goes on without
a restart. On a host that is a member it changes nothing and says of which cluster.`,
		Example: `  virtswarm init
  virtswarm init --json | jq -r .cluster_id`,
		Args:              cobra.NoArgs,
		RunE:              func(cmd *cobra.Command, _ []string) error { return c.init(cmd.Context()) },
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

func (c *cli) init(ctx context.Context) error {
	r, err := c.host().Setup.Init(ctx, &v1.InitRequest{})
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(r)
	}
	_, err = fmt.Fprintf(c.stdout, "made cluster %s; this host is its first member, %s\n", r.GetClusterId(), r.GetHostId())
	return err
}

func newJoin(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:     "join ADDRESS TOKEN",
		GroupID: groupCluster,
		Short:   "Make this host a member of an existing cluster",
		Long: `Join tells a daemon that waits for its cluster (first_start: wait) to join the one of the member at ADDRESS, with a
token that 'virtswarm token' prints there. The daemon goes on without a restart. If the join fails, nothing is changed and
the daemon waits on. On a host that is a member it changes nothing and says of which cluster.`,
		Example:           `  virtswarm join hv1:7117 vst1.…`,
		Args:              cobra.ExactArgs(2),
		RunE:              func(cmd *cobra.Command, args []string) error { return c.join(cmd.Context(), args[0], args[1]) },
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

func (c *cli) join(ctx context.Context, addr, token string) error {
	r, err := c.host().Setup.JoinCluster(ctx, &v1.JoinClusterRequest{Address: addr, Token: token})
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(r)
	}
	_, err = fmt.Fprintf(c.stdout, "this host is a member of cluster %s, as %s\n", r.GetClusterId(), r.GetHostId())
	return err
}
