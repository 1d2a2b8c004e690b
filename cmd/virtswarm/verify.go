package main

import (
	"fmt"

	"connectrpc.com/connect"
	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/reason"
)

func newVerify(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:     "verify [NAME[@b3:DIGITS]]",
		GroupID: groupFiles,
		Short:   "Check what this host holds, and heal it",
		Long: `Verify reads what this host holds of a file, or of all files, compares every chunk with its digest and
fetches damaged ones anew from other hosts. It exits with 22 if damage is left.`,
		Example: `  virtswarm verify
  virtswarm verify images/debian-12.raw`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &v1.VerifyRequest{}
			if len(args) == 1 {
				var err error
				if req.Name, req.Id, err = c.resolve(cmd.Context(), args[0]); err != nil {
					return err
				}
			}
			stream, err := c.host().Control.Verify(cmd.Context(), req)
			return c.check(stream, err)
		},
		ValidArgsFunction: c.completeRef,
	}
}

func newScrub(c *cli) *cobra.Command {
	var limit string
	cmd := &cobra.Command{
		Use:     "scrub",
		GroupID: groupFiles,
		Short:   "Check all that this host holds at a limited rate, and heal it",
		Long: `Scrub is a verify of the whole store that leaves the disk to others: it reads no faster than the host's
setting, or --rate. It exits with 22 if damage is left.`,
		Example: `  virtswarm scrub
  virtswarm scrub --rate 50MiB`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			req := &v1.ScrubRequest{}
			if limit != "" {
				n, err := humanize.ParseBytes(limit)
				if err != nil || n == 0 {
					return usageError("--rate %s: it is bytes per second, such as 50MiB", limit)
				}
				req.Rate = n
			}
			stream, err := c.host().Control.Scrub(cmd.Context(), req)
			return c.check(stream, err)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&limit, "rate", "", "bytes per second to read at most (default: the host's setting)")
	return cmd
}

func (c *cli) check(stream *connect.ServerStreamForClient[v1.CheckProgress], err error) error {
	m := c.meter()
	defer m.clear()
	var last *v1.CheckProgress
	err = events(stream, err, func(p *v1.CheckProgress) error {
		last = p
		if c.json {
			return c.printJSON(p)
		}
		if p.GetPhase() != v1.CheckPhase_CHECK_PHASE_DONE {
			m.show(step{
				label: word(p.GetPhase()), note: p.GetName(),
				done: p.GetDone(), total: p.GetTotal(), rate: p.GetRate(),
			})
		}
		return nil
	})
	m.clear()
	if err != nil {
		return err
	}
	if last.GetPhase() != v1.CheckPhase_CHECK_PHASE_DONE {
		return errNoEnd
	}
	if !c.json {
		if err := c.showCheck(last); err != nil {
			return err
		}
	}
	if left := last.GetBadChunks() - last.GetHealedChunks(); left > 0 {
		return reason.Wrap(reason.DamagedData, plural(left, "chunk")+" in "+plural(len(last.GetDamage()), "file"), nil)
	}
	return nil
}

func (c *cli) showCheck(p *v1.CheckProgress) error {
	verdict := "no damage"
	if p.GetBadChunks() > 0 {
		verdict = fmt.Sprintf("%s damaged, %d healed", plural(p.GetBadChunks(), "chunk"), p.GetHealedChunks())
	}
	fmt.Fprintf(c.stdout, "%s in %s checked: %s\n", size(p.GetDone()), plural(p.GetFiles(), "file"), verdict)
	if len(p.GetDamage()) == 0 {
		return nil
	}
	t := newTable(c.stdout, "NAME", "DAMAGED", "HEALED", "VERSION")
	for _, d := range p.GetDamage() {
		t.row(d.GetName(), d.GetBadChunks(), d.GetHealedChunks(), shortID(d.GetId()))
	}
	return t.flush()
}
