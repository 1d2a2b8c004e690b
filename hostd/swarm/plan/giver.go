package plan

// closeBy is how many chunks behind this giver another one may be that hears of its grants too late.
const closeBy = 32

// Giver chooses what a holder of a file gives to those who leave the choice to it. Such a wish is a draw: any chunk in
// a range. The holder grants it as late as it can, when its uplink is free, a chunk that is fresh: held here, in the
// range, by no follower held, and granted to nobody yet. So whatever the fetchers know of each other, each chunk leaves
// the holder once before any leaves it twice.
//
// Several holders of one file begin at different places, and hear from their followers what the others gave. Where one
// comes to what is given already, it goes on in the middle of the longest run that is fresh. So it does where another
// gave what it has just given itself: they walk close behind one another, and would hear of each other's chunks too
// late all the way.
//
// A granted chunk whose follower gives it up or leaves is granted again, after all that is fresh, unless a follower has
// it.
type Giver struct {
	n      int
	self   uint64
	held   mask
	fresh  mask // held, and neither granted nor at a follower
	again  mask // held and at no follower; granted in vain
	copies []uint16
	given  map[int]*Follower // granted; here until a second follower has it
	next   int               // where the run goes on
	part   bool              // another giver is close: it goes on elsewhere
	nfresh int
	nagain int
}

// Follower is a fetcher as a Giver sees it. Its fields belong to the Giver.
type Follower struct {
	have mask
	load int
}

// NewGiver makes a Giver for a file of that many chunks. self is this host's key, as its own Picker has it.
func NewGiver(self uint64, chunks int) *Giver {
	g := &Giver{n: chunks, self: self, held: newMask(chunks), fresh: newMask(chunks), again: newMask(chunks),
		copies: make([]uint16, chunks), given: map[int]*Follower{}}
	if chunks > 0 {
		g.next = int(Mix(self) % uint64(chunks))
	}
	return g
}

// Hold notes that this host holds chunk c now.
func (g *Giver) Hold(c int) {
	if g.held.has(c) {
		return
	}
	g.held.set(c)
	if g.copies[c] == 0 && g.given[c] == nil {
		g.put(c, true)
	}
}

// Drop notes that this host does not hold chunk c any more.
func (g *Giver) Drop(c int) {
	g.held.clear(c)
	g.put(c, false)
	g.putAgain(c, false)
}

// Follow takes a follower that has nothing yet.
func (g *Giver) Follow() *Follower { return &Follower{have: newMask(g.n)} }

// Has notes that f has chunk c now.
func (g *Giver) Has(f *Follower, c int) {
	if f.have.has(c) {
		return
	}
	f.have.set(c)
	g.copies[c]++
	g.put(c, false)
	g.putAgain(c, false)
	to := g.given[c]
	if to != nil && to != f && g.copies[c] == 1 {
		g.meet(c) // or to was slow to say that it has passed c on: then the walk is interrupted in vain
	}
	if to != nil && (to != f || g.copies[c] > 1) {
		to.load--
		delete(g.given, c)
	}
}

// Leave forgets a follower.
func (g *Giver) Leave(f *Follower) {
	for c := range g.n {
		if f.have.has(c) {
			f.have.clear(c)
			g.copies[c]--
			g.regain(c)
		}
		if g.given[c] == f {
			g.Revoke(f, c)
		}
	}
}

// Grant chooses a chunk in [lo, hi) for f and counts it as granted; false if nothing in there is fresh.
func (g *Giver) Grant(f *Follower, lo, hi int) (c int, ok bool) {
	lo, hi = max(lo, 0), min(hi, g.n)
	c, ok = g.choose(lo, hi)
	if !ok {
		return 0, false
	}
	g.next, g.part = c+1, false
	g.put(c, false)
	g.putAgain(c, false)
	g.given[c] = f
	f.load++
	return c, true
}

// Revoke notes that chunk c will not reach f, to which it was granted.
func (g *Giver) Revoke(f *Follower, c int) {
	if g.given[c] != f {
		return
	}
	delete(g.given, c)
	f.load--
	g.meet(c)
	g.regain(c)
}

// meet notes that chunk c, which was granted here, came from another giver.
func (g *Giver) meet(c int) {
	if g.next > c && g.next-c <= closeBy {
		g.part = true
	}
}

// Spent says whether all that this host holds in [lo, hi) has been given.
func (g *Giver) Spent(lo, hi int) bool {
	_, ok := g.choose(max(lo, 0), min(hi, g.n))
	return !ok
}

// Load returns how many chunks were granted to f that nobody else has got from it yet: while it is high, f is slow to
// pass on what it gets, and others should be given first.
func (g *Giver) Load(f *Follower) int { return f.load }

// choose finds the chunk to grant.
func (g *Giver) choose(lo, hi int) (int, bool) {
	if g.nfresh > 0 {
		if c, ok := within(g.fresh, g.next, lo, hi); ok {
			if g.part || c != g.next && g.next > lo && g.next < hi && g.held.has(g.next) {
				c = longest(g.fresh, lo, hi, Mix(g.self+uint64(g.nfresh)))
			}
			return c, true
		}
	}
	if g.nagain > 0 {
		return within(g.again, g.next, lo, hi)
	}
	return 0, false
}

// regain lets chunk c be granted again if nobody has it or gets it.
func (g *Giver) regain(c int) {
	if g.held.has(c) && g.copies[c] == 0 && g.given[c] == nil && !g.fresh.has(c) {
		g.putAgain(c, true)
	}
}

func (g *Giver) put(c int, in bool) {
	if g.fresh.has(c) != in {
		g.fresh.put(c, in)
		g.nfresh += sign(in)
	}
}

func (g *Giver) putAgain(c int, in bool) {
	if g.again.has(c) != in {
		g.again.put(c, in)
		g.nagain += sign(in)
	}
}

func sign(up bool) int {
	if up {
		return 1
	}
	return -1
}
