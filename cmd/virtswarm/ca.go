package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

// authorityDigits is how much of an authority's id a table shows.
const authorityDigits = 16

func newCA(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "ca",
		GroupID: groupCluster,
		Short:   "Show the cluster's certificate authority, or replace it",
		Long: `Ca lists the certificate authorities that the hosts trust, and the hosts whose certificates each has
signed. One is active; its key stands at the hosts that vote. Beside it there is a former one only while another takes
its place.`,
		Args:              cobra.NoArgs,
		RunE:              func(cmd *cobra.Command, _ []string) error { return c.ca(cmd.Context()) },
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.AddCommand(newCARotate(c))
	return cmd
}

func (c *cli) ca(ctx context.Context) error {
	resp, err := c.host().Control.Authorities(ctx, &v1.AuthoritiesRequest{})
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(resp)
	}
	c.noteStale(resp.GetStaleness())
	if len(resp.GetAuthorities()) == 0 {
		c.note("the catalogue does not know the authority yet: not all hosts are upgraded, or the cluster has just begun")
		return nil
	}
	t := newTable(c.stdout, "AUTHORITY", "STATE", "SINCE", "HOSTS")
	for _, a := range resp.GetAuthorities() {
		hosts := strings.Join(a.GetHosts(), ",")
		if hosts == "" {
			hosts = "-"
		}
		t.row(a.GetId()[:min(authorityDigits, len(a.GetId()))], word(a.GetState()), when(a.GetStateSince()), hosts)
	}
	return t.flush()
}

func newCARotate(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "rotate",
		Short: "Replace the certificate authority while the cluster runs",
		Long: `Rotate makes a new certificate authority, gives its key to the hosts that vote, and waits until every host
that is up has a certificate of it; then nobody trusts the old one any more. Nothing stops meanwhile, and a host that is
down gets its certificate when it comes back. Interrupted, the replacement goes on.

Do so after a host that voted was removed because somebody else may have had it in his hands: its copy of the key is of
no use then. Join tokens that were made before are void.`,
		Example: `  virtswarm leave stolen-host --force && virtswarm ca rotate`,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.rotateCA(cmd.Context()) },

		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

func (c *cli) rotateCA(ctx context.Context) error {
	m := c.meter()
	defer m.clear()
	var last *v1.RotateAuthorityProgress
	stream, err := c.host().Control.RotateAuthority(ctx, &v1.RotateAuthorityRequest{})
	err = events(stream, err, func(p *v1.RotateAuthorityProgress) error {
		last = p
		if c.json {
			return c.printJSON(p)
		}
		if !p.GetDone() {
			m.show(step{
				label: "renewing certificates", done: uint64(p.GetRenewed()), total: uint64(p.GetHosts()), unit: "host",
			})
		}
		return nil
	})
	m.clear()
	if err != nil || c.json {
		return err
	}
	if !last.GetDone() {
		return errNoEnd
	}
	down := ""
	if n := len(last.GetDown()); n > 0 {
		down = fmt.Sprintf("; when they come back: %s", strings.Join(last.GetDown(), ", "))
	}
	_, err = fmt.Fprintf(c.stdout, "authority %s signs; %s have a certificate of it%s\n",
		last.GetAuthority()[:min(authorityDigits, len(last.GetAuthority()))], plural(last.GetHosts(), "host"), down)
	return err
}
