package simtest

import (
	"math"
	"slices"
	"sync"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/placement"
)

// claims is the history of what hosts see of domains, what the catalogue acknowledged of it, and what readers were
// shown. Its numbers put all of it in one order, as much happens at one virtual time.
type claims struct {
	mu    sync.Mutex
	order int64
	facts []*fact
	spans []*span
	acks  []ack
	reads []read
}

// fact is a change of what a machine sees of a domain. Its number is also the place of the change in the order.
type fact struct {
	m      *machine
	uuid   string
	number int64
	gone   bool
}

// span is a life of a daemon: what it tells, it has seen within.
type span struct {
	m        *machine
	id       string // of the host; "" if it did not get so far
	from, to int64
	served   int64 // when it was a member
	left     int64 // when it was first asked to leave the cluster, or the others to remove it; 0 if never
}

// ack says that the catalogue has what a daemon told of a domain: the fact of a number, or that the domain is gone.
type ack struct {
	span *span
	uuid string
	fact int64 // 0: it is gone
	at   int64
}

// read is an answer that claims to be linearizable.
type read struct {
	from, to int64
	shown    map[string]shown // by UUID
}

// shown is what an answer says of a domain: the host where it is, with the number of the fact, and who else claims it.
type shown struct {
	host   string // names, all of them
	fact   int64
	others []string
}

func newClaims() *claims { return &claims{} }

// tick is the next number. The caller holds no lock of claims.
func (c *claims) tick() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.next()
}

func (c *claims) next() int64 {
	c.order++
	return c.order
}

// change notes a fact and returns its number.
func (c *claims) change(m *machine, uuid string, gone bool) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := &fact{m: m, uuid: uuid, number: c.next(), gone: gone}
	c.facts = append(c.facts, f)
	return f.number
}

// begin notes that a daemon is started; serve, which host it is; end, that nothing of it runs any more.
func (c *claims) begin(m *machine) *span {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &span{m: m, from: c.next(), to: math.MaxInt64}
	c.spans = append(c.spans, s)
	return s
}

func (c *claims) serve(s *span, id placement.HostID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.id, s.served = string(id), c.next()
}

func (c *claims) end(s *span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.to = c.next()
}

// leave notes that from now on the catalogue may forget the host that a machine is.
func (c *claims) leave(m *machine) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.last(m); s != nil && s.left == 0 {
		s.left = c.next()
	}
}

// last is the life of a machine that it is in, or was in. The caller holds mu.
func (c *claims) last(m *machine) *span {
	for _, s := range slices.Backward(c.spans) {
		if s.m == m && s.id != "" {
			return s
		}
	}
	return nil
}

// told notes what the catalogue has acknowledged.
func (c *claims) told(m *machine, r placement.ReportDomains) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, at := c.last(m), c.next()
	for _, d := range r.Domains {
		c.acks = append(c.acks, ack{s, d.UUID, d.Memory, at})
	}
	for _, uuid := range r.Gone {
		c.acks = append(c.acks, ack{s, uuid, 0, at})
	}
}

// read notes an answer to a question that was asked at a number.
func (c *claims) read(asked int64, list []*v1.Guest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := read{from: asked, to: c.next(), shown: map[string]shown{}}
	for _, g := range list {
		r.shown[g.GetUuid()] = shown{g.GetHost(), int64(g.GetMemory()), g.GetOthers()}
	}
	c.reads = append(c.reads, r)
}
