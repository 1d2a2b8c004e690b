package control

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/raft"
)

// LeavePhase says what a removal is doing.
type LeavePhase int

// The phases, in their order. The API's enum LeavePhase has the same numbers.
const (
	LeaveDraining LeavePhase = iota + 1
	LeaveRemoving
	LeaveDone
)

// LeaveProgress says how far a removal is.
type LeaveProgress struct {
	ID          placement.HostID
	Host        string
	Phase       LeavePhase
	Done, Total int // shards that are safe elsewhere
}

// Departure tells whether this host is removed from the cluster on its own wish. It is safe for concurrent use.
type Departure struct {
	wanted atomic.Bool
	done   chan struct{}
}

// NewDeparture makes a Departure that has not begun.
func NewDeparture() *Departure { return &Departure{done: make(chan struct{})} }

// Wanted reports whether the removal is under way or done.
func (d *Departure) Wanted() bool { return d.wanted.Load() }

// Done is closed once the host is out of the cluster, and whoever asked for it has been told.
func (d *Departure) Done() <-chan struct{} { return d.done }

// Leave removes a host from the cluster, once what it holds is safe elsewhere; with force at once. Another host that is
// up must be forced.
func (h *Hosts) Leave(ctx context.Context, name string, force bool, report func(LeaveProgress) error) error {
	h.fresh(ctx)
	host, err := h.hostNamed(name)
	if err != nil {
		return err
	}
	if host.ID != h.Self && host.State.Serves() && !force {
		return reason.Wrap(reason.Usage, host.Name, errors.New("the host is up")).
			WithHint("run 'virtswarm leave' on that host; or add `force`, which cuts it off at once")
	}
	l := &leave{Hosts: h, who: host, report: report, event: LeaveProgress{Phase: LeaveDraining, ID: host.ID, Host: host.Name}}
	if force {
		return reason.Explain(l.remove(ctx), host.Name)
	}
	err = l.drain(ctx)
	if err == nil {
		err = l.remove(ctx)
	}
	if err != nil {
		l.takeBack(ctx)
	}
	return reason.Explain(err, host.Name)
}

// leave is one call of Leave.
type leave struct {
	*Hosts
	who    placement.Host
	report func(LeaveProgress) error
	event  LeaveProgress
	// ordered says that the host is drained because of this call.
	ordered bool
}

// takeBack lets a host stay that could not leave, or whose caller gave up.
func (l *leave) takeBack(ctx context.Context) {
	if !l.ordered {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writePatience)
	defer cancel()
	l.who.State = placement.Leaving
	if err := l.setState(ctx, l.who, placement.Alive); err != nil {
		l.Logger.Warn("cannot take back the order to leave", "host", l.who.Name, "error", err)
	}
}

// drain waits until what the host holds is safe on other hosts.
func (l *leave) drain(ctx context.Context) error {
	switch l.who.State {
	case placement.Alive:
		if err := l.setState(ctx, l.who, placement.Leaving); err != nil {
			return err
		}
		l.ordered = true
	case placement.Down: // the operator need not wait for the grace to end; if it comes back, it is alive again
		if err := l.setState(ctx, l.who, placement.Lost); err != nil {
			return err
		}
	}
	return l.awaitDrained(ctx, l.who, func(left, total placement.Drain, _ float64) error {
		l.event.Done, l.event.Total = total.Shards-left.Shards, total.Shards
		return l.report(l.event)
	})
}

// remove takes the host out of the cluster. If it is this one, its daemon ends.
func (l *leave) remove(ctx context.Context) error {
	l.event.Phase = LeaveRemoving
	if err := l.report(l.event); err != nil {
		return err
	}
	self := l.who.ID == l.Self
	if self {
		if !l.departure.wanted.CompareAndSwap(false, true) {
			return reason.Wrap(reason.Usage, l.who.Name, errors.New("it is being removed already"))
		}
		l.HandOver() // a leader that removes itself would leave the others to an election
	}
	_, err := l.write(ctx, placement.Command{RemoveHost: &placement.RemoveHost{ID: l.who.ID}}, l.who.Name)
	// Out is out: an earlier call came through whose caller was not told.
	if err != nil && !(self && (errors.Is(err, raft.ErrRemoved) || errors.Is(err, placement.ErrNoHost))) {
		l.departure.wanted.Store(false)
		// The order may have come through all the same, and Run may wait for this call to say so already.
		if !self || !errors.Is(l.Node.Err(), raft.ErrRemoved) {
			return err
		}
	}
	if self {
		defer close(l.departure.done)
	}
	l.event.Phase = LeaveDone
	return l.report(l.event)
}

// handOver bounds the attempt to pass on Raft leadership.
const handOver = 2 * time.Second

// HandOver lets another host lead before this one is gone, so that nobody waits for an election.
func (h *Hosts) HandOver() {
	ctx, cancel := context.WithTimeout(context.Background(), handOver)
	defer cancel()
	if err := h.Node.TransferLeadership(ctx); err != nil {
		h.Logger.Debug("leadership was not passed on", "error", err)
	}
}
