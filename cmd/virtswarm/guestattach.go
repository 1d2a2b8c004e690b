package main

import (
	"cmp"
	"context"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

// defaultShm is what is asked for at each start if nobody ever said how much, in bytes.
const defaultShm = 1 << 20

// managedByLibvirt is what the daemon calls domains that have metadata.
const managedByLibvirt = "libvirt"

func newGuestAttachShm(c *cli) *cobra.Command {
	var text string
	var always bool
	cmd := &cobra.Command{
		Use:   "attach-shm DOMAIN",
		Short: "Give a running domain shared memory for its guest link",
		Long: `Attach-shm plugs memory that the host and the guest share into a domain that runs, until it is shut down; the guest's
agent then talks to the host through it. A q35 machine needs a pcie-to-pci-bridge for it (docs/virsh.md).

With --always the domain's libvirt metadata asks for it at each start, too. Of a domain that does not run only that is changed.`,
		Example: `  virtswarm guest attach-shm web1
  virtswarm guest attach-shm web1 --size 64MiB --always`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			bytes, err := parseShm(text)
			if err != nil {
				return err
			}
			return c.attachShm(cmd.Context(), args[0], bytes, always)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&text, "size", "", "a power of two from 1MiB to 1GiB (default: what it has or its metadata asks for, else 1MiB)")
	cmd.Flags().BoolVar(&always, "always", false, "at each start, too")
	return cmd
}

func (c *cli) attachShm(ctx context.Context, guest string, bytes uint64, always bool) error {
	set := &v1.SetGuestRequest{Guest: guest}
	if always {
		now, err := c.host().Control.SetGuest(ctx, set) // shows it
		if err != nil {
			return err
		}
		g := now.GetGuest()
		bytes = cmp.Or(bytes, g.GetShm(), g.GetWantShm(), defaultShm)
		set.Shm = &bytes
		if !runs(g) || g.GetManager() != managedByLibvirt { // the latter is refused, before anything is done
			return c.setGuest(ctx, set)
		}
	}
	attached, err := c.host().Control.AttachShm(ctx, &v1.AttachShmRequest{Guest: guest, Size: bytes})
	if err != nil {
		return err
	}
	g := attached.GetGuest()
	if always { // last, or the host would attach it by itself meanwhile
		resp, err := c.host().Control.SetGuest(ctx, set)
		if err != nil {
			return err
		}
		g.WantShm = resp.GetGuest().GetWantShm() // the catalogue may not know of both yet
	}
	return c.printGuest(g)
}

// runs reports whether there is a process into which something can be plugged.
func runs(g *v1.Guest) bool {
	switch g.GetState() {
	case v1.GuestState_GUEST_STATE_OFF, v1.GuestState_GUEST_STATE_CRASHED:
		return false
	}
	return true
}

// parseShm returns 0 for nothing, which leaves it to the daemon.
func parseShm(text string) (uint64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := humanize.ParseBytes(text)
	const least, most = 1 << 20, 1 << 30
	if err != nil || n < least || n > most || n&(n-1) != 0 {
		return 0, usageError("--size %s: it is a power of two from 1MiB to 1GiB", text)
	}
	return n, nil
}
