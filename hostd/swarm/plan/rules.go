package plan

import "math"

// The rules, in this order. docs/swarm.md gives their reasons and where they come from.
//
//  1. Demand before ReadAhead before Start before Distribute before Repair.
//  2. A demanded chunk goes to the source that will deliver it first; if a slow one owes it already, to another as well.
//  3. Sources that do not give are asked for the rarest that each has. One in another rack is asked only for what nobody in
//     the own rack has, and of that for what falls to this host by rendezvous hashing over its rack-mates; zones alike.
//  4. Sources that give are drawn from: what they choose has never been given before.
//  5. A source that is spent is asked, if nothing else is to be had, for what no fellow has: a fellow may be slow or dead.
//     That is poaching, and so is to ask another rack for what falls to a rack-mate: it begins with one chunk at a time,
//     and one more for each that nobody else had fetched meanwhile. And what a fellow has is asked of a spent source as
//     well if that is faster than all fellows together.
//  6. At the end, when nothing is open any more, a source may be asked for a chunk that a much slower one owes.
//
// Of equally rare chunks the first is taken, from a place in the file where each host begins by itself and around its
// end: hosts that do not know of each other yet seldom ask for the same, and the disks at both ends see runs.
const (
	// maxRarity is the highest rarity that is told apart. With that many holders a chunk is not scarce, and to sort
	// them further buys nothing.
	maxRarity = 16
	// maxTwins bounds the chunks of one job that are requested twice at a time, and with it what its end may waste.
	maxTwins = 8
	// twinGain is how many times sooner a second source must be expected to deliver before a chunk is requested
	// twice. Among equals nothing is.
	twinGain = 2.0
	// maxBusy is how many chunks may be on their way from all sources together, beside what their windows have grown by. A
	// chunk that is new to a large swarm is asked for by all who know its one holder; the less each asks for at a time,
	// the sooner the next who has it is asked instead.
	maxBusy = 16
	// demandWindow is how many windows a source may owe when a reader waits for the chunk.
	demandWindow = 2
	// ownGroups bounds the work of dividing chunks among fellows: a file of more chunks is divided in groups.
	ownGroups = 1 << 16
	// levels is how many circles of hosts chunks are divided in: the rack, the zone, all.
	levels = Elsewhere + 1
)

// rules are 3 to 5: each finds what to ask of one source.
var rules = [...]func(*Picker, *Source) (Request, bool){fromFellow, draw, faster, poach, poachAny}

// poaching is the index of the first rule which is that.
const poaching = 3

// Next decides on the next request and counts it as under way; false if there is nothing to ask of anyone now.
func (p *Picker) Next() (Request, bool) {
	if s, c, ok := p.demanded(); ok {
		return p.take(s, c), true
	}
	if p.demands > 0 {
		if s, c, ok := p.twin(Demand); ok {
			return p.take(s, c), true
		}
	}
	busy := p.flying+p.chunk > p.grown+maxBusy*p.chunk
	ready := p.ready[:0]
	for k := range p.sources {
		s := p.sources[(p.turn+k)%len(p.sources)]
		if !s.dry && s.least <= ReadAhead && p.room(s, 1) && (!busy || s.seed()) {
			ready = append(ready, s)
		}
	}
	p.ready = ready
	for i, rule := range rules {
		for _, s := range ready {
			r, ok := rule(p, s)
			if !ok {
				continue
			}
			p.turn++
			if i >= poaching {
				f := p.flights[r.Chunk]
				f.poached, f.holders = true, p.holders[r.Chunk]
				p.flights[r.Chunk] = f
			}
			return r, true
		}
	}
	if p.ended() {
		if s, c, ok := p.twin(Repair); ok {
			return p.take(s, c), true
		}
	}
	return Request{}, false
}

// ended says whether nothing is open that is not demanded: what is missing is on its way.
func (p *Picker) ended() bool { return p.opens[ReadAhead]+p.drawable() == 0 }

// drawable returns how many open chunks may come of a draw: those of which any is as welcome as another.
func (p *Picker) drawable() int { return p.opens[Start] + p.opens[Distribute] + p.opens[Repair] }

// seed says whether s is drawn from: it gives, and does not fetch.
func (s *Source) seed() bool { return s.gives && !s.fellow }

// pick requests the chunk in set that is worth most, if any is open.
func (p *Picker) pick(s *Source, set, part mask) (Request, bool) {
	c, ok := p.rarest(s, set, part)
	if !ok {
		return Request{}, false
	}
	return p.take(s, c), true
}

// fromFellow asks for the rarest chunk that a source has which is not drawn from (rule 3). Of a seed it asks for what
// is read ahead.
func fromFellow(p *Picker, s *Source) (Request, bool) {
	switch {
	case s.seed():
		if p.opens[ReadAhead] > 0 {
			if c, ok := firstIn(0, p.open[ReadAhead], s.have, nil, nil); ok {
				return p.take(s, c), true
			}
		}
		return Request{}, false
	case s.dist > SameRack:
		return p.pick(s, s.have, p.mine(s.dist-1))
	}
	r, ok := p.pick(s, s.have, nil)
	s.dry = !ok
	return r, ok
}

// draw asks a seed for a chunk of its choice (rule 4).
func draw(p *Picker, s *Source) (Request, bool) {
	if !s.seed() || p.drawing >= p.drawable() {
		return Request{}, false
	}
	for prio := Start; prio >= Repair && prio >= s.least; prio-- {
		if p.opens[prio] == 0 {
			continue
		}
		if c, ok := firstFrom(p.start, p.open[prio], s.fresh, nil, nil); ok {
			lo, hi := p.span(c, prio)
			s.draws++
			p.drawing++
			return Request{Source: s, Draw: true, Lo: lo, Hi: hi, Len: p.chunk, Priority: prio}, true
		}
	}
	return Request{}, false
}

// span returns what a draw for an open chunk may range over: all around it that is or was wanted, as far as nothing is
// open there at a lower priority, which the source might choose instead.
func (p *Picker) span(c int, prio Priority) (lo, hi int) {
	lo, hi = run(p.scope, c, p.n)
	for less := prio - 1; less >= Repair; less-- {
		if p.opens[less] == 0 {
			continue
		}
		if i, ok := firstIn(c, p.open[less], nil, nil, nil); ok {
			hi = min(hi, i)
		}
		lo = max(lo, p.open[less].before(c)+1)
	}
	return lo, hi
}

// faster asks a spent seed for anything if it is faster than all fellows together, or there are none (rule 5).
func faster(p *Picker, s *Source) (Request, bool) {
	if !s.seed() || p.spares(s) {
		return Request{}, false
	}
	return p.pick(s, s.spent, p.crossing(s))
}

// poach asks for what falls to this host of a spent seed, and for what it is heir of in another rack (rule 5).
func poach(p *Picker, s *Source) (Request, bool) {
	switch {
	case s.flying > p.poach*p.chunk:
		return Request{}, false
	case s.seed() && s.dist == SameRack:
		return p.pick(s, s.spent, p.mine(Elsewhere))
	case s.seed():
		return p.pick(s, s.spent, p.mine(s.dist-1))
	case s.dist > SameRack && p.flying <= p.poach*p.chunk: // to cross twice is worse than to wait for a mate
		p.mine(s.dist - 1)
		return p.pick(s, s.have, p.heir[s.dist-1])
	}
	return Request{}, false
}

// poachAny asks for anything (rule 5).
func poachAny(p *Picker, s *Source) (Request, bool) {
	if p.flying > p.poach*p.chunk {
		return Request{}, false
	}
	if s.seed() {
		return p.pick(s, s.spent, nil)
	}
	return p.pick(s, s.have, nil)
}

// crossing returns the chunks that may be asked of s as far as its place is concerned; nil is all.
func (p *Picker) crossing(s *Source) mask {
	if s.dist == SameRack {
		return nil
	}
	return p.mine(s.dist - 1)
}

// mine returns the chunks that fall to this host at a level.
func (p *Picker) mine(level int) mask {
	if p.ownStale {
		p.divide()
	}
	return p.own[level]
}

// spares says whether fellows deliver as much together as s does, so that it can be spared.
func (p *Picker) spares(s *Source) bool {
	sum, any := 0.0, false
	for _, f := range p.sources {
		if p.fetches(f) {
			sum += f.rate
			any = true
		}
	}
	return any && s.rate <= sum
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

// rarest finds the chunk in set that is worth most to ask of s, among those in part (nil is all): by priority and
// rarity, but what is read ahead in its order, and whatever part it is in.
func (p *Picker) rarest(s *Source, set, part mask) (int, bool) {
	if p.opens[ReadAhead] > 0 {
		if c, ok := firstIn(0, p.open[ReadAhead], set, nil, nil); ok {
			return c, true
		}
	}
	for prio := Start; prio >= Repair && prio >= s.least; prio-- {
		for r := 1; r <= maxRarity; r++ {
			if p.count[prio][r] == 0 {
				continue
			}
			if c, ok := firstFrom(p.start, p.open[prio], p.rare[r], set, part); ok {
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
	return s.least <= Demand && (s.flying+s.draws == 0 || s.flying+(s.draws+1)*p.chunk <= s.window*windows)
}

// divide finds the chunks that fall to this host: those for which it has the highest random weight (Thaler and
// Ravishankar 1996) among the fellows that it knows in its rack, in its zone, and everywhere; and those for which it
// has the second highest. What a source in the circle has already falls to nobody in it; everywhere, only fellows
// count. Every fetcher comes to the same division by itself, and one that joins or leaves moves only its own part.
func (p *Picker) divide() {
	p.ownStale = false
	per := (p.n + ownGroups - 1) / ownGroups
	for g := 0; g*per < p.n; g++ {
		before := p.rank(Mix(uint64(g)))
		for c := g * per; c < min((g+1)*per, p.n); c++ {
			for d := range levels {
				p.own[d].put(c, before[d] == 0)
				p.heir[d].put(c, before[d] == 1)
			}
		}
	}
	for _, s := range p.sources {
		for d := s.dist; d < levels; d++ {
			if d < Elsewhere || s.fellow {
				p.own[d].remove(s.have)
				p.heir[d].remove(s.have)
			}
		}
	}
}

// rank returns to how many fellows in each circle a group of chunks falls before this host.
func (p *Picker) rank(group uint64) (before [levels]int) {
	weight := Mix(p.self ^ group)
	for _, s := range p.sources {
		if p.fetches(s) && Mix(s.key^group) > weight {
			for d := s.dist; d < levels; d++ {
				before[d]++
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
