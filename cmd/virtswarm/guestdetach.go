package main

import (
	"context"

	"github.com/spf13/cobra"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

func newGuestDetachShm(c *cli) *cobra.Command {
	var always bool
	cmd := &cobra.Command{
		Use:   "detach-shm DOMAIN",
		Short: "Take the shared memory of its guest link from a running domain",
		Long: `Detach-shm unplugs the shared memory of a domain's guest link and waits until the guest has let go of it. Its agent
goes on by vsock, if there is any.

With --always the domain's libvirt metadata does not ask for it at each start any more. Of a domain that does not run only
that is changed.`,
		Example: `  virtswarm guest detach-shm web1 --always`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.detachShm(cmd.Context(), args[0], always)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&always, "always", false, "nor at the next starts")
	return cmd
}

func (c *cli) detachShm(ctx context.Context, guest string, always bool) error {
	if always { // first, or the host would attach it again
		set, err := c.host().Control.SetGuest(ctx, &v1.SetGuestRequest{Guest: guest, Shm: new(uint64)})
		if err != nil {
			return err
		}
		if g := set.GetGuest(); !runs(g) {
			return c.printGuest(g)
		}
	}
	resp, err := c.host().Control.DetachShm(ctx, &v1.DetachShmRequest{Guest: guest})
	if err != nil {
		return err
	}
	g := resp.GetGuest()
	if always {
		g.WantShm = 0 // the catalogue may not know of it yet
	}
	return c.printGuest(g)
}
