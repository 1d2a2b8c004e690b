package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

type restoreShape struct {
	ClusterID string         `json:"cluster_id"`
	Index     uint64         `json:"index"`
	Names     uint32         `json:"names"`
	Versions  uint32         `json:"versions"`
	DryRun    bool           `json:"dry_run"`
	Restored  []adoptedShape `json:"restored"`
	Entered   uint32         `json:"entered"`
	Refused   uint32         `json:"refused"`
	Present   uint32         `json:"present"`
	Silent    []string       `json:"silent"`
	LeftOut   []string       `json:"left_out"`
}

func newCatalogueRestore(c *cli) *cobra.Command {
	req := &v1.RestoreCatalogueRequest{}
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Enter the names and versions of a saved catalogue that this one lacks",
		Long: `Restore reads what 'virtswarm catalogue save' wrote and enters, in the cluster that runs, the names and versions that
its catalogue lacks, with their copies and guests, and the orders to hold them for members of the same names. It removes
nothing, hides no newer version, and to repeat it is harmless. FILE must be on the host whose daemon is asked.

The contents themselves are not in FILE: hosts that hold them say so once the catalogue names them.`,
		Example: `  virtswarm catalogue restore /backup/catalogue --dry-run
  virtswarm catalogue restore /backup/catalogue`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkText(args[0]); err != nil {
				return err
			}
			path, err := filepath.Abs(args[0])
			if err != nil {
				return usageError("%s: %v", args[0], err)
			}
			req.Path = path
			return c.restoreCatalogue(cmd.Context(), req)
		},
	}
	cmd.Flags().BoolVar(&req.DryRun, "dry-run", false, "say what would be entered, and enter nothing")
	return cmd
}

func (c *cli) restoreCatalogue(ctx context.Context, req *v1.RestoreCatalogueRequest) error {
	resp, err := c.host().Control.RestoreCatalogue(ctx, req)
	if err != nil {
		return err
	}
	if c.json {
		err = c.printJSON(restoreShape{
			ClusterID: resp.GetClusterId(), Index: resp.GetIndex(), Names: resp.GetNames(), Versions: resp.GetVersions(), DryRun: req.GetDryRun(),
			Restored: list(resp.GetEntered(), adoptedJSON), Entered: resp.GetEnteredCount(), Refused: resp.GetRefusedCount(),
			Present: resp.GetPresent(), Silent: list(resp.GetSilent(), same[string]), LeftOut: list(resp.GetLeftOut(), same[string]),
		})
	} else {
		err = c.printRestored(req, resp)
	}
	if err != nil {
		return err
	}
	return refusedError(resp.GetEntered(), resp.GetRefusedCount())
}

func (c *cli) printRestored(req *v1.RestoreCatalogueRequest, resp *v1.RestoreCatalogueResponse) error {
	verb := "entered"
	if req.GetDryRun() {
		verb = "would enter"
	}
	c.noteSilent(resp.GetSilent())
	if err := c.printAdopted(verb, resp.GetEntered()); err != nil {
		return err
	}
	for _, what := range resp.GetLeftOut() {
		c.note("not brought back: %s", what)
	}
	_, err := fmt.Fprintf(c.stdout, "%s %s of %d in the catalogue that cluster %s had at entry %d; %d were there\n",
		verb, plural(resp.GetEnteredCount(), "version"), resp.GetVersions(), resp.GetClusterId(), resp.GetIndex(), resp.GetPresent())
	return err
}
