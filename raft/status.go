package raft

import (
	"context"
	"fmt"
	"strconv"
	"time"

	hraft "github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/virtswarm/virtswarm/placement"
)

// Status returns a moment's view.
func (n *Node) Status() Status {
	r := n.raft.Load()
	_, leader := r.LeaderWithID()
	s := Status{
		Role: role(r.State()), Leader: placement.HostID(leader), Term: r.CurrentTerm(), Applied: r.AppliedIndex(),
		Commit: r.CommitIndex(), LastLog: r.LastIndex(), LastContact: n.lastContact(), Tolerates: -1,
	}
	s.LastSnapshot, _ = strconv.ParseUint(r.Stats()["last_snapshot_index"], 10, 64)
	if leader != "" {
		if addrs := n.addresses(s.Leader); len(addrs) > 0 {
			s.LeaderAddr = addrs[0]
		}
	}
	for _, server := range n.configuration().Servers {
		if server.Suffrage == hraft.Voter {
			s.Voters = append(s.Voters, placement.HostID(server.ID))
		} else {
			s.Nonvoters = append(s.Nonvoters, placement.HostID(server.ID))
		}
	}
	s.Quorum = len(s.Voters)/2 + 1
	if n.director.Load() != nil && s.Role == Leader {
		s.Tolerates = int(n.tolerance.Load())
	}
	return s
}

func role(s hraft.RaftState) Role {
	switch s {
	case hraft.Leader:
		return Leader
	case hraft.Candidate:
		return Candidate
	case hraft.Shutdown:
		return Stopped
	}
	return Follower
}

// lastContact is the time since a leader was heard, 0 at the leader, negative if none ever was.
func (n *Node) lastContact() time.Duration {
	r := n.raft.Load()
	if r.State() == hraft.Leader {
		return 0
	}
	last := r.LastContact()
	if last.IsZero() {
		return -1
	}
	return time.Since(last)
}

// stats is what this host says of itself to the leader.
func (n *Node) stats() stats {
	raw := n.raft.Load().Stats()
	number := func(key string) uint64 { v, _ := strconv.ParseUint(raw[key], 10, 64); return v }
	s := stats{LastIndex: number("last_log_index"), LastTerm: number("last_log_term"), LastContact: n.lastContact(), Commit: number("commit_index"),
		Life: n.life, Clock: n.cfg.Now().UnixMilli()}
	n.machine.view(func(state *placement.State) { s.Lineage = state.Lineage() })
	// After a snapshot from the leader the log is empty.
	if snap := number("last_snapshot_index"); snap > s.LastIndex {
		s.LastIndex, s.LastTerm = snap, number("last_snapshot_term")
	}
	return s
}

// ctxMaybe is the error of an attempt whose context ended before its outcome was known.
func ctxMaybe(ctx context.Context) error { return fmt.Errorf("%w: %w", errMaybe, ctx.Err()) }

// register offers the node's figures to Prometheus.
func (n *Node) register() {
	if n.cfg.Metrics == nil {
		return
	}
	gauge := func(name, help string, value func() float64) {
		n.metrics = append(n.metrics, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "virtswarm", Subsystem: "raft", Name: name, Help: help,
		}, value))
	}
	r := n.raft.Load()
	gauge("leader", "1 if this host leads the cluster.", func() float64 {
		if r.State() == hraft.Leader {
			return 1
		}
		return 0
	})
	gauge("term", "The current term; it rises with every election.", func() float64 { return float64(r.CurrentTerm()) })
	gauge("applied_index", "Log index up to which the catalogue is applied here.", func() float64 { return float64(r.AppliedIndex()) })
	gauge("commit_index", "Log index known here to be committed.", func() float64 { return float64(r.CommitIndex()) })
	gauge("last_contact_seconds", "Time since a leader was heard; 0 at the leader, -1 if never.", func() float64 {
		return max(-1, n.lastContact().Seconds())
	})
	gauge("voters", "Hosts that vote.", func() float64 { return float64(len(n.Status().Voters)) })
	for _, c := range n.metrics {
		if err := n.cfg.Metrics.Register(c); err != nil {
			n.logger.Warn("cannot register a metric", "error", err)
		}
	}
}

func (n *Node) unregister() {
	for _, c := range n.metrics {
		n.cfg.Metrics.Unregister(c)
	}
}
