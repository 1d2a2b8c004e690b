package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

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
			path, err := absolute(args[0])
			if err != nil {
				return err
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
	withFlags(resp.GetRestored())
	if c.json {
		err = c.printJSON(resp)
	} else {
		err = c.printRestored(req, resp)
	}
	if err != nil {
		return err
	}
	return refusedError(resp.GetRestored(), resp.GetRefused())
}

func (c *cli) printRestored(req *v1.RestoreCatalogueRequest, resp *v1.RestoreCatalogueResponse) error {
	verb := "entered"
	if req.GetDryRun() {
		verb = "would enter"
	}
	c.noteSilent(resp.GetSilent())
	if err := c.printAdopted(verb, resp.GetRestored()); err != nil {
		return err
	}
	for _, what := range resp.GetLeftOut() {
		c.note("not brought back: %s", what)
	}
	_, err := fmt.Fprintf(c.stdout, "%s %s of %d in the catalogue that cluster %s had at entry %d; %d were there\n",
		verb, plural(resp.GetEntered(), "version"), resp.GetVersions(), resp.GetClusterId(), resp.GetIndex(), resp.GetPresent())
	return err
}
