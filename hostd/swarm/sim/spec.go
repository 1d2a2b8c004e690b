package main

import (
	"math"
	"math/bits"
	"time"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
)

const (
	mbit = 1e6 / 8 // bytes a second
	gbit = 1e9 / 8
	kib  = 1 << 10
	mib  = 1 << 20
	gib  = 1 << 30
)

// spec is a scenario.
type spec struct {
	name    string
	size    int64
	chunk   int
	seeds   []member
	members []member  // who fetch
	trunks  []float64 // of each rack, bytes a second; 0 = no limit. Without any, all stand in one rack
	faults  []fault
	slots   int
	limit   int // sources of a host; 0 = plan.MaxSources
	seg     int // segments of a chunk; 0 = 8
	want    func(h *host, c int) bool
	holds   func(seed, c int) bool
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

func (s *spec) chunks() int  { return int((s.size + int64(s.chunk) - 1) / int64(s.chunk)) }
func (s *spec) segment() int { return s.chunk / s.segments() }
func (s *spec) sources() int {
	if s.limit > 0 {
		return s.limit
	}
	return plan.MaxSources
}
func (s *spec) segments() int {
	if s.seg > 0 {
		return s.seg
	}
	return 8
}

// tick is how often a host looks at its sources: as hostd/swarm does, but in coarse swarms no more often than a chunk comes.
func (s *spec) tick() time.Duration { return tickTime * time.Duration(1+s.chunk/(4*mib)) }

func (s *spec) wants(h *host, c int) bool { return s.want == nil || s.want(h, c) }

// bound returns T* in seconds: with equal rates that of Mundinger, Weber and Weiss, for one seed F/u·(1+⌊log₂N⌋/M); else the
// fluid bound: no host receives faster than its downlink, the seeds send everything at least once, and all that is received
// is sent by somebody.
func (s *spec) bound() float64 {
	f := float64(s.size)
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
func (s *spec) build() *net {
	n := &net{spec: s, begun: time.Unix(0, 0)}
	for i := range max(1, len(s.trunks)) {
		r := &rack{}
		if len(s.trunks) > 0 {
			r.place.Rack = string(rune('a'+i/26)) + string(rune('a'+i%26))
			r.up.rate, r.down.rate = s.trunks[i], s.trunks[i]
		}
		n.racks = append(n.racks, r)
	}
	slots := s.slots
	if slots == 0 {
		slots = plan.Slots
	}
	for i, m := range append(append([]member{}, s.seeds...), s.members...) {
		lend := max(plan.LendTime, time.Duration(ns(2*float64(slots*s.chunk)/m.rate)))
		h := &host{net: n, id: i, key: plan.Mix(uint64(i)), rack: n.racks[m.rack], up: m.rate, down: link{rate: m.rate},
			have: make([]bool, s.chunks()), known: make([]uint64, (len(s.seeds)+len(s.members)+63)/64), peers: map[int]*peer{},
			uplink: plan.NewUplink[*wish](slots, lend)}
		n.hosts = append(n.hosts, h)
		if i < len(s.seeds) {
			for c := range h.have {
				h.have[c] = s.holds == nil || s.holds(i, c)
			}
			continue
		}
		n.left++
		n.after(time.Duration(ns(m.start*s.bound())), event{kind: begin, h: h})
	}
	for _, f := range s.faults {
		silent := 0
		if f.silent {
			silent = 1
		}
		n.after(time.Duration(ns(f.at*s.bound())), event{kind: die, h: n.hosts[len(s.seeds)+f.host], arg: silent})
	}
	return n
}

func many(n int, rate float64) []member {
	m := make([]member, n)
	for i := range m {
		m[i].rate = rate
	}
	return m
}
