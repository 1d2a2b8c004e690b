package hostd

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/virtswarm/virtswarm/hostd/control"
	"github.com/virtswarm/virtswarm/hostd/swarm"
	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/raft"
)

// catalogueMetrics shows the catalogue as this host has it.
type catalogueMetrics struct {
	node *raft.Node
	self placement.HostID
}

func newCatalogueMetrics(node *raft.Node, self placement.HostID) prometheus.Collector {
	return catalogueMetrics{node, self}
}

var (
	descHosts = prometheus.NewDesc("virtswarm_hosts", "Hosts of the cluster by state.", []string{"state"}, nil)
	descFiles = prometheus.NewDesc("virtswarm_files", "Names in the catalogue.", nil, nil)
	descUnder = prometheus.NewDesc("virtswarm_under_replicated_shards", "Shards with fewer copies than wanted.", nil, nil)
	descToGo  = prometheus.NewDesc("virtswarm_repair_shards", "Copies of shards that live hosts have still to make.", nil, nil)
	descBytes = prometheus.NewDesc("virtswarm_repair_bytes", "Bytes of the copies that live hosts have still to make.", nil, nil)
	descAway  = prometheus.NewDesc("virtswarm_awaited_shards", "Copies of shards on hosts that are down, not yet made anew.", nil, nil)
	descLost  = prometheus.NewDesc("virtswarm_unavailable_shards", "Shards that no live host holds.", nil, nil)
	descDoms  = prometheus.NewDesc("virtswarm_domains", "Domains in the catalogue by state.", []string{"state"}, nil)
	descSplit = prometheus.NewDesc("virtswarm_split_domains", "Domains that more than one live host claims to run.", nil, nil)
)

// Describe implements prometheus.Collector.
func (m catalogueMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descHosts, descFiles, descUnder, descToGo, descBytes, descAway, descLost, descDoms, descSplit} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m catalogueMetrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	m.node.View(func(s *placement.State) {
		states := map[placement.HostState]int{placement.Alive: 0, placement.Down: 0, placement.Lost: 0, placement.Leaving: 0}
		for _, h := range s.Hosts() {
			states[h.State]++
		}
		for state, n := range states {
			gauge(descHosts, int64(n), string(state))
		}
		sum := s.UnderReplicated()
		gauge(descFiles, int64(s.Files()))
		gauge(descUnder, int64(sum.UnderReplicated))
		gauge(descToGo, int64(sum.ToGo))
		gauge(descBytes, sum.ToGoBytes)
		gauge(descAway, int64(sum.Awaited))
		gauge(descLost, int64(sum.Lost))
		domains := map[placement.DomainState]int{}
		for _, state := range placement.DomainStates {
			domains[state] = 0
		}
		for _, d := range s.Domains() {
			domains[d.State]++
		}
		for state, n := range domains {
			gauge(descDoms, int64(n), string(state))
		}
		gauge(descSplit, int64(s.SplitDomains()))
	})
}

// peerMetrics shows what goes between this host and others.
type peerMetrics struct {
	node  *raft.Node
	swarm *swarm.Swarm
}

var (
	descPeerUp   = prometheus.NewDesc("virtswarm_peer_up_bytes_per_second", "Rate at which this host sends to another.", []string{"peer"}, nil)
	descPeerDown = prometheus.NewDesc("virtswarm_peer_down_bytes_per_second", "Rate at which this host receives from another.", []string{"peer"}, nil)
)

// Describe implements prometheus.Collector.
func (m peerMetrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- descPeerUp
	ch <- descPeerDown
}

// Collect implements prometheus.Collector.
func (m peerMetrics) Collect(ch chan<- prometheus.Metric) {
	peers := m.swarm.Peers()
	m.node.View(func(s *placement.State) {
		for _, p := range control.PeerRates(s, peers) {
			ch <- prometheus.MustNewConstMetric(descPeerUp, prometheus.GaugeValue, p.Up, p.Name)
			ch <- prometheus.MustNewConstMetric(descPeerDown, prometheus.GaugeValue, p.Down, p.Name)
		}
	})
}
