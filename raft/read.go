package raft

import (
	"context"
	"sync"
)

// readGroup answers linearizable reads at the leader. A barrier through the log proves that this host still leads and
// has applied everything that was acknowledged; one barrier serves all reads that were waiting when it began. (The
// cheaper hashicorp/raft VerifyLeader counts the answers of non-voters as votes, and so may believe a leader that a
// majority has left behind.)
type readGroup struct {
	barrier func(ctx context.Context) error // through the log, applied here
	applied func() uint64
	spawn   func(func()) bool // runs a goroutine that Close waits for, if it is not too late
	base    context.Context

	mu      sync.Mutex
	running bool
	next    *readBatch // waits for the running one to end
}

// readBatch is the reads that share a barrier.
type readBatch struct {
	done  chan struct{}
	index uint64
	err   error
}

// index waits for a barrier that begins after the call, and returns the index to be seen.
func (g *readGroup) index(ctx context.Context) (uint64, error) {
	g.mu.Lock()
	if g.next == nil {
		g.next = &readBatch{done: make(chan struct{})}
	}
	b := g.next
	if !g.running {
		g.running = g.spawn(g.work)
	}
	running := g.running
	g.mu.Unlock()
	if !running {
		return 0, ErrClosed
	}
	select {
	case <-b.done:
		return b.index, b.err
	case <-ctx.Done():
		return 0, ctxMaybe(ctx)
	}
}

// work runs barriers as long as reads wait.
func (g *readGroup) work() {
	for {
		g.mu.Lock()
		b := g.next
		g.next = nil
		if b == nil {
			g.running = false
			g.mu.Unlock()
			return
		}
		g.mu.Unlock()
		ctx, cancel := context.WithTimeout(g.base, forwardTimeout)
		b.err = g.barrier(ctx)
		cancel()
		b.index = g.applied()
		close(b.done)
	}
}
