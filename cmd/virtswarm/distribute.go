package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

func newDistribute(c *cli) *cobra.Command {
	var to []string
	var watch bool
	cmd := &cobra.Command{
		Use:     "distribute NAME[@b3:DIGITS] --to all|HOST,tag:TAG,...",
		GroupID: groupFiles,
		Short:   "Make hosts hold a file whole",
		Long: `Distribute makes hosts hold the file whole, from now on: a host that is down gets it when it comes
back, and with "all" a host that joins later gets it too. With tag:NAME the hosts hold it that run domains of that tag,
as they do, and others when the domains move there. It returns once that is in the catalogue, with
--watch once every live host holds the file.`,
		Example: `  virtswarm distribute images/debian-12.raw --to all --watch
  virtswarm distribute images/debian-12.raw@b3:0f1e2d3c --to alpha,beta
  virtswarm distribute images/site.raw --to tag:web`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			all := slices.Contains(to, "all")
			if all && len(to) > 1 {
				return usageError("--to %s: it is all, or names of hosts", strings.Join(to, ","))
			}
			req := &v1.DistributeRequest{All: all, Watch: watch}
			if !all {
				req.Hosts = to
			}
			return c.distribute(cmd.Context(), args[0], req)
		},
		ValidArgsFunction: c.completeRef,
	}
	cmd.Flags().StringSliceVar(&to, "to", nil, "hosts, by name or id and separated by commas, tags as tag:NAME, or all")
	cmd.Flags().BoolVar(&watch, "watch", false, "show progress and return when every live host holds the file")
	must(cmd.MarkFlagRequired("to"))
	must(cmd.RegisterFlagCompletionFunc("to", c.completeHosts))
	return cmd
}

func (c *cli) distribute(ctx context.Context, arg string, req *v1.DistributeRequest) error {
	var err error
	if req.Name, req.Id, err = c.resolve(ctx, arg); err != nil {
		return err
	}
	m := c.meter()
	defer m.clear()
	var last *v1.DistributeProgress
	stream, err := c.host().Control.Distribute(ctx, req)
	err = events(stream, err, func(p *v1.DistributeProgress) error {
		last = p
		if c.json {
			return c.printJSON(p)
		}
		if !p.GetDone() {
			m.show(distributeStep(p))
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
	t := newTable(c.stdout, "HOST", "STATE", "HELD", "OF")
	for _, h := range last.GetHosts() {
		t.row(h.GetHost(), word(h.GetState()), size(h.GetHeldBytes()), size(h.GetTotalBytes()))
	}
	if err := t.flush(); err != nil {
		return err
	}
	if text := spreadText(last); req.GetWatch() && text != "" {
		_, err = fmt.Fprintln(c.stdout, text)
	}
	return err
}

// spreadText gives the times of the first, the median and the last host, of those that were not complete before.
func spreadText(p *v1.DistributeProgress) string {
	var took []float64
	for _, h := range p.GetHosts() {
		if h.GetSeconds() > 0 {
			took = append(took, h.GetSeconds())
		}
	}
	if len(took) == 0 {
		return ""
	}
	slices.Sort(took)
	text := fmt.Sprintf("%s: first after %s, half after %s, last after %s",
		plural(len(took), "host"), seconds(took[0]), seconds(took[(len(took)-1)/2]), seconds(took[len(took)-1]))
	if n := p.GetSentBytes(); n > 0 {
		text += fmt.Sprintf("; this host sent %s", size(n))
	}
	return text
}

// distributeStep adds up what all hosts do.
func distributeStep(p *v1.DistributeProgress) step {
	s := step{label: "distributing"}
	complete := 0
	for _, h := range p.GetHosts() {
		s.done += h.GetHeldBytes()
		s.total += h.GetTotalBytes()
		s.rate += h.GetRate()
		if h.GetState() == v1.HoldState_HOLD_STATE_COMPLETE {
			complete++
		}
	}
	s.note = fmt.Sprintf("%d of %s complete", complete, plural(len(p.GetHosts()), "host"))
	return s
}
