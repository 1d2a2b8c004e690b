package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

type strayShape struct {
	HostID     string    `json:"host_id"`
	Host       string    `json:"host"`
	ID         string    `json:"id"`
	Names      []string  `json:"names"` // none if no catalogue ever gave it one
	Size       uint64    `json:"size"`
	DataBytes  uint64    `json:"data_bytes"`
	Shards     uint32    `json:"shards"`
	HeldShards uint32    `json:"held_shards"`
	HeldBytes  uint64    `json:"held_bytes"`
	Cluster    string    `json:"cluster"` // "" if unknown
	Since      time.Time `json:"since"`
	Until      time.Time `json:"until"`
}

type straysShape struct {
	Strays  []strayShape `json:"strays"`
	Silent  []string     `json:"silent"`
	LeftOut uint64       `json:"left_out"`
}

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
		return c.printJSON(straysShape{
			Strays: list(resp.GetStrays(), strayJSON), Silent: list(resp.GetSilent(), same[string]), LeftOut: resp.GetLeftOut(),
		})
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

func strayJSON(s *v1.Stray) strayShape {
	return strayShape{
		HostID: s.GetHostId(), Host: s.GetHost(), ID: s.GetId(), Names: list(s.GetNames(), same[string]), Size: s.GetSize(),
		DataBytes: s.GetDataBytes(), Shards: s.GetShards(), HeldShards: s.GetHeldShards(), HeldBytes: s.GetHeldBytes(),
		Cluster: s.GetCluster(), Since: time.Unix(s.GetSince(), 0).UTC(), Until: time.Unix(s.GetUntil(), 0).UTC(),
	}
}

func same[T any](v T) T { return v }
