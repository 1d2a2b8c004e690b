package main

import (
	"context"
	"math"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

// defaultPush is the quota of a guest that is let publish without a word about it, in bytes.
const defaultPush = 10 << 30

func newGuestPush(c *cli) *cobra.Command {
	var quota, prefix, guests string
	var off bool
	cmd := &cobra.Command{
		Use:   "push DOMAIN",
		Short: "Show or change what a domain's guest may publish",
		Long: `Push lets the guest of a domain publish files, by its agent: their names begin with the prefix, and the newest
versions under it have no more bytes together than the quota. It stands in the domain's libvirt metadata. Without flags it
shows what the guest may; a flag that is not given leaves what was.`,
		Example: `  virtswarm guest push web1 --quota 10GiB --prefix builds/web --guests tag:web
  virtswarm guest push web1
  virtswarm guest push web1 --off`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			changed := cmd.Flags().Changed
			changes := changed("quota") || changed("prefix") || changed("guests")
			req := &v1.SetGuestRequest{Guest: args[0], RemovePush: off}
			switch {
			case off && changes:
				return usageError("--off takes no other flags")
			case changes:
				p, err := c.pushOf(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if changed("quota") || p.Quota == 0 {
					if p.Quota, err = parsePushQuota(quota); err != nil {
						return err
					}
				}
				if changed("prefix") {
					p.Prefix = strings.TrimSuffix(prefix, "/")
				}
				if changed("guests") {
					p.Guests = guests
				}
				req.Push = p
			}
			return c.setGuest(cmd.Context(), req)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&quota, "quota", humanize.IBytes(defaultPush), "bytes that what it publishes may have together")
	cmd.Flags().StringVar(&prefix, "prefix", "", "what the names begin with (default guests/UUID)")
	cmd.Flags().StringVar(&guests, "guests", "none", "guests that may read it: none, all, tag:NAME, a pattern over domain names, or a UUID")
	cmd.Flags().BoolVar(&off, "off", false, "it may publish nothing any more")
	completeFlag(cmd, "guests", "none", "all", "tag:")
	return cmd
}

// pushOf returns what a domain's guest may publish now, of which a change keeps what it does not name.
func (c *cli) pushOf(ctx context.Context, guest string) (*v1.GuestPush, error) {
	resp, err := c.host().Control.SetGuest(ctx, &v1.SetGuestRequest{Guest: guest})
	if err != nil {
		return nil, err
	}
	if p := resp.GetGuest().GetPush(); p != nil {
		return p, nil
	}
	return &v1.GuestPush{}, nil
}

func parsePushQuota(text string) (uint64, error) {
	n, err := humanize.ParseBytes(text)
	if err != nil || n == 0 || n > math.MaxInt64 {
		return 0, usageError("--quota %s: it is bytes, such as 500MiB or 10GiB", text)
	}
	return n, nil
}
