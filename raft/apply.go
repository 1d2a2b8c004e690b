package raft

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	hraft "github.com/hashicorp/raft"

	"github.com/virtswarm/virtswarm/placement"
)

// Operations of Forwarder and HandleForward.
const (
	opApply = "raft.apply" // a command in, a reply out
	opRead  = "raft.read"  // nothing in, a reply out: the index that a linearizable read must have seen
	opStats = "raft.stats" // nothing in, stats out
)

// reply is the answer of a leader, or of a host that is none.
type reply struct {
	NotLeader bool             `json:"not_leader,omitempty"`
	Leader    placement.HostID `json:"leader,omitempty"`  // with NotLeader: who is, as far as this host knows
	Unknown   bool             `json:"unknown,omitempty"` // with Error: the command may have been carried out or not
	Result    placement.Result `json:"result,omitzero"`
	Code      string           `json:"code,omitempty"` // of placement's error, "" for another one
	Error     string           `json:"error,omitempty"`
	Lineage   string           `json:"lineage,omitempty"` // of the catalogue that the index in Result is of
}

// own are the Codes of errors that are none of placement's.
var own = map[string]error{"quorum": ErrQuorum, "twin": ErrTwin}

// errRetry is wrapped around errors after which another attempt, maybe at another leader, makes sense. errMaybe says
// moreover that the attempt may have succeeded.
var (
	errRetry = errors.New("not carried out")
	errMaybe = errors.New("outcome unknown")
)

// Apply proposes a command at whatever host and waits until it is committed and applied here. It retries over
// changes of leader until ctx ends, and then returns ErrNoLeader (the outcome may be unknown). All attempts have one
// ticket, so that the command is carried out once. An error of the command itself is one of placement's.
func (n *Node) Apply(ctx context.Context, c placement.Command) (placement.Result, error) {
	c.Ticket = &placement.Ticket{Host: n.cfg.ID, Number: n.tickets.Add(1)}
	data, err := placement.EncodeCommand(c)
	if err != nil {
		return placement.Result{}, err
	}
	var result placement.Result
	maybe := false // an earlier attempt may have succeeded
	err = n.retry(ctx, func(ctx context.Context) error {
		var err error
		result, err = n.ask(ctx, opApply, data)
		if maybe && err != nil && c.Settled(err) {
			result.Changed, err = true, nil
		}
		maybe = maybe || errors.Is(err, errMaybe)
		return err
	})
	if result.Index > 0 { // refused commands too: the caller may look at the state that refused it
		if waitErr := n.waitApplied(ctx, result.Index); waitErr != nil && err == nil {
			err = waitErr
		}
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", c.Kind(), err)
		if u := c.UpdateHost; u != nil && u.ID == n.cfg.ID && (errors.Is(err, ErrTwin) || errors.Is(err, placement.ErrLaterLife)) {
			n.fail(err) // this machine is not who it says it is, or not any more
		}
		return result, err
	}
	return result, nil
}

// ReadIndex waits until the local catalogue has everything that was acknowledged before the call, so that a View
// thereafter is linearizable. It returns ErrNoLeader once ctx ends: the caller may show stale state and say so.
func (n *Node) ReadIndex(ctx context.Context) error {
	var at placement.Result
	err := n.retry(ctx, func(ctx context.Context) error {
		var err error
		at, err = n.ask(ctx, opRead, nil)
		return err
	})
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	return n.waitApplied(ctx, at.Index)
}

// retry repeats try until it succeeds, fails for good, or ctx ends; it pauses between attempts, but not past the
// appearance of a leader.
func (n *Node) retry(ctx context.Context, try func(context.Context) error) error {
	for delay := retryDelay; ; delay = min(2*delay, maxRetryDelay) {
		attempt, cancel := context.WithTimeout(ctx, forwardTimeout)
		err := try(attempt)
		cancel()
		if err == nil || !errors.Is(err, errRetry) && !errors.Is(err, errMaybe) {
			return err
		}
		n.logger.Debug("no answer from a leader, trying again", "error", err)
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w (%w)", ErrNoLeader, ctx.Err(), err)
		case <-n.ctx.Done():
			return n.stopped()
		case <-time.After(delay):
		}
	}
}

// ask has an operation carried out by the leader, here or elsewhere.
func (n *Node) ask(ctx context.Context, op string, payload []byte) (placement.Result, error) {
	if err := n.stopped(); err != nil {
		return placement.Result{}, err
	}
	leader := n.leader()
	switch leader {
	case "":
		return placement.Result{}, fmt.Errorf("%w: no leader is known", errRetry)
	case n.cfg.ID:
		return n.serve(ctx, op, payload)
	}
	p, err := n.forward(ctx, leader, op, payload)
	if err != nil {
		n.hint.Store(nil)
		return placement.Result{}, fmt.Errorf("%w: leader %s: %w", errMaybe, leader, err)
	}
	var r reply
	if err := json.Unmarshal(p, &r); err != nil {
		return placement.Result{}, fmt.Errorf("%w: leader %s: answer cannot be read: %w", errMaybe, leader, err)
	}
	switch {
	case r.Lineage != n.lineage():
		return placement.Result{}, fmt.Errorf("%w: leader %s is of another recovery of the cluster", errMaybe, leader)
	case r.NotLeader:
		n.hint.Store(&r.Leader)
		return placement.Result{}, fmt.Errorf("%w: host %s is not the leader (any more)", errRetry, leader)
	case r.Unknown:
		return placement.Result{}, fmt.Errorf("%w: leader %s: %s", errMaybe, leader, r.Error)
	case own[r.Code] != nil:
		return r.Result, fmt.Errorf("%w: %s", own[r.Code], strings.TrimPrefix(r.Error, own[r.Code].Error()+": "))
	case r.Error != "":
		return r.Result, placement.ErrorOf(r.Code, r.Error)
	}
	return r.Result, nil
}

// leader returns who may be the leader: whom Raft names; or, as a host whose address has changed does not hear the
// leader before it has told it so, whom another host named; or else one voter after the other, to be asked.
func (n *Node) leader() placement.HostID {
	if _, id := n.raft.Load().LeaderWithID(); id != "" {
		return placement.HostID(id)
	}
	if hint := n.hint.Load(); hint != nil && *hint != "" && *hint != n.cfg.ID {
		return *hint
	}
	var voters []placement.HostID
	for _, s := range n.configuration().Servers {
		if id := placement.HostID(s.ID); s.Suffrage == hraft.Voter && id != n.cfg.ID {
			voters = append(voters, id)
		}
	}
	if len(voters) == 0 {
		return ""
	}
	return voters[int(n.asked.Add(1))%len(voters)]
}

// forward calls HandleForward on another host, at one of its addresses after the other.
func (n *Node) forward(ctx context.Context, host placement.HostID, op string, payload []byte) ([]byte, error) {
	err := fmt.Errorf("no address of host %s is known", host)
	for _, addr := range n.addresses(host) {
		var p []byte
		p, err = n.cfg.Forwarder.Forward(ctx, host, addr, op, payload)
		n.heard(host, err)
		if err == nil {
			return p, nil
		}
	}
	return nil, err
}

// HandleForward serves another host's Forwarder. Its answer is meant for the asking Node alone; an error means that
// the call was not understood.
func (n *Node) HandleForward(ctx context.Context, op string, payload []byte) ([]byte, error) {
	if err := n.stopped(); err != nil {
		return nil, err
	}
	if op == opStats {
		return json.Marshal(n.stats())
	}
	result, err := n.serve(ctx, op, payload)
	r := reply{Result: result, Lineage: n.lineage()}
	if err != nil {
		r.Error = err.Error()
		r.Code, _ = placement.ErrorCode(err)
		for code, sentinel := range own {
			if errors.Is(err, sentinel) {
				r.Code = code
			}
		}
		r.NotLeader, r.Unknown = errors.Is(err, errRetry), errors.Is(err, errMaybe)
		if _, id := n.raft.Load().LeaderWithID(); r.NotLeader {
			r.Leader = placement.HostID(id)
		}
		if r.Code == "" && !r.NotLeader && !r.Unknown {
			return nil, err
		}
	}
	return json.Marshal(r)
}

// lineage names the lineage of the catalogue here.
func (n *Node) lineage() (name string) {
	n.machine.view(func(s *placement.State) { name = s.Lineage() })
	return name
}

// serve carries out an operation as the leader.
func (n *Node) serve(ctx context.Context, op string, payload []byte) (placement.Result, error) {
	switch op {
	case opApply:
		return n.propose(ctx, payload)
	case opRead:
		index, err := n.reads.index(ctx)
		return placement.Result{Index: index}, err
	}
	return placement.Result{}, fmt.Errorf("unknown operation %.80q", op)
}

// propose puts a command into the log and waits for its outcome.
func (n *Node) propose(ctx context.Context, data []byte) (placement.Result, error) {
	c, err := placement.DecodeCommand(data)
	if err != nil {
		return placement.Result{}, err // nothing that cannot be read may get into the log
	}
	if err := n.mayPropose(c); err != nil {
		return placement.Result{}, err
	}
	if n.stamp(c) {
		if data, err = placement.EncodeCommand(c); err != nil {
			return placement.Result{}, err
		}
	}
	if u := c.UpdateHost; u != nil && u.Life != 0 {
		if d := n.director.Load(); d != nil && d.hasTwin(u.ID, u.Life) {
			return placement.Result{}, fmt.Errorf("update host %s: %w", u.ID, ErrTwin)
		}
	}
	if c.RemoveHost != nil {
		end, err := n.mayRemove(ctx, c.RemoveHost.ID)
		if err != nil {
			return placement.Result{}, err
		}
		defer end()
	}
	n.proposals.Add(1)
	future, err := n.await(ctx, func() hraft.Future { return n.raft.Load().Apply(data, forwardTimeout) })
	if n.proposals.Add(-1) == 0 { // else the next entry tells the followers
		select {
		case n.committed <- struct{}{}:
		default:
		}
	}
	if err != nil {
		return placement.Result{}, err
	}
	o, ok := future.(hraft.ApplyFuture).Response().(outcome)
	if !ok {
		return placement.Result{}, fmt.Errorf("%w: no outcome", errMaybe)
	}
	return o.result, o.err
}

// mayRemove takes its vote away from a host before it is removed: its daemon may end as soon as the catalogue says so.
// Until end is called the voters do not change.
func (n *Node) mayRemove(ctx context.Context, id placement.HostID) (end func(), err error) {
	d := n.director.Load()
	if d == nil {
		return nil, fmt.Errorf("%w: this host does not lead (yet)", errRetry)
	}
	if err := d.begin(ctx); err != nil {
		return nil, fmt.Errorf("%w: %w", errRetry, err)
	}
	// The refusal is to arrive before the one who asks gives this attempt up.
	trial, cancel := context.WithTimeout(ctx, forwardTimeout/2)
	defer cancel()
	if err := d.retire(trial, id); err != nil {
		d.end()
		return nil, err
	}
	return d.end, nil
}

// spread lets the followers hear at once that an entry is committed: by the next entry, which is a barrier if nothing
// else is on its way. Without it they would hear after Timing.Commit, and so would whoever reads or waits there.
func (n *Node) spread() {
	for {
		select {
		case <-n.committed:
		case <-n.ctx.Done():
			return
		}
		if n.proposals.Load() == 0 {
			n.raft.Load().Barrier(forwardTimeout).Error() // if it fails, Timing.Commit is behind it
		}
	}
}

// await starts something and waits until it is done, but not longer than ctx, and sorts its errors.
func (n *Node) await(ctx context.Context, start func() hraft.Future) (hraft.Future, error) {
	var future hraft.Future
	done := make(chan error, 1)
	// Raft answers sooner or later; Close waits for that.
	if !n.spawn(func() { future = start(); done <- future.Error() }) {
		return nil, ErrClosed
	}
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", errMaybe, ctx.Err())
	}
	switch {
	case err == nil:
		return future, nil
	case errors.Is(err, hraft.ErrNotLeader), errors.Is(err, hraft.ErrLeadershipTransferInProgress),
		errors.Is(err, hraft.ErrEnqueueTimeout):
		return nil, fmt.Errorf("%w: %w", errRetry, err)
	}
	return nil, fmt.Errorf("%w: %w", errMaybe, err)
}

// waitApplied waits until the local catalogue has the entry with that index.
func (n *Node) waitApplied(ctx context.Context, index uint64) error {
	for {
		applied, changed := n.machine.wait()
		if applied >= index {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%w: the catalogue here is at %d, the leader's at %d: %w", ErrNoLeader, applied, index, ctx.Err())
		case <-n.ctx.Done():
			return n.stopped()
		}
	}
}

// stamp gives a command the time of this host's clock, whoever made it, and reports whether the command has one.
func (n *Node) stamp(c placement.Command) bool {
	var latest int64
	var version int
	n.machine.view(func(s *placement.State) { latest, version = s.Latest(), s.Version() })
	return c.Stamp(clock(n.cfg.Now(), latest), version)
}

// maxBack bounds by how much the clock of a leader may be behind that of the one before, and be taken for late. If it is
// behind by more, the other one was wrong.
const maxBack = 5 * time.Minute

// clock returns the time for a command, unix seconds: now, but not before the latest time in the catalogue.
func clock(now time.Time, latest int64) int64 {
	if behind := time.Unix(latest, 0).Sub(now); behind > 0 && behind <= maxBack {
		return latest
	}
	return now.Unix()
}

// mayPropose is ErrMixedVersions if a host of the cluster could not read the command.
func (n *Node) mayPropose(c placement.Command) error {
	var now int
	n.machine.view(func(s *placement.State) { now = s.Version() })
	if needs := c.Needs(); needs > now && c.RaiseVersion == nil {
		return fmt.Errorf("%s needs cluster version %d, and this cluster has %d: %w", c.Kind(), needs, now, placement.ErrMixedVersions)
	}
	return nil
}
