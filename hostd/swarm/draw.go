package swarm

import "math"

// The rules, in this order. docs/swarm.md gives their reasons and where they come from.
//
//  1. Demand before ReadAhead before Distribute before Repair.
//  2. A demanded chunk goes to the source that will deliver it first; if a slow one owes it already, to another as well.
//  3. Sources that are fetchers themselves are filled before complete ones, with the rarest that each has: what a
//     fellow can give, the seed need not.
//  4. A complete source is asked for what no fellow has and what falls to this host by rendezvous hashing over the known
//     fetchers. So the fetchers divide a seed's chunks among them without a word.
//  5. A complete source is asked for anything else (a fellow's part, a chunk that went round) only in small: one chunk,
//     and one more for each that turned out to be fetched by nobody else meanwhile. The fellow may be slow, or not want it.
//  6. When a source has nothing open to give, it may be asked for a chunk that a much slower one owes.
const (
	// maxRarity is the highest rarity that is told apart. With that many holders a chunk is not scarce, and to sort
	// them further buys nothing.
	maxRarity = 16
	// maxTwins bounds the chunks of one job that are requested twice at a time, and with it what its end may waste.
	maxTwins = 8
	// twinGain is how many times sooner a second source must be expected to deliver before a chunk is requested
	// twice. Among equals nothing is.
	twinGain = 2.0
	// demandWindow is how many windows a source may owe when a reader waits for the chunk.
	demandWindow = 2
	// ownGroups bounds the work of dividing chunks among fellows: a file of more chunks is divided in groups.
	ownGroups = 1 << 16
)

// draws are rules 3 to 5, each of which finds a chunk to ask of one source.
var draws = [...]func(*Picker, *Source) (int, bool){fromFellow, ownFromSeed, restFromSeed}

// poaching is the index of restFromSeed.
const poaching = 2

// Next decides on the next request and counts it as under way; false if there is nothing to ask of anyone now.
func (p *Picker) Next() (Request, bool) {
	if p.ownStale {
		p.divide()
	}
	if s, c, ok := p.demanded(); ok {
		return p.take(s, c), true
	}
	if p.demands > 0 {
		if s, c, ok := p.twin(Demand); ok {
			return p.take(s, c), true
		}
	}
	for rule, draw := range draws {
		for i := range p.sources {
			s := p.sources[(p.turn+i)%len(p.sources)]
			if s.dry || !p.room(s, 1) {
				continue
			}
			if c, ok := draw(p, s); ok {
				p.turn++
				r := p.take(s, c)
				if rule == poaching {
					f := p.flights[c]
					f.poached = true
					p.flights[c] = f
				}
				return r, true
			}
		}
	}
	if s, c, ok := p.twin(Repair); ok {
		return p.take(s, c), true
	}
	return Request{}, false
}

// fromFellow draws the rarest chunk from a source that is not complete (rule 3).
func fromFellow(p *Picker, s *Source) (int, bool) {
	if s.count == p.n {
		return 0, false
	}
	c, ok := p.rarest(s, maxRarity, false)
	s.dry = !ok
	return c, ok
}

// ownFromSeed draws from a complete source what only such have and what falls to this host (rule 4).
func ownFromSeed(p *Picker, s *Source) (int, bool) {
	if s.count < p.n {
		return 0, false
	}
	return p.rarest(s, min(p.complete, maxRarity), true)
}

// restFromSeed draws anything from a complete source, with care (rule 5).
func restFromSeed(p *Picker, s *Source) (int, bool) {
	if s.count < p.n || s.flying > p.poach*p.chunk {
		return 0, false
	}
	c, ok := p.rarest(s, maxRarity, false)
	s.dry = !ok
	return c, ok
}

// poached learns from a chunk which was drawn by rule 5 and has arrived: if a fellow has it by now, it was drawn in vain.
func (p *Picker) poached(c int) {
	if int(p.holders[c]) > p.complete {
		p.poach = 0
	} else {
		p.poach++
	}
}

// rarest finds the chunk of s that is worth most: read ahead first, then by priority and rarity up to most; among equals
// those that fall to this host, and of these the first in the file. A seed is read forward in that way, and without fellows
// the file arrives in its order.
func (p *Picker) rarest(s *Source, most int, ownOnly bool) (int, bool) {
	if s.least > ReadAhead {
		return 0, false
	}
	if p.opens[ReadAhead] > 0 {
		if c, ok := firstIn(0, p.open[ReadAhead], s.have, nil, nil); ok {
			return c, true
		}
	}
	for prio := Distribute; prio >= Repair && prio >= s.least; prio-- {
		for r := 1; r <= most; r++ {
			if p.count[prio][r] == 0 {
				continue
			}
			if c, ok := firstIn(0, p.open[prio], p.rare[r], s.have, p.own); ok {
				return c, true
			}
			if ownOnly {
				continue
			}
			if c, ok := firstFrom(p.start, p.open[prio], p.rare[r], s.have, nil); ok {
				return c, true
			}
		}
	}
	return 0, false
}

// demanded finds the first demanded chunk that can be asked for, and who will deliver it soonest (rule 2).
func (p *Picker) demanded() (*Source, int, bool) {
	if p.opens[Demand] == 0 {
		return nil, 0, false
	}
	first := p.n
	for _, s := range p.sources {
		if !p.room(s, demandWindow) {
			continue
		}
		if c, ok := firstIn(0, p.open[Demand], s.have, nil, nil); ok && c < first {
			first = c
		}
	}
	if first == p.n {
		return nil, 0, false
	}
	return p.soonest(first, demandWindow, nil, math.Inf(1)), first, true
}

// twin finds a chunk of priority least or above that some source owes, and another source that is expected to deliver
// it much sooner (rule 6): a straggler's last chunks; a demanded chunk in a slow source's queue.
func (p *Picker) twin(least Priority) (who *Source, which int, ok bool) {
	if p.twins >= maxTwins {
		return nil, 0, false
	}
	worst := 0.0
	for _, slow := range p.sources {
		ahead := 0
		for _, c := range slow.queue {
			ahead += p.len(c)
			late := p.eta(slow, ahead)
			if late <= worst || p.prio[c] < least || p.flights[c].second != nil {
				continue
			}
			if s := p.soonest(c, 1, slow, late/twinGain); s != nil {
				who, which, worst = s, c, late
			}
		}
	}
	return who, which, who != nil
}

// soonest returns the source which will deliver chunk c first, if that takes less than limit seconds. A source other
// than which owes it must have shown its rate: nothing is requested twice by guess.
func (p *Picker) soonest(c, windows int, owes *Source, limit float64) (best *Source) {
	for _, s := range p.sources {
		if s == owes || !s.have.has(c) || !p.room(s, windows) || s.least > p.prio[c] || owes != nil && s.rate == 0 {
			continue
		}
		if t := p.eta(s, s.flying+p.len(c)); t < limit {
			best, limit = s, t
		}
	}
	return best
}

// eta is the time in seconds in which s delivers n bytes. One that has shown no rate yet is taken for a middling one.
func (p *Picker) eta(s *Source, n int) float64 {
	if s.rate > 0 {
		return float64(n) / s.rate
	}
	sum, k := 0.0, 0
	for _, o := range p.sources {
		if o.rate > 0 {
			sum += o.rate
			k++
		}
	}
	if k == 0 {
		return float64(n)
	}
	return float64(n) * float64(k) / sum
}

// room says whether s may be asked for one more chunk when it may owe that many windows.
func (p *Picker) room(s *Source, windows int) bool {
	return s.least <= Demand && (s.flying == 0 || s.flying+p.chunk <= s.window*windows)
}

// divide finds the chunks that fall to this host: those for which it has the highest random weight (Thaler and
// Ravishankar 1996) among the fetchers that it knows. Every fetcher comes to the same division by itself, and one that
// joins or leaves moves only its own part.
func (p *Picker) divide() {
	p.ownStale = false
	per := (p.n + ownGroups - 1) / ownGroups
	for g := 0; g*per < p.n; g++ {
		mine := p.mine(mix(uint64(g)))
		for c := g * per; c < min((g+1)*per, p.n); c++ {
			if mine {
				p.own.set(c)
			} else {
				p.own.clear(c)
			}
		}
	}
	for _, s := range p.sources {
		s.dry = false
	}
}

func (p *Picker) mine(group uint64) bool {
	weight := mix(p.self ^ group)
	for _, s := range p.sources {
		if s.count < p.n && mix(s.key^group) > weight {
			return false
		}
	}
	return true
}

// mix is splitmix64's finisher (Steele, Lea and Flood 2014): a bijection in which every bit in reaches every bit out.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
