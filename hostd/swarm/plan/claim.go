package plan

import (
	"slices"
	"time"

	"github.com/virtswarm/virtswarm/internal/content"
)

// Claim is what one caller wants of a file. Once given to a Job it belongs to it.
type Claim struct {
	Tag any // the driver's own

	prio    Priority
	missing content.Bits // chunks not here yet
	left    int          // how many
	stuck   time.Time    // since when nobody offers anything of it; zero if somebody does
}

// NewClaim makes a Claim on chunks, all of which are missing as far as is known. The Claim owns the set.
func NewClaim(prio Priority, missing content.Bits) *Claim {
	return &Claim{prio: prio, missing: missing, left: missing.Count()}
}

// Lacks says whether the caller waits for chunk c.
func (c *Claim) Lacks(chunk int) bool { return c.missing.Has(chunk) }

// Left returns how many chunks the caller waits for.
func (c *Claim) Left() int { return c.left }

// got notes that a chunk is here; true if that was the last one.
func (c *Claim) got(chunk int) (done bool) {
	if !c.missing.Has(chunk) {
		return false
	}
	c.missing.Clear(chunk)
	c.left--
	return c.left == 0
}

// Claim takes a claim. here are the chunks that the store has now: what the Job knew of may have been damaged since,
// and what the caller missed may have come.
func (j *Job) Claim(now time.Time, c *Claim, here content.Bits) {
	j.idle = false
	j.have.And(here)
	for i, ok := c.missing.NextSet(0); ok; i, ok = c.missing.NextSet(i + 1) {
		if here.Has(i) {
			c.got(i)
		} else {
			j.pick.Want(i, max(c.prio, j.pick.Wanted(i)))
		}
	}
	if c.left == 0 {
		j.act(Action{Do: Finish, Claim: c, Verdict: Complete})
		return
	}
	j.claims = append(j.claims, c)
	if len(j.claims) == 1 {
		j.seek(now)
	}
	if c.prio <= Start { // the draws that wait for less may be for the same chunks, and would keep their place in the line
		for _, p := range j.peers {
			j.undraw(p, c.prio)
		}
	}
}

// Drop takes a claim back.
func (j *Job) Drop(now time.Time, c *Claim) {
	if slices.Contains(j.claims, c) {
		j.finish(c, Dropped, now)
	}
}

// fail ends all claims, as when this host could not store what it received: that is no peer's fault.
func (j *Job) fail(v Verdict, now time.Time) {
	for len(j.claims) > 0 {
		j.finish(j.claims[0], v, now)
	}
}

// finish ends a claim. What only it wanted is wanted no more, and not waited for.
func (j *Job) finish(c *Claim, v Verdict, now time.Time) {
	j.idle = false
	j.claims = slices.DeleteFunc(j.claims, func(o *Claim) bool { return o == c })
	j.lastUse = now
	for i, ok := c.missing.NextSet(0); ok; i, ok = c.missing.NextSet(i + 1) {
		prio := Unwanted
		for _, o := range j.claims {
			if o.missing.Has(i) {
				prio = max(prio, o.prio)
			}
		}
		j.pick.Want(i, prio)
		if prio == Unwanted {
			j.abandon(i)
		}
	}
	if len(j.claims) == 0 {
		for _, p := range j.peers {
			j.undraw(p, AnyPriority)
		}
	}
	j.act(Action{Do: Finish, Claim: c, Verdict: v})
}

// abandon gives up all requests for a chunk that nobody wants any more.
func (j *Job) abandon(c int) {
	for _, p := range j.peers {
		if a := p.take(c); a != nil {
			j.pick.Release(p.src, c)
			j.act(Action{Do: Cancel, Ask: a})
		}
	}
}

// checkStuck ends a claim of which nobody has offered anything for PatienceTime.
func (j *Job) checkStuck(c *Claim, now time.Time) {
	switch {
	case j.offered(c):
		c.stuck = time.Time{}
	case c.stuck.IsZero():
		c.stuck = now
	case now.Sub(c.stuck) >= PatienceTime:
		j.finish(c, NoHolder, now)
	}
}

// offered says whether anything that a claim lacks can be had, or a host has not been tried yet.
func (j *Job) offered(c *Claim) bool {
	for i, ok := c.missing.NextSet(0); ok; i, ok = c.missing.NextSet(i + 1) {
		if j.pick.Holders(i) > 0 {
			return true
		}
	}
	for _, all := range [...][]*candidate{j.listed, j.named} {
		if slices.ContainsFunc(all, func(c *candidate) bool { return !c.tried }) {
			return true
		}
	}
	return false
}
