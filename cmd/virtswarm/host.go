package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/virtswarm/virtswarm/internal/api"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

func newHost(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "host",
		GroupID: groupCluster,
		Short:   "Show or change one host: labels, weight, limits",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usageError("host: say what to do: show or set")
		},
	}
	cmd.AddCommand(newHostShow(c), newHostSet(c))
	return cmd
}

func newHostShow(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "show [HOST]",
		Short: "Show all that is known of a host",
		Long: `Show tells what the catalogue knows of a host, what it must hold, what limits it keeps to, and, if it
answers, how it is doing.`,
		Example: `  virtswarm host show
  virtswarm host show beta --json | jq .host.limits`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &v1.ShowHostRequest{}
			if len(args) == 1 {
				req.Host = args[0]
			}
			return c.showHost(cmd.Context(), req)
		},
		ValidArgsFunction: c.completeHost,
	}
}

func (c *cli) showHost(ctx context.Context, req *v1.ShowHostRequest) error {
	resp, err := c.host().Control.ShowHost(ctx, req)
	if err != nil {
		return err
	}
	if c.json {
		nameFlags(resp.GetReport().GetFindings())
		return c.printJSON(resp)
	}
	c.noteStale(resp.GetStaleness())
	h := resp.GetHost()
	t := newTable(c.stdout)
	t.row("Host", fmt.Sprintf("%s (%s), %s", h.GetName(), h.GetAddress(), role(h)))
	t.row("Id", h.GetId())
	t.row("State", fmt.Sprintf("%s since %s", word(h.GetState()), when(h.GetStateSince())))
	if h.GetState() == v1.HostState_HOST_STATE_LEAVING {
		left := "all it held is safe elsewhere"
		if n := resp.GetDrainShards(); n > 0 {
			left = fmt.Sprintf("%s, %s, not safe elsewhere yet", plural(n, "shard"), size(resp.GetDrainBytes()))
		}
		t.row("Drained", left)
	}
	t.row("Weight", h.GetWeight())
	t.row("Labels", labels(h.GetLabels()))
	for _, row := range limitRows(h.GetLimits()) {
		t.row(row[0], row[1])
	}
	t.row("Holds", fmt.Sprintf("%s of %s; %d of the %s it must", size(h.GetHeldBytes()), plural(h.GetFiles(), "file"),
		resp.GetMustHeldShards(), plural(resp.GetMustShards(), "shard")))
	r := resp.GetReport()
	if why := r.GetUnreachable(); why != "" {
		t.row("Report", "none: "+why)
		return t.flush()
	}
	t.row("Store", storeText(r.GetStore()))
	t.row("To fetch", fmt.Sprintf("repair %s, ordered %s", workText(r.GetRepairBytes(), r.GetRepairRate()),
		workText(r.GetDistributeBytes(), r.GetDistributeRate())))
	t.row("Pulled", fmt.Sprintf("%s since start, %s of it were here", size(r.GetHitBytes()+r.GetMissBytes()), size(r.GetHitBytes())))
	t.row("Since start", fmt.Sprintf("%s evicted, %s sent, %s received", size(r.GetEvictedBytes()), size(r.GetSentBytes()), size(r.GetReceivedBytes())))
	if err := t.flush(); err != nil || len(r.GetPeers()) == 0 {
		return err
	}
	fmt.Fprintln(c.stdout)
	return c.showPeers([]*v1.HostReport{r})
}

func limitRows(l *v1.HostLimits) [][2]string {
	quota := "none"
	if l.GetQuota() > 0 {
		quota = size(l.GetQuota())
	}
	return [][2]string{
		{"Rates", fmt.Sprintf("up %s, down %s", api.FormatRate(int64(l.GetUp())), api.FormatRate(int64(l.GetDown())))},
		{"Quota", fmt.Sprintf("%s, evicts from %d%% down to %d%%", quota, l.GetHigh(), l.GetLow())},
	}
}

// hostFlags are the settings as they are typed.
type hostFlags struct {
	labels          map[string]string
	weight          uint32
	up, down, quota string
	high, low       string
}

func newHostSet(c *cli) *cobra.Command {
	var f hostFlags
	cmd := &cobra.Command{
		Use:   "set HOST",
		Short: "Change labels, weight or limits of a host",
		Long: `Set changes what is given and leaves the rest as it is; the host follows at once. Rates are in bits per
second (200Mbit, 1G), "none" lifts a limit. A label without a value is removed. The values in the configuration
file of the host count at its first start, and again when they were edited.`,
		Example: `  virtswarm host set beta --label rack=r1 --label zone=
  virtswarm host set beta --up 200Mbit --down none
  virtswarm host set beta --quota 500GiB --high 90% --low 80%
  virtswarm host set beta --weight 200`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := f.request(cmd, args[0])
			if err != nil {
				return err
			}
			return c.setHost(cmd.Context(), req)
		},
		ValidArgsFunction: c.completeHost,
	}
	cmd.Flags().StringToStringVar(&f.labels, "label", nil, "set the label KEY=VALUE, or remove it with KEY=")
	cmd.Flags().Uint32Var(&f.weight, "weight", 0, "share of the shards relative to other hosts")
	cmd.Flags().StringVar(&f.up, "up", "", "rate to other hosts at most, such as 200Mbit, or none")
	cmd.Flags().StringVar(&f.down, "down", "", "rate from other hosts at most, or none")
	cmd.Flags().StringVar(&f.quota, "quota", "", "size of the store at most, such as 500GiB, or none")
	cmd.Flags().StringVar(&f.high, "high", "", "part of the quota at which eviction begins, such as 90%")
	cmd.Flags().StringVar(&f.low, "low", "", "part of the quota at which it ends")
	return cmd
}

// request reads the flags that were given.
func (f *hostFlags) request(cmd *cobra.Command, host string) (*v1.SetHostRequest, error) {
	req := &v1.SetHostRequest{Host: host, Labels: f.labels}
	given := cmd.Flags().Changed
	if given("weight") {
		req.Weight = &f.weight
	}
	for _, amount := range []struct {
		flag, text string
		parse      func(string) (int64, error)
		set        **uint64
	}{{"up", f.up, api.ParseRate, &req.Up}, {"down", f.down, api.ParseRate, &req.Down}, {"quota", f.quota, parseQuota, &req.Quota}} {
		if !given(amount.flag) {
			continue
		}
		n, err := amount.parse(amount.text)
		if err != nil {
			return nil, usageError("--%s: %v", amount.flag, err)
		}
		*amount.set = new(uint64(n))
	}
	for _, part := range []struct {
		flag, text string
		set        **uint32
	}{{"high", f.high, &req.High}, {"low", f.low, &req.Low}} {
		if !given(part.flag) {
			continue
		}
		n, err := api.ParsePercent(part.text)
		if err != nil {
			return nil, usageError("--%s: %v", part.flag, err)
		}
		*part.set = new(uint32(n))
	}
	if len(f.labels) == 0 && req.Weight == nil && req.Up == nil && req.Down == nil && req.Quota == nil && req.High == nil && req.Low == nil {
		return nil, usageError("host set %s: nothing to change; give at least one of --label, --weight, --up, --down, --quota, --high, --low", host)
	}
	return req, nil
}

func parseQuota(text string) (int64, error) {
	if strings.EqualFold(text, "none") {
		return 0, nil
	}
	n, err := humanize.ParseBytes(text)
	if err != nil || n > 1<<60 {
		return 0, fmt.Errorf("%q is not a size: write a number of bytes, or one with a unit such as 500GiB, or none", text)
	}
	return int64(n), nil
}

func (c *cli) setHost(ctx context.Context, req *v1.SetHostRequest) error {
	resp, err := c.host().Control.SetHost(ctx, req)
	if err != nil {
		return err
	}
	h := resp.GetHost()
	if c.json {
		return c.printJSON(resp)
	}
	t := newTable(c.stdout)
	t.row("Host", h.GetName())
	t.row("Weight", h.GetWeight())
	t.row("Labels", labels(h.GetLabels()))
	for _, row := range limitRows(h.GetLimits()) {
		t.row(row[0], row[1])
	}
	return t.flush()
}
