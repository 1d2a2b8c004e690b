package swarm

import (
	"fmt"
	"time"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/wire"
)

// claim is one call of Fetch. Once given to a job it belongs to the job's loop.
type claim struct {
	plan     *plan.Claim
	missing  content.Bits // chunks not here yet; the plan's, once the job has it
	prio     Priority
	progress Progress
	tally    tally

	reports chan Progress // the newest one, for Fetch's goroutine
	result  chan error    // holds one
}

// newClaim notes what of want is missing now.
func newClaim(file File, want content.Bits, prio Priority) (*claim, error) {
	m := file.Manifest()
	if prio < Repair || prio > Demand {
		return nil, fmt.Errorf("fetch %s: no such priority: %d", m.ID().Short(), prio)
	}
	have := file.Have()
	switch want.Len() {
	case m.Chunks():
		want = want.Clone()
	case 0:
		want = content.NewBits(m.Chunks())
		want.SetRange(0, m.Chunks())
	default:
		return nil, fmt.Errorf("fetch %s: wants a set of %d chunks, the file has %d", m.ID().Short(), want.Len(), m.Chunks())
	}
	c := &claim{prio: prio, reports: make(chan Progress, 1), result: make(chan error, 1)}
	want.AndNot(m.Holes())
	c.progress.Total = bytesOf(m, want)
	want.AndNot(have)
	c.missing = want
	c.plan = plan.NewClaim(prio, want)
	c.plan.Tag = c
	lacking := bytesOf(m, want)
	c.progress.Done = c.progress.Total - lacking
	c.tally = tally{began: time.Now(), bytes: lacking, givers: map[wire.PeerID]struct{}{}}
	return c, nil
}

// bytesOf sums the lengths of chunks.
func bytesOf(m *content.Manifest, chunks content.Bits) int64 {
	n := int64(chunks.Count()) * int64(m.ChunkSize())
	if last := m.Chunks() - 1; last >= 0 && chunks.Has(last) {
		n -= int64(m.ChunkSize() - m.ChunkLen(last))
	}
	return n
}

// report offers the newest progress, in place of one that nobody took.
func (c *claim) report() {
	select {
	case <-c.reports:
	default:
	}
	c.reports <- c.progress
}
