package raft

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	hraft "github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"

	"github.com/virtswarm/virtswarm/placement"
)

// run leads whenever this host is the leader.
func (n *Node) run() {
	r := n.raft.Load()
	leading := false
	for {
		for leading {
			leading = n.lead(r)
		}
		select {
		case <-n.ctx.Done():
			return
		case leading = <-r.LeaderCh():
		}
	}
}

// lead does a leader's work until leadership ends; it reports whether another term has begun meanwhile.
func (n *Node) lead(r *hraft.Raft) bool {
	ctx, cancel := context.WithCancel(n.ctx)
	defer cancel()
	d := &director{n: n, raft: r, contact: map[placement.HostID]contact{}, since: time.Now()}
	pilot := autopilot.New(r, d,
		autopilot.WithLogger(n.logger),
		autopilot.WithPromoter(d),
		autopilot.WithUpdateInterval(n.cfg.Timing.Reconcile),
		autopilot.WithReconcileInterval(2*n.cfg.Timing.Reconcile)) // so that it sees what it did last
	pilot.Start(ctx)
	defer func() {
		cancel()
		<-pilot.Stop()
	}()
	tick := time.NewTicker(n.cfg.Timing.Reconcile)
	defer tick.Stop()
	for {
		if err := d.reconcile(ctx); err != nil && ctx.Err() == nil && r.State() == hraft.Leader {
			n.logger.Warn("cannot bring the Raft configuration in line with the catalogue, trying again", "error", err)
		}
		select {
		case <-n.ctx.Done():
			return false
		case again := <-r.LeaderCh():
			return again
		case <-tick.C:
		}
	}
}

// director is the leader's view of the hosts for one term: it tells raft-autopilot what it must know
// (autopilot.ApplicationIntegration), decides for it who votes (autopilot.Promoter), and makes the Raft configuration
// and the hosts' states in the catalogue follow the facts.
type director struct {
	n     *Node
	raft  *hraft.Raft
	since time.Time // of this leadership: silence before it is not held against anybody

	mu      sync.Mutex
	contact map[placement.HostID]contact
}

// contact is what a host last said of itself.
type contact struct {
	at    time.Time
	stats stats
}

// stats is the answer to opStats.
type stats struct {
	LastIndex   uint64        `json:"last_index"`
	LastTerm    uint64        `json:"last_term"`
	LastContact time.Duration `json:"last_contact"` // since it heard a leader; negative if never
}

// hosts returns the members; none if there is no catalogue yet.
func (d *director) hosts() (hosts []placement.Host) {
	d.n.machine.view(func(s *placement.State) { hosts = s.Hosts() })
	return hosts
}

// reconcile adds and removes Raft servers as the catalogue says, and marks hosts that went silent or came back.
func (d *director) reconcile(ctx context.Context) error {
	hosts := d.hosts()
	if len(hosts) == 0 {
		return nil // not initialised: the configuration is all we have
	}
	future := d.raft.GetConfiguration()
	index := future.Index()
	for _, step := range membershipSteps(future.Configuration().Servers, hosts, d.n.cfg.ID) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var done hraft.IndexFuture
		switch step.suffrage {
		case remove:
			done = d.raft.RemoveServer(step.id, index, transportTimeout)
		case hraft.Voter:
			done = d.raft.AddVoter(step.id, step.address, index, transportTimeout)
		default:
			done = d.raft.AddNonvoter(step.id, step.address, index, transportTimeout)
		}
		if err := done.Error(); err != nil {
			return fmt.Errorf("%s: %w", step, err)
		}
		d.n.logger.Info("changed the Raft configuration", "step", step.String())
		index = done.Index()
	}
	return d.markHosts(hosts)
}

// step is one change of the Raft configuration.
type step struct {
	id       hraft.ServerID
	address  hraft.ServerAddress
	suffrage hraft.ServerSuffrage // what it is to be, or remove
}

// remove is no suffrage of hashicorp/raft.
const remove hraft.ServerSuffrage = -1

func (s step) String() string {
	if s.suffrage == remove {
		return fmt.Sprintf("remove server %s", s.id)
	}
	return fmt.Sprintf("set server %s to %s", s.address, s.suffrage)
}

// membershipSteps returns what makes the servers follow the hosts: new hosts become non-voters, addresses follow,
// and who is no host any more goes, except self: a leader is never removed before another one leads.
func membershipSteps(servers []hraft.Server, hosts []placement.Host, self placement.HostID) []step {
	known := make(map[hraft.ServerID]hraft.Server, len(servers))
	for _, s := range servers {
		known[s.ID] = s
	}
	var steps []step
	for _, h := range hosts {
		id, address := hraft.ServerID(h.ID), serverAddress(h.ID, h.Addr)
		s, ok := known[id]
		delete(known, id)
		switch {
		case !ok:
			steps = append(steps, step{id, address, hraft.Nonvoter})
		case s.Address != address:
			steps = append(steps, step{id, address, s.Suffrage})
		}
	}
	for _, s := range servers {
		if _, gone := known[s.ID]; gone && placement.HostID(s.ID) != self {
			steps = append(steps, step{s.ID, s.Address, remove})
		}
	}
	return steps
}

// markHosts proposes Down for hosts that were silent for too long, Lost for those that stay so, and Alive for those
// that speak again.
func (d *director) markHosts(hosts []placement.Host) error {
	now := time.Now()
	for _, h := range hosts {
		silence := d.silence(h.ID, now)
		to := d.judge(h, silence, now)
		if to == h.State {
			continue
		}
		c := placement.SetHostState{ID: h.ID, From: h.State, To: to, Now: now.Unix()}
		data, err := placement.EncodeCommand(placement.Command{SetHostState: &c})
		if err != nil {
			return err
		}
		if err := d.raft.Apply(data, transportTimeout).Error(); err != nil {
			return fmt.Errorf("mark host %s %s: %w", h.Name, c.To, err)
		}
		d.n.logger.Info("marked host", "host", h.Name, "state", c.To, "silent_for", silence.Round(time.Millisecond))
	}
	return nil
}

// judge says which state a host should be in. Leaving is an operator's word, and stays.
func (d *director) judge(h placement.Host, silence time.Duration, now time.Time) placement.HostState {
	silent := silence >= d.n.cfg.HostTimeout
	// The grace begins in the catalogue, so that a new leader does not begin it again; a clock that is wrong ends it at
	// another time, which is no harm.
	over := now.Sub(time.Unix(h.At, 0)) >= d.n.cfg.Grace || silence >= d.n.cfg.HostTimeout+d.n.cfg.Grace
	switch {
	case h.State == placement.Alive && silent:
		return placement.Down
	case h.State == placement.Down && silent && over:
		return placement.Lost
	case (h.State == placement.Down || h.State == placement.Lost) && !silent && d.spoke(h.ID):
		return placement.Alive
	}
	return h.State
}

// silence is how long nothing was heard of a host, as far as this leader can tell.
func (d *director) silence(id placement.HostID, now time.Time) time.Duration {
	if id == d.n.cfg.ID {
		return 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	last := d.since
	if at := d.contact[id].at; at.After(last) {
		last = at
	}
	return now.Sub(last)
}

// spoke reports whether a host was heard at all by this leader.
func (d *director) spoke(id placement.HostID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.contact[id]
	return ok || id == d.n.cfg.ID
}

// AutopilotConfig implements autopilot.ApplicationIntegration.
func (d *director) AutopilotConfig() *autopilot.Config {
	return &autopilot.Config{
		LastContactThreshold:    d.n.cfg.Timing.Election,
		MaxTrailingLogs:         4 * maxAppendEntries,
		ServerStabilizationTime: d.n.cfg.Timing.Stabilize,
	}
}

// KnownServers implements autopilot.ApplicationIntegration.
func (d *director) KnownServers() map[hraft.ServerID]*autopilot.Server {
	servers := map[hraft.ServerID]*autopilot.Server{}
	now := time.Now()
	for _, h := range d.hosts() {
		status := autopilot.NodeAlive
		if d.silence(h.ID, now) > silentAfter(d.n.cfg.Timing) {
			status = autopilot.NodeFailed
		}
		id := hraft.ServerID(h.ID)
		servers[id] = &autopilot.Server{
			ID: id, Name: h.Name, Address: serverAddress(h.ID, h.Addr), NodeStatus: status,
			RaftVersion: int(hraft.ProtocolVersionMax), IsLeader: h.ID == d.n.cfg.ID,
		}
	}
	return servers
}

// silentAfter is the silence after which a host is not healthy enough to be given a vote, or to keep it if another
// can have it: a few missed polls.
func silentAfter(t Timing) time.Duration { return max(5*t.Reconcile, 2*t.Election) }

// FetchServerStats implements autopilot.ApplicationIntegration: it asks every host how far it is.
func (d *director) FetchServerStats(ctx context.Context, servers map[hraft.ServerID]*autopilot.Server) map[hraft.ServerID]*autopilot.ServerStats {
	var wg sync.WaitGroup
	for id := range servers {
		wg.Go(func() { d.poll(ctx, placement.HostID(id)) })
	}
	wg.Wait()
	now := time.Now()
	all := make(map[hraft.ServerID]*autopilot.ServerStats, len(servers))
	for id := range servers {
		host := placement.HostID(id)
		d.mu.Lock()
		c := d.contact[host]
		d.mu.Unlock()
		all[id] = &autopilot.ServerStats{
			LastContact: c.stats.LastContact + now.Sub(c.at), LastTerm: c.stats.LastTerm, LastIndex: c.stats.LastIndex,
		}
	}
	return all
}

// poll asks one host for its stats and notes that it was heard.
func (d *director) poll(ctx context.Context, id placement.HostID) {
	c := contact{stats: d.n.stats()}
	if id != d.n.cfg.ID {
		p, err := d.n.forward(ctx, id, opStats, nil)
		if err == nil {
			err = json.Unmarshal(p, &c.stats)
		}
		if err != nil {
			d.n.logger.Trace("host does not answer", "host", id, "error", err)
			return
		}
	}
	c.at = time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.contact[id] = c
}

// NotifyState implements autopilot.ApplicationIntegration.
func (d *director) NotifyState(s *autopilot.State) { d.n.pilot.Store(s) }

// RemoveFailedServer implements autopilot.ApplicationIntegration; who is removed is the catalogue's decision.
func (d *director) RemoveFailedServer(*autopilot.Server) {}

// CalculatePromotionsAndDemotions implements autopilot.Promoter.
func (d *director) CalculatePromotionsAndDemotions(conf *autopilot.Config, s *autopilot.State) autopilot.RaftChanges {
	members := map[hraft.ServerID]placement.HostState{}
	for _, h := range d.hosts() {
		members[hraft.ServerID(h.ID)] = h.State
	}
	if len(members) == 0 {
		return autopilot.RaftChanges{}
	}
	now := time.Now()
	servers := make([]candidate, 0, len(s.Servers))
	for id, server := range s.Servers {
		servers = append(servers, candidate{
			id: id, voter: server.HasVotingRights(), leader: id == s.Leader,
			eligible: members[id] != "", leaving: members[id] == placement.Leaving,
			healthy: server.Health.Healthy || id == s.Leader, since: server.Health.StableSince,
			stable: server.Health.IsStable(now, s.ServerStabilizationTime(conf)),
		})
	}
	return planVoters(servers, len(members))
}

// GetServerExt and the rest of autopilot.Promoter are of no use here.
func (d *director) GetServerExt(*autopilot.Config, *autopilot.ServerState) any { return nil }
func (d *director) GetStateExt(*autopilot.Config, *autopilot.State) any        { return nil }
func (d *director) IsPotentialVoter(autopilot.NodeType) bool                   { return true }
func (d *director) GetNodeTypes(*autopilot.Config, *autopilot.State) map[hraft.ServerID]autopilot.NodeType {
	return nil
}
func (d *director) FilterFailedServerRemovals(*autopilot.Config, *autopilot.State, *autopilot.FailedServers) *autopilot.FailedServers {
	return &autopilot.FailedServers{}
}
