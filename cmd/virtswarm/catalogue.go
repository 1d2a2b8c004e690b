package main

import (
	"github.com/spf13/cobra"
)

func newCatalogue(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "catalogue",
		GroupID: groupCluster,
		Short:   "Save the catalogue to a file, or bring back what a saved one had",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return usageError("catalogue: say what to do: save or restore")
		},
	}
	cmd.AddCommand(newCatalogueSave(c), newCatalogueRestore(c))
	return cmd
}
