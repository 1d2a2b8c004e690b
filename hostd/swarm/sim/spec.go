package sim

import (
	"math"
	"math/bits"
	"time"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
	"github.com/virtswarm/virtswarm/internal/content"
)

const (
	mbit = 1e6 / 8 // bytes a second
	gbit = 1e9 / 8
	kib  = 1 << 10
	mib  = 1 << 20
	gib  = 1 << 30

	// coarse is the largest chunk in bytes that is simulated as it is.
	coarse = 2 * mib
)

// Spec is a scenario.
type Spec struct {
	Name    string
	Size    int64 // of the file, in bytes
	Chunk   int   // of its chunks, in bytes
	Long    bool  // takes hours and gigabytes of memory: run by name only
	seeds   []member
	members []member  // that fetch
	trunks  []float64 // of each rack, bytes a second; 0 = no limit. Without any, all stand in one rack
	faults  []fault
	seg     int // segments of a chunk; 0 = 8
	want    func(h *host, c int) bool
}

// member is one host: its rate each way, its rack, and when it begins.
type member struct {
	rate  float64
	rack  int
	start float64 // of T*
}

// fault is the death of a fetcher.
type fault struct {
	host   int     // among members
	at     float64 // of T*
	silent bool    // nobody is told
}

func (s *Spec) chunks() int  { return int((s.Size + int64(s.Chunk) - 1) / int64(s.Chunk)) }
func (s *Spec) segment() int { return s.Chunk / s.segments() }

// len is the length of chunk c in bytes.
func (s *Spec) len(c int) int { return int(min(int64(s.Chunk), s.Size-int64(c)*int64(s.Chunk))) }

func (s *Spec) segments() int {
	if s.seg > 0 {
		return s.seg
	}
	return 8
}

// scale is how many real chunks one of a coarse swarm stands for: limits in bytes and times to send a chunk grow with
// it.
func (s *Spec) scale() int { return max(1, s.Chunk/coarse) }

// Place tells where a host stands.
func (s *Spec) Place(h plan.Host) plan.Place { return s.build().host(h).rack.place }

func (s *Spec) wants(h *host, c int) bool { return s.want == nil || s.want(h, c) }

// bound returns T* in seconds: with equal rates that of Mundinger, Weber and Weiss, for one seed F/u·(1+⌊log₂N⌋/M);
// else the fluid bound: no host receives faster than its downlink, the seeds send everything at least once, and all
// that is received is sent by somebody.
func (s *Spec) bound() float64 {
	f := float64(s.Size)
	seeds, all, least, equal := 0.0, 0.0, math.Inf(1), len(s.seeds) == 1
	for _, m := range s.seeds {
		seeds += m.rate
	}
	for _, m := range s.members {
		all += m.rate
		least = min(least, m.rate)
		equal = equal && m.rate == s.seeds[0].rate
	}
	if equal {
		return f / seeds * (1 + float64(bits.Len(uint(len(s.members)))-1)/float64(s.chunks()))
	}
	return max(f/seeds, f/least, f*float64(len(s.members))/(seeds+all))
}

// build makes the hosts.
func (s *Spec) build() *net {
	n := &net{spec: s, begun: time.Unix(0, 0)}
	for i := range max(1, len(s.trunks)) {
		r := &rack{}
		if len(s.trunks) > 0 {
			r.place.Rack = string(rune('a'+i/26)) + string(rune('a'+i%26))
			r.up.rate, r.down.rate = s.trunks[i], s.trunks[i]
		}
		n.racks = append(n.racks, r)
	}
	for i, m := range append(append([]member{}, s.seeds...), s.members...) {
		h := s.host(n, i, m)
		n.hosts = append(n.hosts, h)
		n.call(time.Second, h.sweep)
		if i < len(s.seeds) {
			h.have.SetRange(0, s.chunks())
			n.seeds = append(n.seeds, h.self)
			continue
		}
		for c := range s.chunks() {
			if s.wants(h, c) {
				h.wants.Set(c)
				h.missing++
			}
		}
		n.left++
		n.call(time.Duration(ns(m.start*s.bound())), h.begin)
	}
	for _, f := range s.faults {
		h := n.hosts[len(s.seeds)+f.host]
		n.call(time.Duration(ns(f.at*s.bound())), func() { h.die(f.silent) })
	}
	return n
}

// host makes one host.
func (s *Spec) host(n *net, id int, m member) *host {
	h := &host{net: n, id: id, self: hostOf(id), rack: n.racks[m.rack], up: m.rate, down: link{rate: m.rate},
		have: content.NewBits(s.chunks()), wants: content.NewBits(s.chunks()), waiting: map[plan.Host][]func(*end){}}
	h.sessions = plan.NewSessions(h.self, plan.MaxSessions)
	h.budget = plan.NewBudget(plan.MaxInFlight*s.scale(), plan.MaxPeerInFlight*s.scale())
	h.server = plan.NewServer(h.self, time.Duration(s.scale())*plan.LendTime, h.copy)
	return h
}

func many(n int, rate float64) []member {
	m := make([]member, n)
	for i := range m {
		m[i].rate = rate
	}
	return m
}
