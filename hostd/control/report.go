package control

import (
	"cmp"
	"context"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/hostd/keeper"
	"github.com/virtswarm/virtswarm/hostd/observe"
	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/hostd/swarm"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

// reportPatience bounds the wait for another host's report: a status must come although a host hangs.
const reportPatience = 2 * time.Second

// Report says how a host is doing.
type Report struct {
	ID             placement.HostID
	Host           string
	Unreachable    string // why it did not answer; nothing else is known then
	Store          StoreUsage
	Todo           keeper.Progress
	Sent, Received int64 // bytes of chunks since its daemon's start
	Hit, Miss      int64 // bytes that pulls wanted and that were there, or had to be fetched
	Recent         []FinishedFetch
	Peers          []PeerRate // if they were asked for, the busiest first
	Findings       []observe.Finding
}

// StoreUsage says what the store of a host takes.
type StoreUsage struct {
	store.Usage
	Path string
}

// FinishedFetch is a fetch that succeeded.
type FinishedFetch struct {
	swarm.FetchStat
	Name string // empty if the catalogue has none
}

// PeerRate is what goes between a host and another.
type PeerRate struct {
	swarm.PeerStat
	Name string
}

// Report says how this host is doing; rates adds those of its sessions.
func (r *Reports) Report(rates bool) Report { return r.report(rates) }

func (r *Rooms) report(rates bool) Report {
	d := Report{
		ID: r.Self, Host: r.Name, Store: r.storeUsage(), Todo: r.Keeper.Progress(),
		Hit: r.Pulls.hits.Load(), Miss: r.Pulls.misses.Load(), Findings: r.Findings.OfThisHost(),
	}
	d.Sent, d.Received = r.Swarm.Moved()
	r.Node.View(func(s *placement.State) {
		for _, f := range r.Swarm.Recent() {
			finished := FinishedFetch{FetchStat: f}
			if c, ok := s.Content(f.File); ok {
				finished.Name = c.Names[0]
			}
			d.Recent = append(d.Recent, finished)
		}
		if rates {
			d.Peers = PeerRates(s, r.Swarm.Peers())
		}
	})
	return d
}

// PeerRates names the hosts of sessions and puts the busiest first.
func PeerRates(s *placement.State, list []swarm.PeerStat) (all []PeerRate) {
	for _, p := range list {
		all = append(all, PeerRate{PeerStat: p, Name: hostName(s, p.Host)})
	}
	slices.SortStableFunc(all, func(a, b PeerRate) int { return cmp.Compare(b.Up+b.Down, a.Up+a.Down) })
	return all
}

func (r *Rooms) storeUsage() StoreUsage {
	return StoreUsage{Usage: r.Store.Usage(), Path: filepath.Join(r.Data, "store")}
}

func (r *Rooms) reportOf(ctx context.Context, host placement.Host, rates bool) (Report, error) {
	if !host.State.Serves() {
		return Report{}, errDown(host)
	}
	return r.Peers.Report(ctx, host, rates)
}

// reports asks hosts how they are doing, this one included, and returns their answers in the same order. A host that
// does not answer says why.
func (r *Rooms) reports(ctx context.Context, hosts []placement.Host, peers bool) []Report {
	ctx, cancel := context.WithTimeout(ctx, reportPatience)
	defer cancel()
	all := make([]Report, len(hosts))
	free := make(chan struct{}, maxReports)
	var asking sync.WaitGroup
	for i, host := range hosts {
		if host.ID == r.Self {
			all[i] = r.report(peers)
			continue
		}
		free <- struct{}{}
		asking.Go(func() {
			defer func() { <-free }()
			report, err := r.reportOf(ctx, host, peers)
			if err != nil {
				report = Report{Unreachable: Unreachable(err)}
			}
			report.ID, report.Host = host.ID, host.Name // whatever it calls itself
			all[i] = report
		})
	}
	asking.Wait()
	return all
}

// Unreachable says in few words why a host did not answer.
func Unreachable(err error) string {
	e := reason.As(err, "")
	if e.Err != nil {
		return e.Err.Error()
	}
	return e.Error()
}
