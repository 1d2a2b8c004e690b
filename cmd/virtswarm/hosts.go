package main

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

func newHosts(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:     "hosts",
		GroupID: groupCluster,
		Short:   "List the hosts of the cluster",
		Long: `Hosts lists the members. ROLE is leader, voter (one of up to five that decide) or member; an asterisk
marks the host that answers.`,
		Example: `  virtswarm hosts
  virtswarm hosts --json | jq -r '.hosts[] | select(.state != "alive").name'`,
		Args:              cobra.NoArgs,
		RunE:              func(cmd *cobra.Command, _ []string) error { return c.hosts(cmd.Context()) },
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

func (c *cli) hosts(ctx context.Context) error {
	resp, err := c.host().Control.Hosts(ctx, &v1.HostsRequest{})
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(resp)
	}
	c.noteStale(resp.GetStaleness())
	t := newTable(c.stdout, "HOST", "STATE", "ROLE", "ADDRESS", "VERSION", "WEIGHT", "FILES", "HELD", "ID", "LABELS")
	for _, h := range resp.GetHosts() {
		name := h.GetName()
		if h.GetSelf() {
			name += "*"
		}
		t.row(name, word(h.GetState()), role(h), h.GetAddress(), cmp.Or(h.GetVersion(), "-"), h.GetWeight(), h.GetFiles(),
			size(h.GetHeldBytes()), h.GetId(), labels(h.GetLabels()))
	}
	return t.flush()
}

func role(h *v1.Host) string {
	switch {
	case h.GetLeader():
		return "leader"
	case h.GetVoter():
		return "voter"
	}
	return "member"
}

func labels(m map[string]string) string {
	if len(m) == 0 {
		return "-"
	}
	pairs := list(slices.Sorted(maps.Keys(m)), func(k string) string { return k + "=" + m[k] })
	return strings.Join(pairs, ",")
}
