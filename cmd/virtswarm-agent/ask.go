package main

import (
	"fmt"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/virtswarm/virtswarm/internal/guestlink"
)

func newLs(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:     "ls [PREFIX]",
		Short:   "List the files that this machine may pull",
		Example: "  virtswarm-agent ls images/",
		Args:    args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			prefix := ""
			if len(list) == 1 {
				prefix = list[0]
			}
			files, err := c.agent().List(cmd.Context(), prefix)
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(guestlink.EntryList{Files: append([]guestlink.Entry{}, files...)})
			}
			t := tabwriter.NewWriter(c.stdout, 0, 8, 2, ' ', 0)
			fmt.Fprintln(t, "NAME\tSIZE\tPUBLISHED\tID")
			for _, f := range files {
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", f.Name, humanize.IBytes(uint64(f.Size)), time.Unix(f.Published, 0).Format("2006-01-02 15:04:05"), f.ID.Short())
			}
			return t.Flush()
		},
	}
}

func newStatus(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show which machine this is for its host, what it may publish, and the link",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := c.agent().Status(cmd.Context())
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(s)
			}
			push := "nothing"
			if s.PushPrefix != "" {
				push = fmt.Sprintf("%s…, %s together", s.PushPrefix, humanize.IBytes(uint64(s.PushQuota)))
			}
			t := tabwriter.NewWriter(c.stdout, 0, 8, 2, ' ', 0)
			fmt.Fprintf(t, "domain\t%s\nuuid\t%s\nhost\t%s\nmay publish\t%s\nlink\t%s\n", s.Domain, s.UUID, s.Host, push, s.Link)
			for _, way := range s.Ways {
				if way != s.Link {
					fmt.Fprintf(t, "also\t%s\n", way)
				}
			}
			fmt.Fprintf(t, "agent\t%s\ndaemon\t%s\n", version, s.Daemon)
			return t.Flush()
		},
	}
}

// pinged is what ping found, in microseconds.
type pinged struct {
	Link   string  `json:"link"`
	Count  int     `json:"count"`
	Min    float64 `json:"min_us"`
	Median float64 `json:"median_us"`
	P95    float64 `json:"p95_us"`
	P99    float64 `json:"p99_us"`
	Max    float64 `json:"max_us"`
}

func newPing(c *cli) *cobra.Command {
	var count int
	var pause time.Duration
	var quiet bool
	cmd := &cobra.Command{
		Use:   "ping",
		Short: "Measure the round trip to the host",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if count < 0 || pause < 0 {
				return usageError("a count of %d, a pause of %s", count, pause)
			}
			var all []time.Duration
			link, err := c.agent().Ping(cmd.Context(), count, pause, func(n int, d time.Duration) {
				all = append(all, d)
				if !quiet && !c.json {
					fmt.Fprintf(c.stdout, "%d: %s\n", n, d.Round(100*time.Nanosecond))
				}
			})
			if err != nil || len(all) == 0 {
				return err
			}
			slices.Sort(all)
			at := func(part float64) float64 {
				return float64(all[int(part*float64(len(all)-1))].Nanoseconds()) / 1e3
			}
			p := pinged{link, len(all), at(0), at(0.5), at(0.95), at(0.99), at(1)}
			if c.json {
				return c.printJSON(p)
			}
			_, err = fmt.Fprintf(c.stdout, "%s: %d round trips, min %.1f, median %.1f, p95 %.1f, p99 %.1f, max %.1f µs\n", link, p.Count, p.Min, p.Median, p.P95, p.P99, p.Max)
			return err
		},
	}
	cmd.Flags().IntVarP(&count, "count", "c", 5, "how many, 0: until it is interrupted")
	cmd.Flags().DurationVarP(&pause, "interval", "i", 200*time.Millisecond, "pause between two")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print the summary alone")
	return cmd
}
