package swarm

import (
	"math"
	"slices"
)

// Priority says who waits for a chunk. A higher one always goes first.
type Priority uint8

// The order is a standing rule of the house: a reader that waits goes before
// prefetch, prefetch before copies that an operator asked for, those before
// repair. Demand and ReadAhead are fetched in file order, because a reader
// walks forward; Distribute and Repair are fetched rarest first, which is what
// lets a whole swarm end early.
const (
	Repair     Priority = iota + 1 // the cluster's own wish: put back a lost replica
	Distribute                     // a copy that someone asked for
	ReadAhead                      // a reader will likely want it next
	Demand                         // a reader waits for it now

	unwanted Priority = 0
)

const (
	// maxRarity is the highest rarity that the picker tells apart. Beyond
	// that many holders a chunk is not scarce, and sorting it further buys
	// nothing.
	maxRarity = 16
	// maxTwins bounds the chunks of one job which are requested twice at the
	// same time, and with it what the end of a download may waste.
	maxTwins = 8
	// twinGain is how many times sooner a second source must be expected to
	// deliver before a chunk is requested twice. At equal rates nothing is.
	twinGain = 2.0
	// ownGroups bounds the work of dividing chunks among fellow fetchers: a
	// file of more chunks than this is divided in groups of several.
	ownGroups = 1 << 16
)

// Picker decides which chunk to request next, and from which source. It is a
// pure data structure: no clock, no I/O, no goroutine, no randomness; the same
// calls in the same order give the same requests, so that it can be tested by
// property and simulated by the thousand. It is not safe for concurrent use:
// one job's loop owns it.
//
// Its rules, in this order (docs/swarm.md gives the reasons and the sources):
//
//  1. Demand before ReadAhead before Distribute before Repair.
//  2. A demanded chunk goes to the source that will deliver it first.
//  3. Everything else: sources which are fetchers themselves are filled before
//     complete ones, so that a seed is only asked for what nobody else can give.
//  4. A source gets the rarest chunk that it has.
//  5. Among equally rare ones, first those which fall to this host by rendezvous
//     hashing over the known fetchers: they divide a seed's chunks without a word.
//  6. Then by file order from a start that differs per host.
//  7. When a source has nothing left to give, it may be asked for a chunk that a
//     much slower source still owes; bounded by maxTwins.
type Picker struct {
	size  int64
	chunk int
	n     int
	self  uint64
	start int // where rule 6 begins

	prio    []Priority          // of each chunk
	holders []uint16            // how many sources have the chunk
	rare    [maxRarity + 1]mask // chunks by min(holders, maxRarity)
	open    [Demand + 1]mask    // wanted and not requested, by priority
	count   [Demand + 1][maxRarity + 1]int
	flights map[int]flight
	twins   int
	steal   int
	demands int       // chunks wanted on demand
	sources []*Source // in the order of Add: part of being deterministic

	own      mask // chunks that fall to this host (rule 5)
	ownStale bool
	turn     int
}

// flight is one requested chunk: from whom, and from whom else (rule 7).
type flight struct {
	first, second *Source
	stolen        bool
}

// Source is a holder of chunks as the picker sees it. Its fields belong to the
// picker that made it.
type Source struct {
	key    uint64
	have   mask
	count  int   // chunks in have
	queue  []int // requested chunks, oldest first
	flying int   // bytes requested
	window int   // bytes that may be requested
	rate   float64
	paused bool
	dry    bool // has nothing open: set by a search, cleared by news
}

// Request is one decision: ask Source for Chunk, which is Len bytes.
type Request struct {
	Source   *Source
	Chunk    int
	Len      int
	Priority Priority
	Twin     bool // somebody else was asked already
}

// NewPicker makes a picker for a file of size bytes in chunks of chunk bytes.
// self is this host's key: any number that is uniform over hosts and that its
// peers know it by.
func NewPicker(self uint64, size int64, chunk int) *Picker {
	n := int((size + int64(chunk) - 1) / int64(chunk))
	p := &Picker{
		size: size, chunk: chunk, n: n, self: self,
		prio:     make([]Priority, n),
		holders:  make([]uint16, n),
		flights:  make(map[int]flight),
		own:      newMask(n),
		ownStale: true,
	}
	if n > 0 {
		p.start = int(mix(self) % uint64(n))
	}
	for i := range p.rare {
		p.rare[i] = newMask(n)
	}
	for i := range p.open {
		p.open[i] = newMask(n)
	}
	for i := range n {
		p.rare[0].set(i)
	}
	return p
}

func (p *Picker) len(c int) int {
	return int(min(int64(p.chunk), p.size-int64(c)*int64(p.chunk)))
}

// Want sets what chunk c is wanted for; zero takes the wish back. A request
// that is under way goes on: see Withdraw.
func (p *Picker) Want(c int, prio Priority) {
	if p.prio[c] == prio {
		return
	}
	_, flying := p.flights[c]
	if !flying {
		p.shut(c)
	}
	p.wish(c, prio)
	if !flying {
		p.unshut(c)
	}
}

func (p *Picker) wish(c int, prio Priority) {
	if p.prio[c] == Demand {
		p.demands--
	}
	if prio == Demand {
		p.demands++
	}
	p.prio[c] = prio
}

// Wanted returns what chunk c is wanted for.
func (p *Picker) Wanted(c int) Priority { return p.prio[c] }

// Add takes a source with the chunks that has reports true for. Its key is the
// one that the source itself gives to its own picker as self.
func (p *Picker) Add(key uint64, has func(c int) bool) *Source {
	s := &Source{key: key, have: newMask(p.n), window: 2 * p.chunk}
	p.sources = append(p.sources, s)
	for c := range p.n {
		if has(c) {
			p.gain(s, c)
		}
	}
	p.ownStale = true
	return s
}

// Remove forgets a source. What was requested from it is open again unless
// another source was asked too.
func (p *Picker) Remove(s *Source) {
	for len(s.queue) > 0 {
		p.Release(s, s.queue[0])
	}
	for c := range p.n {
		if s.have.has(c) {
			p.lose(s, c)
		}
	}
	p.sources = slices.DeleteFunc(p.sources, func(o *Source) bool { return o == s })
	p.ownStale = true
}

// Have notes that s has chunk c now.
func (p *Picker) Have(s *Source, c int) {
	if s.have.has(c) {
		return
	}
	p.gain(s, c)
	if s.count == p.n {
		p.ownStale = true // it is no longer a fetcher
	}
}

// Lost notes that s does not have chunk c any more.
func (p *Picker) Lost(s *Source, c int) {
	if s.have.has(c) {
		p.lose(s, c)
	}
}

// Holders returns how many sources have chunk c.
func (p *Picker) Holders(c int) int { return int(p.holders[c]) }

// SetPace gives what was measured of s: its rate in bytes a second (0 =
// unknown), and how many bytes may be requested of it at once. One chunk may
// always be.
func (p *Picker) SetPace(s *Source, rate float64, window int) {
	s.rate, s.window = rate, window
}

// Pause keeps s from being asked for more, or lets it be asked again.
func (p *Picker) Pause(s *Source, paused bool) { s.paused = paused }

// Release takes back a request which failed or was given up.
func (p *Picker) Release(s *Source, c int) {
	f, ok := p.flights[c]
	if !ok || (f.first != s && f.second != s) {
		return
	}
	p.dequeue(s, c)
	switch {
	case f.second == nil:
		delete(p.flights, c)
		p.unshut(c)
		return
	case f.first == s:
		f.first = f.second
	}
	f.second = nil
	p.twins--
	p.flights[c] = f
}

// Done notes that chunk c is held here: it is wanted no more. It returns the
// sources which still owe it, whose requests the caller cancels.
func (p *Picker) Done(c int) []*Source {
	f, flying := p.flights[c]
	if !flying {
		p.shut(c)
		p.wish(c, unwanted)
		return nil
	}
	p.wish(c, unwanted)
	if f.stolen {
		if int(p.holders[c]) > p.seeds() {
			p.steal = 0
		} else {
			p.steal += stealInc
		}
	}
	delete(p.flights, c)
	owe := []*Source{f.first}
	if f.second != nil {
		owe = append(owe, f.second)
		p.twins--
	}
	for _, s := range owe {
		p.dequeue(s, c)
	}
	return owe
}

// Next decides on the next request and counts it as under way; false when
// there is nothing to ask of anyone now.
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
	for _, pass := range [...]int{0, 1, 2} {
		for i := range p.sources {
			s := p.sources[(p.turn+i)%len(p.sources)]
			if (s.count == p.n) != (pass > 0) || s.dry || !p.room(s, 1) {
				continue
			}
			if pass == 2 && s.flying > p.steal*p.chunk {
				continue
			}
			if c, ok := p.best(s, pass == 1); ok {
				p.turn++
				r := p.take(s, c)
				if pass == 2 && p.fellows() {
					f := p.flights[c]
					f.stolen = true
					p.flights[c] = f
				}
				return r, true
			}
			if pass != 1 {
				s.dry = true
			}
		}
	}
	if s, c, ok := p.twin(Repair); ok {
		return p.take(s, c), true
	}
	return Request{}, false
}

// demanded finds the lowest demanded chunk and who will deliver it first. A
// source takes up to twice its window for it.
func (p *Picker) demanded() (*Source, int, bool) {
	lowest, found := p.n, false
	for _, s := range p.sources {
		if !p.room(s, 2) {
			continue
		}
		if c, ok := firstIn(0, p.open[Demand], s.have, nil, nil); ok && c < lowest {
			lowest, found = c, true
		}
	}
	if !found {
		return nil, 0, false
	}
	var best *Source
	soonest := math.Inf(1)
	for _, s := range p.sources {
		if s.have.has(lowest) && p.room(s, 2) {
			if t := p.eta(s, s.flying+p.len(lowest)); best == nil || t < soonest {
				best, soonest = s, t
			}
		}
	}
	return best, lowest, true
}

// best finds what s is worth asking for.

var stealInc = 1

func (p *Picker) seeds() (n int) {
	for _, o := range p.sources {
		if o.count == p.n {
			n++
		}
	}
	return
}

func (p *Picker) fellows() bool { return p.seeds() < len(p.sources) }

func (p *Picker) best(s *Source, ownOnly bool) (int, bool) {
	seeds := p.seeds()
	if c, ok := firstIn(0, p.open[ReadAhead], s.have, nil, nil); ok {
		return c, true
	}
	for prio := Distribute; prio >= Repair; prio-- {
		for r := 1; r <= maxRarity; r++ {
			if p.count[prio][r] == 0 {
				continue
			}
			if ownOnly && r > seeds {
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

// twin finds an idle source that would deliver a chunk much sooner than the
// one which owes it: a straggler's last chunks, and a demanded chunk that waits
// in a slow source's queue. Only chunks of priority least and above count.
func (p *Picker) twin(least Priority) (*Source, int, bool) {
	if p.twins >= maxTwins {
		return nil, 0, false
	}
	var (
		who   *Source
		which int
		worst float64
	)
	for _, slow := range p.sources {
		ahead := 0
		for _, c := range slow.queue {
			ahead += p.len(c)
			f := p.flights[c]
			if f.second != nil || p.prio[c] < least {
				continue
			}
			late := p.eta(slow, ahead)
			if late <= worst {
				continue
			}
			if s := p.rescuer(slow, c, late); s != nil {
				who, which, worst = s, c, late
			}
		}
	}
	return who, which, who != nil
}

// rescuer returns the soonest source other than slow which has chunk c, has
// room for it, and beats late by twinGain.
func (p *Picker) rescuer(slow *Source, c int, late float64) *Source {
	var best *Source
	soonest := late / twinGain
	for _, s := range p.sources {
		if s == slow || s.rate == 0 || !s.have.has(c) || !p.room(s, 1) {
			continue
		}
		if t := p.eta(s, s.flying+p.len(c)); t < soonest {
			best, soonest = s, t
		}
	}
	return best
}

// eta is the time in seconds in which s delivers n bytes. Of a source that has
// shown no rate yet nothing is known: it is taken for a middling one when it is
// idle, and no chunk is taken away from it by guess.
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

// room says whether s may be asked for one more chunk, with times its window.
func (p *Picker) room(s *Source, times int) bool {
	return !s.paused && (s.flying == 0 || s.flying+p.chunk <= s.window*times)
}

func (p *Picker) take(s *Source, c int) Request {
	f, flying := p.flights[c]
	if flying {
		f.second = s
		p.twins++
	} else {
		p.shut(c)
		f.first = s
	}
	p.flights[c] = f
	s.queue = append(s.queue, c)
	s.flying += p.len(c)
	return Request{Source: s, Chunk: c, Len: p.len(c), Priority: p.prio[c], Twin: flying}
}

func (p *Picker) dequeue(s *Source, c int) {
	if i := slices.Index(s.queue, c); i >= 0 {
		s.queue = slices.Delete(s.queue, i, i+1)
		s.flying -= p.len(c)
	}
}

// shut takes c out of the open chunks, unshut puts it back if it is wanted.
func (p *Picker) shut(c int) {
	if q := p.prio[c]; q != unwanted && p.open[q].has(c) {
		p.open[q].clear(c)
		p.count[q][p.rarity(c)]--
	}
}

func (p *Picker) unshut(c int) {
	q := p.prio[c]
	if q == unwanted || p.open[q].has(c) {
		return
	}
	p.open[q].set(c)
	p.count[q][p.rarity(c)]++
	for _, s := range p.sources {
		if s.dry && s.have.has(c) {
			s.dry = false
		}
	}
}

func (p *Picker) rarity(c int) int { return min(int(p.holders[c]), maxRarity) }

func (p *Picker) gain(s *Source, c int) {
	s.have.set(c)
	s.count++
	s.dry = false
	p.recount(c, 1)
}

func (p *Picker) lose(s *Source, c int) {
	if s.count == p.n {
		p.ownStale = true
	}
	s.have.clear(c)
	s.count--
	p.recount(c, -1)
}

// recount moves chunk c to the rarity that it has with by holders more.
func (p *Picker) recount(c, by int) {
	was := p.rarity(c)
	p.holders[c] = uint16(int(p.holders[c]) + by)
	is := p.rarity(c)
	if was == is {
		return
	}
	p.rare[was].clear(c)
	p.rare[is].set(c)
	if q := p.prio[c]; q != unwanted && p.open[q].has(c) {
		p.count[q][was]--
		p.count[q][is]++
	}
}

// divide finds the chunks that fall to this host: those for which it has the
// highest random weight (Thaler and Ravishankar 1996) among the fetchers that
// it knows. Every fetcher comes to the same division by itself, and one that
// joins or leaves moves only its own part.
func (p *Picker) divide() {
	p.ownStale = false
	per := (p.n + ownGroups - 1) / ownGroups
	for g := 0; g*per < p.n; g++ {
		weight := mix(p.self ^ mix(uint64(g)))
		mine := true
		for _, s := range p.sources {
			if s.count < p.n && mix(s.key^mix(uint64(g))) > weight {
				mine = false
				break
			}
		}
		for c := g * per; c < min((g+1)*per, p.n); c++ {
			if mine {
				p.own.set(c)
			} else {
				p.own.clear(c)
			}
		}
	}
}

// mix is the finisher of splitmix64 (Steele, Lea and Flood 2014): a bijection
// in which every input bit reaches every output bit.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
