package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/virtswarm/virtswarm/internal/api"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

type storeShape struct {
	Files uint64 `json:"files"`
	Bytes uint64 `json:"bytes"`
	Quota uint64 `json:"quota"` // 0 means none
	Free  uint64 `json:"free"`
	Path  string `json:"path"`
}

type fetchShape struct {
	Name    string  `json:"name"`
	ID      string  `json:"id"`
	Done    uint64  `json:"done"`
	Total   uint64  `json:"total"`
	Rate    float64 `json:"rate"`
	Sources uint32  `json:"sources"`
}

type statusShape struct {
	Staleness             stalenessShape `json:"staleness"`
	ClusterID             string         `json:"cluster_id"`
	Version               string         `json:"version"`
	UptimeSeconds         float64        `json:"uptime_seconds"`
	Host                  hostShape      `json:"host"`
	RaftState             string         `json:"raft_state"`
	Leader                *hostShape     `json:"leader"` // null if none is known
	Term                  uint64         `json:"term"`
	AppliedIndex          uint64         `json:"applied_index"`
	CommitIndex           uint64         `json:"commit_index"`
	Voters                []string       `json:"voters"`
	Nonvoters             []string       `json:"nonvoters"`
	HostsAlive            uint32         `json:"hosts_alive"`
	HostsTotal            uint32         `json:"hosts_total"`
	Files                 uint64         `json:"files"`
	Store                 storeShape     `json:"store"`
	UnderReplicatedFiles  uint64         `json:"under_replicated_files"`
	UnderReplicatedShards uint64         `json:"under_replicated_shards"`
	UnavailableFiles      uint64         `json:"unavailable_files"`
	Fetches               []fetchShape   `json:"fetches"`
}

// lookEvery is how often status --wait asks again.
const lookEvery = 100 * time.Millisecond

func newStatus(c *cli) *cobra.Command {
	var wait time.Duration
	cmd := &cobra.Command{
		Use:     "status",
		GroupID: groupCluster,
		Short:   "Show the state of the cluster and of this host",
		Long: `Status tells whether the cluster has a leader, whether all files have their copies, what the store of
this host holds, and what it fetches right now. With --wait it first waits until the daemon answers, is a member, and has a leader.`,
		Example: `  virtswarm status
  virtswarm status --wait 30s
  virtswarm status --json | jq .under_replicated_files`,
		Args:              cobra.NoArgs,
		RunE:              func(cmd *cobra.Command, _ []string) error { return c.status(cmd.Context(), wait) },
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait so long at most until this host takes part in the cluster")
	return cmd
}

func (c *cli) status(ctx context.Context, wait time.Duration) error {
	s, err := c.awaitStatus(ctx, wait)
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(statusJSON(s))
	}
	c.noteStale(s.GetStaleness())
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
	t.row("Voters", strings.Join(s.GetVoters(), ", "))
	if len(s.GetNonvoters()) > 0 {
		t.row("Non-voters", strings.Join(s.GetNonvoters(), ", "))
	}
	t.row("Hosts", fmt.Sprintf("%d of %d alive", s.GetHostsAlive(), s.GetHostsTotal()))
	t.row("Catalogue", fmt.Sprintf("%s, entry %d of %d applied",
		plural(s.GetFiles(), "name"), s.GetAppliedIndex(), s.GetCommitIndex()))
	t.row("Copies", copiesText(s))
	t.row("Store", storeText(s.GetStore()))
	if err := t.flush(); err != nil || len(s.GetFetches()) == 0 {
		return err
	}
	return c.showFetches(s.GetFetches())
}

// awaitStatus asks until this host takes part in the cluster or the wait is over, then it returns the last answer.
func (c *cli) awaitStatus(ctx context.Context, wait time.Duration) (*v1.StatusResponse, error) {
	over := time.Now().Add(wait)
	for {
		s, err := c.host().Control.Status(ctx, &v1.StatusRequest{})
		ready := err == nil && !s.GetStaleness().GetStale() && s.GetHost() != nil
		if ready || !time.Now().Before(over) {
			if err == nil && !ready && wait > 0 {
				err = api.NewError(api.NoLeader, s.GetHost().GetName(), fmt.Errorf("not ready after %v", wait))
			}
			return s, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(lookEvery):
		}
	}
}

func copiesText(s *v1.StatusResponse) string {
	var parts []string
	if n := s.GetUnavailableFiles(); n > 0 {
		parts = append(parts, plural(n, "file")+" without any live copy of a part")
	}
	if n := s.GetUnderReplicatedFiles(); n > 0 {
		parts = append(parts, fmt.Sprintf("%s missing in %s", plural(s.GetUnderReplicatedShards(), "shard"), plural(n, "file")))
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

func statusJSON(s *v1.StatusResponse) statusShape {
	same := func(s string) string { return s }
	out := statusShape{
		Staleness: stalenessJSON(s.GetStaleness()), ClusterID: s.GetClusterId(), Version: s.GetVersion(),
		UptimeSeconds: s.GetUptimeSeconds(), Host: hostJSON(s.GetHost()), RaftState: s.GetRaftState(), Term: s.GetTerm(),
		AppliedIndex: s.GetAppliedIndex(), CommitIndex: s.GetCommitIndex(),
		Voters: list(s.GetVoters(), same), Nonvoters: list(s.GetNonvoters(), same),
		HostsAlive: s.GetHostsAlive(), HostsTotal: s.GetHostsTotal(), Files: s.GetFiles(),
		UnderReplicatedFiles: s.GetUnderReplicatedFiles(), UnderReplicatedShards: s.GetUnderReplicatedShards(),
		UnavailableFiles: s.GetUnavailableFiles(),
		Fetches: list(s.GetFetches(), func(f *v1.ActiveFetch) fetchShape {
			return fetchShape{
				Name: f.GetName(), ID: f.GetId(), Done: f.GetDone(), Total: f.GetTotal(), Rate: f.GetRate(), Sources: f.GetSources(),
			}
		}),
	}
	if l := s.GetLeader(); l != nil {
		h := hostJSON(l)
		out.Leader = &h
	}
	u := s.GetStore()
	out.Store = storeShape{Files: u.GetFiles(), Bytes: u.GetBytes(), Quota: u.GetQuota(), Free: u.GetFree(), Path: u.GetPath()}
	return out
}
