package plan

import (
	"cmp"
	"slices"
	"time"
)

// candidate is a host that may have the file.
type candidate struct {
	host   Host
	listed bool // by the directory
	named  bool // by other peers or itself, as one that fetches
	came   bool // it fetches from this host
	tried  bool // at least once, to the end
	fails  int  // since it was last of use
	retry  time.Time
	peer   *Peer // while it is a source, or is about to be

	distance int    // see Place
	lot      uint64 // its place among equals
}

// Listed takes the directory's answer.
func (j *Job) Listed(now time.Time, holders []Host) {
	j.idle = false
	was := slices.Clone(j.listed)
	for _, c := range was {
		c.listed = false
	}
	for _, h := range holders {
		if c := j.candidate(h); c != nil {
			c.listed = true
		}
	}
	for _, c := range was {
		if !c.listed {
			j.file(c, &j.listed, &j.named)
		}
	}
	for _, c := range slices.Clone(j.named) {
		switch {
		case c.listed:
			j.file(c, &j.named, &j.listed)
		case c.fails >= maxFails && c.peer == nil:
			j.forget(c)
		}
	}
	j.connect(now)
}

// candidate returns what is known of a host, which the Job gets to know if need be; nil of this host, and of one more
// than it can remember.
func (j *Job) candidate(h Host) *candidate {
	c := j.candidates[h]
	if c != nil || h == j.cfg.Self || len(j.candidates) >= MaxCandidates {
		return c
	}
	c = &candidate{host: h, lot: Mix(j.cfg.Self.Key() ^ h.Key())}
	c.distance = j.cfg.Place(j.cfg.Self).Distance(j.cfg.Place(h))
	j.candidates[h] = c
	j.file(c, nil, &j.named)
	return c
}

// file moves a candidate from one list to its place in another: the nearest first, and then in an order of this host's
// own, so that a large swarm is well mixed.
func (j *Job) file(c *candidate, from, to *[]*candidate) {
	order := func(a, b *candidate) int {
		return cmp.Or(cmp.Compare(a.distance, b.distance), cmp.Compare(a.lot, b.lot))
	}
	if from != nil {
		*from = slices.DeleteFunc(*from, func(o *candidate) bool { return o == c })
	}
	i, _ := slices.BinarySearchFunc(*to, c, order)
	*to = slices.Insert(*to, i, c)
}

func (j *Job) forget(c *candidate) {
	delete(j.candidates, c.host)
	j.named = slices.DeleteFunc(j.named, func(o *candidate) bool { return o == c })
	if c.came {
		j.calling--
	}
}

// Came notes that a host has come to fetch the file from this one.
func (j *Job) Came(now time.Time, h Host) {
	if c := j.candidate(h); c != nil && !c.came {
		c.came = true
		if c.peer == nil {
			j.calling++
		}
	}
	j.Met(now, h)
}

// Met notes that peers named hosts as fetchers of the file.
func (j *Job) Met(now time.Time, hosts ...Host) {
	fresh := false
	for _, h := range hosts {
		c := j.candidate(h)
		if c == nil || c.named && c.peer != nil {
			continue
		}
		fresh = true
		c.named = true
		if c.peer != nil && c.peer.src != nil {
			j.idle = false
			j.pick.Fellow(c.peer.src)
		}
	}
	if fresh && len(j.claims) > 0 {
		j.connect(now)
	}
}

// seek looks for hosts to fetch from.
func (j *Job) seek(now time.Time) {
	if j.looked.IsZero() || now.Sub(j.looked) >= LookTime {
		j.looked = now
		j.act(Action{Do: Look})
	}
	j.connect(now)
}

// connect begins to talk to candidates whose time has come. It looks for DialSources; hosts that came by themselves are
// taken up to MaxSources, so that sources are mutual and all hosts of a large swarm have about as many. Holders and
// fetchers take turns, so that neither crowds out the other. Fetchers that others named have to wait until LookAround
// is over.
func (j *Job) connect(now time.Time) {
	around := now.Sub(j.began) < LookAround || now.Sub(j.began) < CrowdTime && len(j.named) >= CrowdSize
	j.retry = time.Time{}
	l, n := 0, 0
	for l < len(j.listed) || n < len(j.named) {
		if len(j.peers) >= MaxSources || len(j.peers) >= DialSources && j.calling == 0 {
			return
		}
		l = j.connectNext(j.listed, l, now, false)
		n = j.connectNext(j.named, n, now, around)
	}
}

// connectNext begins to talk to the first of all, from at on, whose time has come, and returns where to go on.
func (j *Job) connectNext(all []*candidate, at int, now time.Time, around bool) (next int) {
	for ; at < len(all); at++ {
		c := all[at]
		if c.listed && c.peer == nil && now.Before(c.retry) && (j.retry.IsZero() || c.retry.Before(j.retry)) {
			j.retry = c.retry
		}
		switch {
		case c.peer != nil, now.Before(c.retry), len(j.peers) >= MaxSources:
		case !c.came && (around || len(j.peers) >= DialSources):
		default:
			j.begin(c)
			return at + 1
		}
	}
	return at
}
