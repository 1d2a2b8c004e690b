package plan

import "math"

// The rules, in this order. docs/swarm.md gives their reasons and where they come from.
//
//  1. Demand before ReadAhead before Distribute before Repair.
//  2. A demanded chunk goes to the source that will deliver it first; if a slow one owes it already, to another as well.
//  3. Sources that are not complete are filled before those that are, with the rarest that each has: what a fellow can
//     give, the seed need not.
//  4. A seed, that is a complete source, is asked for what no fellow has and what falls to this host by rendezvous hashing
//     over the fellows that it knows. So they divide a seed's chunks among them without a word.
//  5. A fellow may be slow, or not want its part. So a seed that owes nothing is asked for a chunk of which this host is
//     the heir, the second by the same hash; and when nobody owes anything, for any chunk. That is poaching: it begins
//     with one chunk at a time, and one more for each that nobody else had fetched meanwhile. And what a fellow has is
//     asked of a seed as well if that is faster than all fellows together.
//  6. When a source has nothing open to give, it may be asked for a chunk that a much slower one owes.
//
// Of equally rare chunks the first is taken, from a place in the file where each host begins by itself and around its end:
// hosts that do not know of each other yet seldom ask for the same, and the disks at both ends see runs.
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

// draws are rules 3 to 5: each finds a chunk to ask of one source.
var draws = [...]func(*Picker, *Source) (int, bool){fromFellow, ownFromSeed, sharedFromSeed, heirFromSeed, anyFromSeed}

// poaching is the index of the first draw which is that.
const poaching = 3

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
				if rule >= poaching {
					f := p.flights[c]
					f.poached, f.holders = true, p.holders[c]
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
	if p.Complete(s) {
		return 0, false
	}
	c, ok := p.rarest(s, nil)
	s.dry = !ok
	return c, ok
}

// ownFromSeed draws from a seed what no fellow has and what falls to this host (rule 4).
func ownFromSeed(p *Picker, s *Source) (int, bool) {
	if !p.Complete(s) {
		return 0, false
	}
	return p.rarest(s, p.own)
}

// sharedFromSeed draws from a seed what a fellow has too, if they are slow (rule 5).
func sharedFromSeed(p *Picker, s *Source) (int, bool) {
	if !p.Complete(s) || s.rate <= p.fellowRate() {
		return 0, false
	}
	return p.rarest(s, p.shared)
}

// heirFromSeed draws from a seed what no fellow has and what falls to this host if one of them does not fetch it (rule 5).
func heirFromSeed(p *Picker, s *Source) (int, bool) {
	if !p.Complete(s) || s.flying > p.poach*p.chunk {
		return 0, false
	}
	return p.rarest(s, p.heir)
}

// anyFromSeed draws anything from a seed (rule 5).
func anyFromSeed(p *Picker, s *Source) (int, bool) {
	if !p.Complete(s) || p.flying > p.poach*p.chunk {
		return 0, false
	}
	c, ok := p.rarest(s, nil)
	s.dry = !ok
	return c, ok
}

// fellowRate is what the fellows deliver together, in bytes a second.
func (p *Picker) fellowRate() (sum float64) {
	for _, s := range p.sources {
		if p.fetches(s) {
			sum += s.rate
		}
	}
	return sum
}

// fetches says whether s is a fellow that still lacks something.
func (p *Picker) fetches(s *Source) bool { return s.fellow && s.count < p.n }

// learn takes note that a poached chunk has arrived: if somebody else fetched it meanwhile, it was drawn in vain.
func (p *Picker) learn(c int, before uint16) {
	if p.holders[c] > before {
		p.poach = 0
	} else {
		p.poach++
	}
}

// rarest finds the chunk of s that is worth most, among those in part (nil is all): by priority and rarity, but what is read
// ahead in its order, and whatever part it is in.
func (p *Picker) rarest(s *Source, part mask) (int, bool) {
	if s.least > ReadAhead {
		return 0, false
	}
	if p.opens[ReadAhead] > 0 {
		if c, ok := firstIn(0, p.open[ReadAhead], s.have, nil, nil); ok {
			return c, true
		}
	}
	for prio := Distribute; prio >= Repair && prio >= s.least; prio-- {
		for r := 1; r <= maxRarity; r++ {
			if p.count[prio][r] == 0 {
				continue
			}
			if c, ok := firstFrom(p.start, p.open[prio], p.rare[r], s.have, part); ok {
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
// Ravishankar 1996) among the fellows that it knows; and those for which it has the second highest. What a fellow has already
// falls to nobody. Every fetcher comes to the same division by itself, and one that
// joins or leaves moves only its own part.
func (p *Picker) divide() {
	p.ownStale = false
	per := (p.n + ownGroups - 1) / ownGroups
	for g := 0; g*per < p.n; g++ {
		rank := p.rank(Mix(uint64(g)))
		for c := g * per; c < min((g+1)*per, p.n); c++ {
			p.own.put(c, rank == 0)
			p.heir.put(c, rank == 1)
			p.shared.clear(c)
		}
	}
	for _, s := range p.sources {
		if p.fetches(s) {
			p.own.remove(s.have)
			p.heir.remove(s.have)
			p.shared.add(s.have)
		}
		s.dry = false
	}
}

// rank returns how many fellows a group of chunks falls to before this host, as far as 2.
func (p *Picker) rank(group uint64) (before int) {
	weight := Mix(p.self ^ group)
	for _, s := range p.sources {
		if p.fetches(s) && Mix(s.key^group) > weight {
			if before++; before == 2 {
				break
			}
		}
	}
	return before
}

// Mix is splitmix64's finisher (Steele, Lea and Flood 2014): a bijection in which every bit in reaches every bit out.
func Mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
