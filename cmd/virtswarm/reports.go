package main

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

// reportShape is what a host says of itself.
type reportShape struct {
	HostID        string          `json:"host_id"`
	Host          string          `json:"host"`
	Unreachable   string          `json:"unreachable"` // why it did not answer; empty if it did
	Store         storeShape      `json:"store"`
	RepairShards  uint64          `json:"repair_shards"`
	RepairBytes   uint64          `json:"repair_bytes"`
	RepairRate    float64         `json:"repair_rate"`
	OrderShards   uint64          `json:"distribute_shards"`
	OrderBytes    uint64          `json:"distribute_bytes"`
	OrderRate     float64         `json:"distribute_rate"`
	NoRoomFiles   uint64          `json:"no_room_files"`
	EvictedBytes  uint64          `json:"evicted_bytes"`
	HitBytes      uint64          `json:"hit_bytes"`  // of what pulls wanted, what was there
	MissBytes     uint64          `json:"miss_bytes"` // and what was not
	SentBytes     uint64          `json:"sent_bytes"`
	ReceivedBytes uint64          `json:"received_bytes"`
	Recent        []finishedShape `json:"recent"`
	Peers         []peerShape     `json:"peers"`
}

type finishedShape struct {
	Name         string    `json:"name"`
	ID           string    `json:"id"`
	Bytes        uint64    `json:"bytes"`
	Seconds      float64   `json:"seconds"`
	Sources      uint32    `json:"sources"`
	BoundSeconds float64   `json:"bound_seconds"`
	EndedAt      time.Time `json:"ended_at"`
}

type peerShape struct {
	HostID      string  `json:"host_id"`
	Host        string  `json:"host"`
	Up          float64 `json:"up"`
	Down        float64 `json:"down"`
	OwesBytes   uint64  `json:"owes_bytes"`
	WaitsChunks uint32  `json:"waits_chunks"`
}

// recentShown is how many distributions status shows.
const recentShown = 5

// showReports tells how each host is doing.
func (c *cli) showReports(reports []*v1.HostReport) error {
	fmt.Fprintln(c.stdout)
	t := newTable(c.stdout, "HOST", "STORE", "OF", "EVICTED", "REPAIR", "ORDERED", "SENT", "RECEIVED")
	for _, r := range reports {
		if why := r.GetUnreachable(); why != "" {
			t.row(r.GetHost(), "?", "?", "?", "?", "?", "?", why)
			continue
		}
		t.row(r.GetHost(), size(r.GetStore().GetBytes()), size(r.GetStore().GetBudget()), size(r.GetEvictedBytes()),
			workText(r.GetRepairBytes(), r.GetRepairRate()), workText(r.GetDistributeBytes(), r.GetDistributeRate()),
			size(r.GetSentBytes()), size(r.GetReceivedBytes()))
	}
	if err := t.flush(); err != nil {
		return err
	}
	for _, r := range reports {
		if n := r.GetNoRoomFiles(); n > 0 {
			fmt.Fprintf(c.stdout, "%s has no room for %s that it must hold\n", r.GetHost(), plural(n, "file"))
		}
	}
	return nil
}

// workText gives what is to be done and how fast it goes: "1.2 GiB at 90 MiB/s".
func workText(bytes uint64, bytesPerSecond float64) string {
	if bytes == 0 {
		return "-"
	}
	return fmt.Sprintf("%s at %s", size(bytes), rate(bytesPerSecond))
}

// showPeers tells what goes between the host that answers and others.
func (c *cli) showPeers(reports []*v1.HostReport) error {
	t := newTable(c.stdout, "PEER", "UP", "DOWN", "OWES", "WAITS FOR")
	for _, r := range reports {
		for _, p := range r.GetPeers() {
			t.row(p.GetHost(), rate(p.GetUp()), rate(p.GetDown()), size(p.GetOwesBytes()), plural(p.GetWaitsChunks(), "chunk"))
		}
	}
	return t.flush()
}

// distribution is what several hosts fetched of one content.
type distribution struct {
	file        string
	ended       int64
	took, bound []float64
	bytes       uint64
}

// showRecent tells how long the last distributions took, from what the hosts remember of their fetches.
func (c *cli) showRecent(reports []*v1.HostReport) error {
	byID := map[string]*distribution{}
	for _, r := range reports {
		for _, f := range r.GetRecent() {
			d := byID[f.GetId()]
			if d == nil {
				d = &distribution{file: f.GetName()}
				byID[f.GetId()] = d
			}
			if d.file == "" {
				d.file = shortID(f.GetId())
			}
			d.ended = max(d.ended, f.GetEndedAt())
			d.took, d.bound = append(d.took, f.GetSeconds()), append(d.bound, f.GetBoundSeconds())
			d.bytes += f.GetBytes()
		}
	}
	if len(byID) == 0 {
		return nil
	}
	all := make([]*distribution, 0, len(byID))
	for _, d := range byID {
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b *distribution) int {
		return cmp.Or(cmp.Compare(b.ended, a.ended), cmp.Compare(a.file, b.file))
	})
	fmt.Fprintln(c.stdout)
	t := newTable(c.stdout, "FETCHED", "ENDED", "HOSTS", "BYTES", "FIRST", "LAST", "LAST/BOUND")
	for _, d := range all[:min(len(all), recentShown)] {
		last := slices.Index(d.took, slices.Max(d.took))
		t.row(d.file, when(d.ended), len(d.took), size(d.bytes), seconds(slices.Min(d.took)), seconds(d.took[last]), ratio(d.took[last], d.bound[last]))
	}
	return t.flush()
}

func ratio(took, bound float64) string {
	if bound <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", took/bound)
}

func reportJSON(r *v1.HostReport) reportShape {
	return reportShape{
		HostID: r.GetHostId(), Host: r.GetHost(), Unreachable: r.GetUnreachable(), Store: storeJSON(r.GetStore()),
		RepairShards: r.GetRepairShards(), RepairBytes: r.GetRepairBytes(), RepairRate: r.GetRepairRate(),
		OrderShards: r.GetDistributeShards(), OrderBytes: r.GetDistributeBytes(), OrderRate: r.GetDistributeRate(),
		NoRoomFiles: r.GetNoRoomFiles(), EvictedBytes: r.GetEvictedBytes(),
		HitBytes: r.GetHitBytes(), MissBytes: r.GetMissBytes(), SentBytes: r.GetSentBytes(), ReceivedBytes: r.GetReceivedBytes(),
		Recent: list(r.GetRecent(), func(f *v1.FinishedFetch) finishedShape {
			return finishedShape{
				Name: f.GetName(), ID: f.GetId(), Bytes: f.GetBytes(), Seconds: f.GetSeconds(), Sources: f.GetSources(),
				BoundSeconds: f.GetBoundSeconds(), EndedAt: time.Unix(f.GetEndedAt(), 0).UTC(),
			}
		}),
		Peers: list(r.GetPeers(), func(p *v1.PeerRate) peerShape {
			return peerShape{
				HostID: p.GetHostId(), Host: p.GetHost(), Up: p.GetUp(), Down: p.GetDown(),
				OwesBytes: p.GetOwesBytes(), WaitsChunks: p.GetWaitsChunks(),
			}
		}),
	}
}
