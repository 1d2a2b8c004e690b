package server

import (
	"context"
	"time"

	"github.com/virtswarm/virtswarm/hostd/control"
	"github.com/virtswarm/virtswarm/hostd/keeper"
	"github.com/virtswarm/virtswarm/hostd/observe"
	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/hostd/swarm"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/placement"
)

// Status implements ControlHost.
func (o *Operations) Status(ctx context.Context, req *v1.StatusRequest) (*v1.StatusResponse, error) {
	s, now := o.Reports.Status(ctx, req.GetHosts(), req.GetPeers())
	r := &v1.StatusResponse{
		Staleness: staleness(now), ClusterId: s.Cluster, Version: s.Version, UptimeSeconds: s.Uptime.Seconds(), Host: hostMessage(s.Host),
		RaftState: string(s.Raft.Role), Term: s.Raft.Term, AppliedIndex: s.Raft.Applied, CommitIndex: s.Raft.Commit,
		Voters: s.Voters, Nonvoters: s.Nonvoters, HostsAlive: uint32(s.HostsAlive), HostsTotal: uint32(s.HostsTotal),
		Files: uint64(s.Files), ClusterVersion: uint32(s.ClusterVersion), Store: storeUsage(s.Store),
		UnderReplicatedFiles: uint64(s.Replication.UnderContents), UnderReplicatedShards: uint64(s.Replication.UnderReplicated),
		UnavailableFiles: uint64(s.Replication.LostContents), RepairShards: uint64(s.Replication.ToGo),
		RepairBytes: uint64(s.Replication.ToGoBytes), AwaitedShards: uint64(s.Replication.Awaited),
		Fetches: list(s.Fetches, activeFetch), Reports: list(s.Reports, reportMessage), Findings: list(s.Findings, findingMessage),
	}
	if s.Leader != nil {
		r.Leader = hostMessage(*s.Leader)
	}
	return r, nil
}

// Health implements ControlHost.
func (o *Operations) Health(ctx context.Context, _ *v1.HealthRequest) (*v1.HealthResponse, error) {
	findings, silent, now := o.Reports.Health(ctx)
	return &v1.HealthResponse{Staleness: staleness(now), Findings: list(findings, findingMessage), Silent: silent}, nil
}

// Report implements ClusterHost.
func (o *Operations) Report(_ context.Context, req *v1.ReportRequest) (*v1.HostReport, error) {
	return reportMessage(o.Reports.Report(req.GetPeers())), nil
}

func activeFetch(f control.ActiveFetch) *v1.ActiveFetch {
	return &v1.ActiveFetch{
		Name: f.Name, Id: idText(f.ID), Done: uint64(f.Done), Total: uint64(f.Total), Rate: f.Rate, Sources: uint32(f.Sources),
	}
}

func storeUsage(u control.StoreUsage) *v1.StoreUsage {
	return &v1.StoreUsage{
		Files: uint64(u.Files), Bytes: uint64(u.Bytes), Quota: uint64(u.Quota), Free: uint64(u.Free), Path: u.Path,
		Budget: uint64(u.Budget), High: uint64(u.High), Low: uint64(u.Low),
	}
}

func findingMessage(f observe.Finding) *v1.Finding {
	return &v1.Finding{
		Severity: v1.Severity(f.Severity), Kind: f.Kind, Subject: f.Subject, Text: f.Text, Next: f.Next, Since: unixTime(f.Since), Host: f.Host,
	}
}

func findingOf(m *v1.Finding) observe.Finding {
	return observe.Finding{
		Severity: observe.Severity(m.GetSeverity()), Kind: m.GetKind(), Subject: m.GetSubject(), Text: m.GetText(), Next: m.GetNext(),
		Since: timeOf(m.GetSince()), Host: m.GetHost(),
	}
}

func reportMessage(r control.Report) *v1.HostReport {
	m := &v1.HostReport{HostId: string(r.ID), Host: r.Host, Unreachable: r.Unreachable}
	if r.Unreachable != "" {
		return m
	}
	m.Store = storeUsage(r.Store)
	m.RepairShards, m.RepairBytes, m.RepairRate = uint64(r.Todo.Repair.Shards), uint64(r.Todo.Repair.Bytes), r.Todo.Repair.Rate
	m.DistributeShards, m.DistributeBytes = uint64(r.Todo.Distribute.Shards), uint64(r.Todo.Distribute.Bytes)
	m.DistributeRate = r.Todo.Distribute.Rate
	m.NoRoomFiles, m.EvictedBytes = uint64(r.Todo.NoRoom), uint64(r.Todo.Evicted)
	m.SentBytes, m.ReceivedBytes, m.HitBytes, m.MissBytes = uint64(r.Sent), uint64(r.Received), uint64(r.Hit), uint64(r.Miss)
	m.Recent, m.Peers, m.Findings = list(r.Recent, finishedFetch), list(r.Peers, peerRate), list(r.Findings, findingMessage)
	return m
}

// reportOf is the inverse of reportMessage.
func reportOf(m *v1.HostReport) control.Report {
	u := m.GetStore()
	return control.Report{
		ID: placement.HostID(m.GetHostId()), Host: m.GetHost(), Unreachable: m.GetUnreachable(),
		Store: control.StoreUsage{Path: u.GetPath(), Usage: store.Usage{
			Files: int(u.GetFiles()), Bytes: int64(u.GetBytes()), Quota: int64(u.GetQuota()), Free: int64(u.GetFree()),
			Budget: int64(u.GetBudget()), High: int64(u.GetHigh()), Low: int64(u.GetLow()),
		}},
		Todo: keeper.Progress{
			Repair: keeper.Work{Shards: int(m.GetRepairShards()), Bytes: int64(m.GetRepairBytes()), Rate: m.GetRepairRate()},
			Distribute: keeper.Work{
				Shards: int(m.GetDistributeShards()), Bytes: int64(m.GetDistributeBytes()), Rate: m.GetDistributeRate(),
			},
			NoRoom: int(m.GetNoRoomFiles()), Evicted: int64(m.GetEvictedBytes()),
		},
		Sent: int64(m.GetSentBytes()), Received: int64(m.GetReceivedBytes()), Hit: int64(m.GetHitBytes()), Miss: int64(m.GetMissBytes()),
		Recent: list(m.GetRecent(), finishedFetchOf), Peers: list(m.GetPeers(), peerRateOf), Findings: list(m.GetFindings(), findingOf),
	}
}

func finishedFetch(f control.FinishedFetch) *v1.FinishedFetch {
	return &v1.FinishedFetch{
		Name: f.Name, Id: idText(f.File), Bytes: uint64(f.Bytes), Seconds: f.Took.Seconds(), BoundSeconds: f.Took.Seconds() / f.Ratio,
		Sources: uint32(f.Sources), EndedAt: f.Began.Add(f.Took).Unix(),
	}
}

// finishedFetchOf is the inverse of finishedFetch, as far as a message tells. A digest that is none becomes zero.
func finishedFetchOf(m *v1.FinishedFetch) control.FinishedFetch {
	id, _ := content.ParseDigest(m.GetId())
	took := time.Duration(m.GetSeconds() * float64(time.Second))
	return control.FinishedFetch{Name: m.GetName(), FetchStat: swarm.FetchStat{
		File: id, Bytes: int64(m.GetBytes()), Took: took, Began: time.Unix(m.GetEndedAt(), 0).Add(-took), Sources: int(m.GetSources()),
		Ratio: m.GetSeconds() / m.GetBoundSeconds(),
	}}
}

func peerRate(p control.PeerRate) *v1.PeerRate {
	return &v1.PeerRate{
		HostId: string(p.Host), Host: p.Name, Up: p.Up, Down: p.Down, OwesBytes: uint64(p.Owes), WaitsChunks: uint32(p.Waits),
	}
}

func peerRateOf(m *v1.PeerRate) control.PeerRate {
	return control.PeerRate{Name: m.GetHost(), PeerStat: swarm.PeerStat{
		Host: placement.HostID(m.GetHostId()), Up: m.GetUp(), Down: m.GetDown(), Owes: int64(m.GetOwesBytes()), Waits: int(m.GetWaitsChunks()),
	}}
}
