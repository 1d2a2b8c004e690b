package plan

import "slices"

// Priority says who waits for a chunk. A higher one always goes first.
type Priority uint8

// The order is a standing rule of the house: a reader that waits goes before
// prefetch, prefetch before whole images that a start waits for, those before
// copies that an operator asked for, and those before repair. Demand and
// ReadAhead are fetched in file order, because a reader walks forward; the others
// are fetched rarest first, which is what lets a whole swarm end early: a hundred
// hosts that start guests of one image at once are a swarm.
const (
	Repair     Priority = iota + 1 // the cluster's own wish: put back a lost replica
	Distribute                     // a copy that someone asked for
	Start                          // a domain cannot start before all of it is here, or will soon read it
	ReadAhead                      // a reader will likely want it next
	Demand                         // a reader waits for it now

	Unwanted    Priority = 0
	AnyPriority          = Demand + 1 // above all
)

// Picker decides which chunk to request next, and from which source. It is a pure data structure: no clock, no I/O, no
// goroutine, no randomness; the same calls in the same order give the same requests, so that it can be tested by
// property and simulated by the thousand. It is not safe for concurrent use: one job's loop owns it.
//
// Of a source that gives, it draws: it asks for a chunk of the source's choice (Request.Draw). Such a request waits at
// the source and reserves nothing here but its place in the source's window, until Granted, Refused or Spent.
//
// This file keeps its books; the rules by which it decides stand in rules.go.
type Picker struct {
	size  int64
	chunk int
	n     int
	self  uint64
	place Place
	start int // where this host begins to look at chunks that are nobody's in particular

	prio    []Priority                     // of each chunk
	holders []uint16                       // how many sources have the chunk
	rare    [maxRarity + 1]mask            // chunks by min(holders, maxRarity)
	open    [Demand + 1]mask               // wanted and not requested, by priority
	opens   [Demand + 1]int                // how many
	count   [Demand + 1][maxRarity + 1]int // how many, by rarity
	demands int                            // chunks wanted on demand
	flights map[int]flight                 // requested chunks
	twins   int                            // of these: requested from two sources

	sources []*Source // in the order of Add: part of being deterministic
	flying  int       // bytes requested of all of them
	grown   int       // bytes of their windows above the first
	ready   []*Source // scratch of Next
	turn    int       // whose turn it is to be asked first

	own      [levels]mask // chunks that fall to this host; see divide
	heir     [levels]mask // chunks that would, but for one fellow
	ownStale bool
	scope    mask // chunks that are or were wanted: what a draw may range over
	drawing  int  // draws that wait
	poach    int  // chunks that may be on their way when one is poached
}

// flight is one requested chunk: from whom, and from whom else.
type flight struct {
	first, second *Source
	poached       bool   // rule 5
	holders       uint16 // when it was
}

// Source is a holder of chunks as the picker sees it. Its fields belong to the picker that made it.
type Source struct {
	key    uint64
	dist   int  // see Place
	fellow bool // it fetches as well, as far as we know
	gives  bool // it grants draws
	have   mask
	fresh  mask     // chunks that it may still grant; of one that gives
	spent  mask     // the others
	draws  int      // draws that wait
	count  int      // chunks in have
	queue  []int    // requested chunks, oldest first
	flying int      // bytes requested
	window int      // bytes that may be requested
	rate   float64  // bytes a second, 0 = unknown
	least  Priority // nothing below may be requested
	dry    bool     // has nothing open: set by a search, cleared by news
	peer   *Peer    // as the Job knows it
}

// Owes returns the bytes requested of s.
func (s *Source) Owes() int { return s.flying }

// Draws returns how many draws wait at s.
func (s *Source) Draws() int { return s.draws }

// Request is one decision: ask Source for Chunk, which is Len bytes; or, if Draw is set, for any one chunk in [Lo, Hi)
// that it likes, of at most Len bytes.
type Request struct {
	Source   *Source
	Draw     bool
	Chunk    int // of no meaning in a draw
	Lo, Hi   int // of a draw
	Len      int
	Priority Priority
}

// NewPicker makes a picker for a file of size bytes in chunks of chunk bytes.
// self is this host's key: any number that is uniform over hosts and that its
// peers know it by. place is where it stands.
func NewPicker(self uint64, place Place, size int64, chunk int) *Picker {
	n := int((size + int64(chunk) - 1) / int64(chunk))
	p := &Picker{
		size: size, chunk: chunk, n: n, self: self, place: place,
		prio:     make([]Priority, n),
		holders:  make([]uint16, n),
		flights:  make(map[int]flight),
		scope:    newMask(n),
		ownStale: true,
	}
	for d := range p.own {
		p.own[d], p.heir[d] = newMask(n), newMask(n)
	}
	if n > 0 {
		p.start = int(Mix(self) % uint64(n))
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

// Want sets what chunk c is wanted for; zero takes the wish back. A request that is under way goes on until it is
// released.
func (p *Picker) Want(c int, prio Priority) {
	if p.prio[c] == prio {
		return
	}
	_, flying := p.flights[c]
	if !flying {
		p.shut(c)
	}
	p.wish(c, prio)
	p.scope.put(c, prio != Unwanted)
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

// Add takes a source with the chunks that has reports true for. Its key is the one that the source itself gives to its
// own picker as self.
func (p *Picker) Add(key uint64, place Place, has func(c int) bool) *Source {
	s := &Source{key: key, dist: p.place.Distance(place), have: newMask(p.n), window: firstWindow * p.chunk}
	p.sources = append(p.sources, s)
	p.ownStale = true
	for c := range p.n {
		if has(c) {
			p.gain(s, c)
		}
	}
	return s
}

// Gives notes that s grants draws: from now on it is drawn from, and asked for what it chose to give to others only
// where the rules say so.
func (p *Picker) Gives(s *Source) {
	if s.gives {
		return
	}
	s.gives, s.dry = true, false
	s.fresh, s.spent = slices.Clone(s.have), newMask(p.n)
}

// Granted notes that a draw of s became chunk c: it is a request like any other now. False says that it is of no use,
// because the chunk is here, is not wanted, or is on its way from another: the caller gives it up, and the draw is
// over.
func (p *Picker) Granted(s *Source, c int) bool {
	p.undraw(s, 1)
	_, flying := p.flights[c]
	if flying || p.prio[c] == Unwanted {
		return false
	}
	p.Have(s, c)
	s.spend(c)
	p.take(s, c)
	return true
}

// Refused notes that a draw of s is over without a chunk.
func (p *Picker) Refused(s *Source) { p.undraw(s, 1) }

// Spent notes that s answered a draw of [lo, hi) so: it has given all that it holds of it. That draw is over; it is not
// asked for another there until it has more.
func (p *Picker) Spent(s *Source, lo, hi int) {
	p.undraw(s, 1)
	for c := max(lo, 0); c < min(hi, p.n); c++ {
		s.spend(c)
	}
	s.dry = false
}

// spend notes that a source which gives has given chunk c.
func (s *Source) spend(c int) {
	s.fresh.clear(c)
	s.spent.put(c, s.have.has(c))
}

func (p *Picker) undraw(s *Source, n int) {
	n = min(n, s.draws)
	s.draws -= n
	p.drawing -= n
}

// Fellow notes that s fetches the file as well: until it is complete, a part of what the seeds have falls to it.
func (p *Picker) Fellow(s *Source) {
	if !s.fellow {
		s.fellow = true
		p.ownStale = true
	}
}

// Remove forgets a source. What was requested from it is open again unless another source was asked too.
func (p *Picker) Remove(s *Source) {
	p.SetPace(s, 0, 0)
	p.undraw(s, s.draws)
	for len(s.queue) > 0 {
		p.Release(s, s.queue[0])
	}
	for c := range p.n {
		p.Lost(s, c)
	}
	p.sources = slices.DeleteFunc(p.sources, func(o *Source) bool { return o == s })
	p.ownStale = true
}

// Have notes that s has chunk c now. It returns whether that may be a reason to call Next: often s owes all that it
// may.
func (p *Picker) Have(s *Source, c int) bool {
	if !s.have.has(c) {
		p.gain(s, c)
	}
	return p.open[p.prio[c]].has(c) && (p.room(s, 1) || p.demands > 0)
}

// Lost notes that s does not have chunk c any more.
func (p *Picker) Lost(s *Source, c int) {
	if !s.have.has(c) {
		return
	}
	p.ownStale = true
	s.have.clear(c)
	if s.gives {
		s.spend(c)
	}
	s.count--
	p.recount(c, -1)
}

// Holders returns how many sources have chunk c.
func (p *Picker) Holders(c int) int { return int(p.holders[c]) }

// Complete says whether s has every chunk.
func (p *Picker) Complete(s *Source) bool { return s.count == p.n }

// SetPace gives what was measured of s: its rate in bytes a second (0 = unknown), and how many bytes may be requested
// of it at a time. One chunk always may.
func (p *Picker) SetPace(s *Source, rate float64, window int) {
	p.grown += p.growth(window) - p.growth(s.window)
	s.rate, s.window = rate, window
}

// growth is what a window has more than one that was not found yet.
func (p *Picker) growth(window int) int { return max(0, window-firstWindow*p.chunk) }

// Limit keeps s from being asked for chunks of a priority below least, until it is limited otherwise.
func (p *Picker) Limit(s *Source, least Priority) { s.least, s.dry = least, false }

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

// Done notes that chunk c is held here: it is wanted no more. It returns the sources that were asked for it; the
// requests which are still under way the caller cancels.
func (p *Picker) Done(c int) []*Source {
	f, flying := p.flights[c]
	if !flying {
		p.shut(c)
		p.wish(c, Unwanted)
		return nil
	}
	p.wish(c, Unwanted)
	if f.poached {
		p.learn(c, f.holders)
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
	p.flying += p.len(c)
	return Request{Source: s, Chunk: c, Len: p.len(c), Priority: p.prio[c]}
}

func (p *Picker) dequeue(s *Source, c int) {
	if i := slices.Index(s.queue, c); i >= 0 {
		s.queue = slices.Delete(s.queue, i, i+1)
		s.flying -= p.len(c)
		p.flying -= p.len(c)
	}
}

// shut takes c out of the open chunks, unshut puts it back if it is wanted.
func (p *Picker) shut(c int) {
	if q := p.prio[c]; q != Unwanted && p.open[q].has(c) {
		p.open[q].clear(c)
		p.opens[q]--
		p.count[q][p.rarity(c)]--
	}
}

func (p *Picker) unshut(c int) {
	q := p.prio[c]
	if q == Unwanted || p.open[q].has(c) {
		return
	}
	p.open[q].set(c)
	p.opens[q]++
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
	if s.gives {
		s.fresh.set(c)
	}
	s.count++
	s.dry = false
	for d := s.dist; d < levels; d++ {
		if d < Elsewhere || s.fellow {
			p.own[d].clear(c)
			p.heir[d].clear(c)
		}
	}
	if s.fellow && s.count == p.n {
		p.ownStale = true // it fetches no longer
	}
	p.recount(c, 1)
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
	if q := p.prio[c]; q != Unwanted && p.open[q].has(c) {
		p.count[q][was]--
		p.count[q][is]++
	}
}
