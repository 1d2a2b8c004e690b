package sim

import "math/rand/v2"

const (
	small = 256 * kib
	plain = 100 * mbit
)

// Scenarios returns what is looked at, those that take longest first.
func Scenarios() []*Spec {
	one := func(rate float64) []member { return []member{{rate: rate}} }
	lab := func(name string, size int64, fetchers int) *Spec {
		return &Spec{Name: name, Size: size, Chunk: small, seeds: one(plain), members: many(fetchers, plain)}
	}
	with := func(s *Spec, do func(s *Spec)) *Spec {
		do(s)
		return s
	}
	return []*Spec{
		{Name: "1,000 hosts, 10 GiB", Size: 10 * gib, Chunk: 8 * mib, seg: 4, seeds: one(gbit), members: many(999, gbit)},
		{Name: "10,000 hosts, 10 GiB", Long: true, Size: 10 * gib, Chunk: 64 * mib, seg: 4, seeds: one(gbit), members: many(9999, gbit)},
		with(&Spec{Name: "1,000 hosts, unequal, 1 % die", Long: true, Size: 10 * gib, Chunk: 16 * mib, seg: 4, seeds: one(10 * gbit), members: mixed(999)}, someDie),
		{Name: "100 hosts, 10 GiB", Size: 10 * gib, Chunk: 2 * mib, seg: 4, seeds: one(gbit), members: many(99, gbit)},
		with(&Spec{Name: "100 hosts, unequal, 1 % die", Size: 10 * gib, Chunk: 2 * mib, seg: 4, seeds: one(10 * gbit), members: mixed(99)}, someDie),
		{Name: "10 hosts, 10 GiB", Size: 10 * gib, Chunk: mib, seg: 4, seeds: one(gbit), members: many(9, gbit)},
		with(&Spec{Name: "10 hosts, unequal, 1 dies", Size: 10 * gib, Chunk: mib, seg: 4, seeds: one(10 * gbit), members: mixed(9)}, someDie),
		with(&Spec{Name: "10 racks of 10, 1 GiB", Size: gib, Chunk: mib, seg: 4, seeds: one(gbit), members: many(99, gbit)}, inRacks(10, 3*gbit)),
		{Name: "300 hosts at once, 256 MiB", Size: 256 * mib, Chunk: 2 * mib, seg: 4, seeds: one(gbit), members: many(299, gbit)},
		lab("1 fetcher, 128 MiB", 128*mib, 1),
		lab("2 fetchers, 128 MiB", 128*mib, 2),
		lab("8 fetchers, 16 MiB", 16*mib, 8),
		lab("8 fetchers, 128 MiB", 128*mib, 8),
		lab("8 fetchers, 512 MiB", 512*mib, 8),
		lab("24 fetchers, 128 MiB", 128*mib, 24),
		with(lab("8 fetchers, 2 seeds", 128*mib, 8), func(s *Spec) { s.seeds = many(2, plain) }),
		with(lab("8 fetchers, 3 seeds", 128*mib, 8), func(s *Spec) { s.seeds = many(3, plain) }),
		with(lab("8 fetchers, slow seed", 128*mib, 8), func(s *Spec) { s.seeds[0].rate /= 4 }),
		with(lab("8 fetchers, fast seed", 128*mib, 8), func(s *Spec) { s.seeds[0].rate *= 4 }),
		with(lab("8 fetchers, 1 at a tenth", 128*mib, 8), func(s *Spec) { s.members[7].rate /= 10 }),
		with(lab("8 fetchers, 3 join late", 128*mib, 8), func(s *Spec) {
			for i := range 3 {
				s.members[5+i].start = 0.5
			}
		}),
		with(lab("8 fetchers, 2 killed", 128*mib, 8), func(s *Spec) { s.faults = []fault{{host: 2, at: 0.5}, {host: 6, at: 0.5}} }),
		with(lab("8 fetchers, 2 vanish", 128*mib, 8), func(s *Spec) {
			s.faults = []fault{{host: 2, at: 0.5, silent: true}, {host: 6, at: 0.5, silent: true}}
		}),
		with(lab("2 racks of 4", 128*mib, 8), inRacks(2, plain)),
		with(lab("2 racks of 4, 512 MiB", 512*mib, 8), inRacks(2, plain)),
		with(lab("4 homes want half each", 128*mib, 4), func(s *Spec) {
			s.want = func(h *host, c int) bool { return (c/64+h.id)%2 == 0 }
		}),
	}
}

// mixed are hosts of 1, 2.5 and 10 Gbit/s.
func mixed(n int) []member {
	m := make([]member, n)
	for i := range m {
		m[i].rate = [...]float64{gbit, 2.5 * gbit, 10 * gbit}[i%3]
	}
	return m
}

// someDie lets one in a hundred hosts vanish, at least one, around half time.
func someDie(s *Spec) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range max(1, len(s.members)/100) {
		s.faults = append(s.faults, fault{host: rnd.IntN(len(s.members)), at: 0.4 + 0.2*rnd.Float64(), silent: true})
	}
}

// inRacks spreads hosts over racks with trunks of a rate; the seeds are in the first.
func inRacks(n int, trunk float64) func(*Spec) {
	return func(s *Spec) {
		s.trunks = make([]float64, n)
		for i := range s.trunks {
			s.trunks[i] = trunk
		}
		for i := range s.members {
			s.members[i].rack = i * n / len(s.members)
		}
	}
}
