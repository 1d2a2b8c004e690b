package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// lookEvery is how often status --wait asks again.
const lookEvery = 100 * time.Millisecond

func newStatus(c *cli) *cobra.Command {
	var wait time.Duration
	var peers bool
	cmd := &cobra.Command{
		Use:     "status",
		GroupID: groupCluster,
		Short:   "Show the state of the cluster and of this host",
		Long: `Status tells whether the cluster has a leader, whether all files have their copies, what the store of
this host holds, what it fetches right now, how every host is doing, how long the last transfers took beside the
least time they could have taken, and what is wrong. With --peers it tells what goes between this host and each other one. With --wait it
first waits until the daemon answers, is a member, and has a leader.`,
		Example: `  virtswarm status
  virtswarm status --peers
  virtswarm status --wait 30s
  virtswarm status --json | jq .under_replicated_files`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := c.awaitStatus(cmd.Context(), wait, &v1.StatusRequest{Hosts: !peers, Peers: peers})
			if err != nil {
				return err
			}
			return c.showStatus(s, peers)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait so long at most until this host takes part in the cluster")
	cmd.Flags().BoolVar(&peers, "peers", false, "tell the rates between this host and others instead")
	return cmd
}

func (c *cli) showStatus(s *v1.StatusResponse, peers bool) error {
	nameFlags(s.GetFindings())
	for _, r := range s.GetReports() {
		nameFlags(r.GetFindings())
	}
	if c.json {
		return c.printJSON(s)
	}
	c.noteStale(s.GetStaleness())
	if peers {
		return c.showPeers(s.GetReports())
	}
	if err := c.showCluster(s); err != nil {
		return err
	}
	if err := c.showFetches(s.GetFetches()); err != nil {
		return err
	}
	if err := c.showReports(s.GetReports()); err != nil {
		return err
	}
	if err := c.showRecent(s.GetReports()); err != nil {
		return err
	}
	return c.showFindings(s.GetFindings())
}

// showCluster tells of the cluster, and of the host that answers.
func (c *cli) showCluster(s *v1.StatusResponse) error {
	leader := "none"
	if s.GetLeader() != nil {
		leader = s.GetLeader().GetName()
	}
	host := s.GetHost()
	uptime := time.Duration(s.GetUptimeSeconds()) * time.Second
	t := newTable(c.stdout)
	t.row("Cluster", s.GetClusterId())
	t.row("Host", fmt.Sprintf("%s (%s), virtswarmd %s, up %v", host.GetName(), host.GetAddress(), s.GetVersion(), uptime))
	t.row("Leader", fmt.Sprintf("%s, term %d", leader, s.GetTerm()))
	t.row("Voters", votersText(s))
	if len(s.GetNonvoters()) > 0 {
		t.row("Non-voters", strings.Join(s.GetNonvoters(), ", "))
	}
	alive := fmt.Sprintf("%d of %d alive", s.GetHostsAlive(), s.GetHostsTotal())
	if s.GetStaleness().GetStale() {
		alive += " when a leader was heard last"
	}
	t.row("Hosts", alive)
	t.row("Catalogue", fmt.Sprintf("%s, entry %d of %d applied",
		plural(s.GetFiles(), "name"), s.GetAppliedIndex(), s.GetCommitIndex()))
	t.row("Copies", copiesText(s))
	if n := s.GetRepairShards(); n > 0 {
		t.row("Repair", fmt.Sprintf("%s to copy, %s, at %s", plural(n, "shard"), size(s.GetRepairBytes()), rate(repairRate(s))))
	}
	t.row("Store", storeText(s.GetStore()))
	return t.flush()
}

func repairRate(s *v1.StatusResponse) (sum float64) {
	for _, r := range s.GetReports() {
		sum += r.GetRepairRate()
	}
	return sum
}

// awaitStatus asks until this host takes part in the cluster or the wait is over, then it asks what is wanted.
func (c *cli) awaitStatus(ctx context.Context, wait time.Duration, req *v1.StatusRequest) (*v1.StatusResponse, error) {
	for over := time.Now().Add(wait); wait > 0; {
		s, err := c.host().Control.Status(ctx, &v1.StatusRequest{})
		if err == nil && !s.GetStaleness().GetStale() && s.GetHost() != nil {
			break
		}
		if !time.Now().Before(over) {
			if err == nil {
				err = reason.Wrap(reason.NoLeader, s.GetHost().GetName(), fmt.Errorf("not ready after %v", wait))
			}
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(lookEvery):
		}
	}
	return c.host().Control.Status(ctx, req)
}

// votersText names the voters, and says so if the cluster of several hosts hangs on one of them.
func votersText(s *v1.StatusResponse) string {
	text := strings.Join(s.GetVoters(), ", ")
	if len(s.GetVoters()) == 1 && s.GetHostsTotal() > 1 {
		text += "; while it is away nothing can be published or changed"
	}
	return text
}

func copiesText(s *v1.StatusResponse) string {
	if s.GetStaleness().GetStale() {
		return "unknown: no leader says which hosts are up"
	}
	var parts []string
	if n := s.GetUnavailableFiles(); n > 0 {
		parts = append(parts, plural(n, "file")+" without any live copy of a part")
	}
	if n := s.GetUnderReplicatedFiles(); n > 0 {
		parts = append(parts, fmt.Sprintf("%s missing in %s", plural(s.GetUnderReplicatedShards(), "shard"), plural(n, "file")))
	}
	if n := s.GetAwaitedShards(); n > 0 {
		parts = append(parts, plural(n, "shard")+" on hosts that are down")
	}
	if len(parts) == 0 {
		return "all there"
	}
	return strings.Join(parts, "; ")
}

func storeText(u *v1.StoreUsage) string {
	quota := "no quota"
	if u.GetQuota() > 0 {
		quota = "quota " + size(u.GetQuota())
	}
	return fmt.Sprintf("%s in %s, %s, %s free at %s",
		size(u.GetBytes()), plural(u.GetFiles(), "file"), quota, size(u.GetFree()), u.GetPath())
}

func (c *cli) showFetches(fetches []*v1.ActiveFetch) error {
	if len(fetches) == 0 {
		return nil
	}
	fmt.Fprintln(c.stdout)
	t := newTable(c.stdout, "FETCHING", "DONE", "OF", "RATE", "SOURCES")
	for _, f := range fetches {
		name := f.GetName()
		if name == "" {
			name = shortID(f.GetId())
		}
		t.row(name, size(f.GetDone()), size(f.GetTotal()), rate(f.GetRate()), f.GetSources())
	}
	return t.flush()
}
