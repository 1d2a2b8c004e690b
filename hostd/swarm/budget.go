package swarm

import (
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
	"github.com/virtswarm/virtswarm/internal/wire"
)

// budget is the plan.Budget that all jobs share, and wakes the jobs that were refused. It is safe for concurrent use.
type budget struct {
	mu      sync.Mutex
	plan    *plan.Budget
	waiting map[*job]struct{} // jobs that were refused and want to hear of room
	alarm   *time.Timer       // rings when the rate of what comes in allows more
}

func newBudget(total, perPeer int) *budget {
	b := &budget{plan: plan.NewBudget(total, perPeer), waiting: map[*job]struct{}{}}
	b.alarm = time.AfterFunc(time.Hour, b.wake)
	b.alarm.Stop()
	return b
}

// share is the budget as one job sees it.
type share struct {
	*budget
	job *job
}

// Ask implements plan.Budgeter. A job that is refused is woken when there is room again.
func (s share) Ask(now time.Time, peer plan.Host, n int, prio Priority, draw bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.plan.Room(now, peer, n, prio) {
		s.waiting[s.job] = struct{}{}
		if wait := s.plan.In.Wait(now); wait > 0 {
			s.alarm.Reset(wait)
		}
		return false
	}
	if !draw {
		s.plan.Take(now, peer, n)
	}
	return true
}

// force reserves n bytes for a draw that was granted.
func (b *budget) force(peer wire.PeerID, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.plan.Take(time.Now(), plan.Host(peer), n)
}

// give returns what was reserved.
func (b *budget) give(peer wire.PeerID, n int) {
	b.mu.Lock()
	b.plan.Give(plan.Host(peer), n)
	b.mu.Unlock()
	b.wake()
}

// limit bounds the rate of what comes in, in bytes a second; 0 is no bound.
func (b *budget) limit(rate int64) {
	b.mu.Lock()
	b.plan.In.Set(time.Now(), rate)
	b.mu.Unlock()
	b.wake()
}

// wake tells the jobs that were refused that there may be room.
func (b *budget) wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for j := range b.waiting {
		select {
		case j.room <- struct{}{}:
		default:
		}
	}
	clear(b.waiting)
}

// owed returns how many bytes each peer owes this host.
func (b *budget) owed() map[wire.PeerID]int {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := map[wire.PeerID]int{}
	for peer, n := range b.plan.Owed() {
		all[wire.PeerID(peer)] = n
	}
	return all
}

// forget drops a job that has ended.
func (b *budget) forget(j *job) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.waiting, j)
}
