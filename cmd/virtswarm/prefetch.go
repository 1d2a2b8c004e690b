package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

func newPrefetch(c *cli) *cobra.Command {
	var to string
	cmd := &cobra.Command{
		Use:     "prefetch DOMAIN",
		GroupID: groupCluster,
		Short:   "Make present what a domain needs, before it starts or migrates",
		Long: `Prefetch does now what the libvirt hook would do at the domain's start: each file that the domain's metadata names
is made complete on its host, and put at its path. While a start waits for its files libvirt keeps the domain locked, so
that virsh can neither list nor end it; after a prefetch the start finds everything there.

With --to it does so on another host, where the domain is about to start or to arrive by a migration.`,
		Example: `  virtswarm prefetch web1
  virtswarm prefetch web1 --to hv2 && virsh migrate --live web1 qemu+ssh://hv2/system`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.prefetch(cmd.Context(), args[0], to)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&to, "to", "", "the host, by name or id (default: where the domain is)")
	must(cmd.RegisterFlagCompletionFunc("to", c.completeHosts))
	return cmd
}

func (c *cli) prefetch(ctx context.Context, domain, to string) error {
	var last *v1.PrepareProgress
	m := c.meter()
	defer m.clear()
	stream, err := c.host().Control.Prefetch(ctx, &v1.PrefetchRequest{Guest: domain, Host: to})
	err = events(stream, err, func(p *v1.PrepareProgress) error {
		last = p
		if c.json {
			return c.printJSON(p)
		}
		m.show(step{label: p.GetName(), done: p.GetHave(), total: p.GetTotal(), rate: p.GetRate()})
		return nil
	})
	m.clear()
	switch {
	case err != nil:
		return err
	case !last.GetDone():
		return errNoEnd
	case c.json:
		return nil
	}
	_, err = fmt.Fprintf(c.stdout, "all that %s needs is there\n", quote(domain))
	return err
}
