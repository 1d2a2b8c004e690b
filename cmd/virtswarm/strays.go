package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

func newStrays(c *cli) *cobra.Command {
	req := &v1.StraysRequest{}
	cmd := &cobra.Command{
		Use:     "strays",
		GroupID: groupFiles,
		Short:   "List what is in the store and has no name in the catalogue",
		Long: `Strays lists the contents of this host's store, or with --all of every host's, that no entry of the catalogue
names: because the catalogue is new, or older than they are. They are kept until the time shown, or until their room is
needed. Adopt gives them their names back.`,
		Example: `  virtswarm strays --all
  virtswarm strays --all --json | jq -r '.strays[].names[]' | sort -u`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.strays(cmd.Context(), req)
		},
	}
	cmd.Flags().BoolVar(&req.All, "all", false, "ask all hosts")
	return cmd
}

func (c *cli) strays(ctx context.Context, req *v1.StraysRequest) error {
	resp, err := c.host().Control.Strays(ctx, req)
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(resp)
	}
	c.noteSilent(resp.GetSilent())
	if n := resp.GetLeftOut(); n > 0 {
		c.note("note: %s more than can be shown", plural(n, "stray"))
	}
	if len(resp.GetStrays()) == 0 {
		return nil
	}
	t := newTable(c.stdout, "HOST", "NAME", "ID", "SIZE", "SHARDS", "CLUSTER", "SINCE", "UNTIL")
	for _, s := range resp.GetStrays() {
		name, cluster := strings.Join(s.GetNames(), ", "), s.GetCluster()
		if name == "" {
			name = "-"
		}
		if cluster == "" {
			cluster = "-"
		}
		t.row(s.GetHost(), name, shortID(s.GetId()), size(s.GetSize()), copies(s.GetHeldShards(), s.GetShards()), cluster,
			when(s.GetSince()), when(s.GetUntil()))
	}
	return t.flush()
}

// noteSilent says which hosts could not be asked. With --json the answer says it itself.
func (c *cli) noteSilent(hosts []string) {
	if len(hosts) > 0 && !c.json {
		c.note("note: no answer from %s: what is there is not known", strings.Join(hosts, ", "))
	}
}
