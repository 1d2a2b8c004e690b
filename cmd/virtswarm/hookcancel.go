package main

import (
	"fmt"

	"github.com/spf13/cobra"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

func newHookCancel(c *cli) *cobra.Command {
	var host string
	cmd := &cobra.Command{
		Use:   "cancel DOMAIN",
		Short: "End the wait of a domain's start for its files",
		Long: `Cancel ends the wait of a start, a restore or a migration for the files that the domain needs: libvirt refuses it,
and virsh can be used with the domain again. What has come of the files stays. 'virtswarm guests' shows which starts wait.

A start waits on this host, or where the cluster has the domain; with --host on another one, to which it migrates.`,
		Example: `  virtswarm hook cancel web1`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			resp, err := c.host().Control.CancelStart(cmd.Context(), &v1.CancelStartRequest{Guest: args[0], Host: host})
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(resp)
			}
			_, err = fmt.Fprintf(c.stdout, "the start of %s on %s does not wait any more\n", quote(args[0]), resp.GetHost())
			return err
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&host, "host", "", "the host where it waits, by name or id")
	must(cmd.RegisterFlagCompletionFunc("host", c.completeHosts))
	return cmd
}
