package raft

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	hraft "github.com/hashicorp/raft"

	"github.com/virtswarm/virtswarm/placement"
)

// run leads whenever this host is the leader.
func (n *Node) run() {
	r := n.raft.Load()
	leading := false
	for {
		for leading {
			leading = n.lead(r)
		}
		select {
		case <-n.ctx.Done():
			return
		case leading = <-r.LeaderCh():
		}
	}
}

// lead does a leader's work until leadership ends; it reports whether another term has begun meanwhile.
func (n *Node) lead(r *hraft.Raft) bool {
	ctx, cancel := context.WithCancel(n.ctx)
	defer cancel()
	d := newDirector(n, r)
	n.director.Store(d)
	defer n.director.Store(nil)
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() { d.run(ctx) })
	select {
	case <-n.ctx.Done():
		cancel()
		return false
	case again := <-r.LeaderCh():
		cancel()
		return again
	}
}

// director is the leader's work for one term: it asks all hosts how far they are, makes the Raft configuration follow
// the catalogue, chooses who votes, and marks in the catalogue which hosts are silent. It changes the configuration one
// server at a time, and takes no step after which fewer than a majority of the voters would answer.
type director struct {
	n     *Node
	raft  *hraft.Raft
	since time.Time // of this leadership: silence before it is not held against anybody

	changing chan struct{} // holds one while the configuration may change

	mu      sync.Mutex
	contact map[placement.HostID]contact
}

func newDirector(n *Node, r *hraft.Raft) *director {
	return &director{n: n, raft: r, since: time.Now(), changing: make(chan struct{}, 1), contact: map[placement.HostID]contact{}}
}

// run works until ctx ends.
func (d *director) run(ctx context.Context) {
	// What earlier leaders committed must be in the catalogue here before the configuration follows it.
	if err := d.raft.Barrier(transportTimeout).Error(); err != nil {
		d.n.logger.Debug("no barrier at the begin of a term", "error", err)
	}
	tick := time.NewTicker(d.n.cfg.Timing.Reconcile)
	defer tick.Stop()
	for {
		if err := d.reconcile(ctx); err != nil && ctx.Err() == nil && d.raft.State() == hraft.Leader {
			d.n.logger.Warn("cannot bring the Raft configuration in line with the catalogue, trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// begin waits for the turn to change the configuration; end gives it to the next.
func (d *director) begin(ctx context.Context) error {
	select {
	case d.changing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *director) end() { <-d.changing }

// hosts returns the members; none if there is no catalogue yet.
func (d *director) hosts() (hosts []placement.Host) {
	d.n.machine.view(func(s *placement.State) { hosts = s.Hosts() })
	return hosts
}

// reconcile asks all hosts how they are, adds and removes Raft servers as the catalogue says, chooses voters, and marks
// hosts that went silent or came back.
func (d *director) reconcile(ctx context.Context) error {
	if len(d.hosts()) == 0 {
		return nil // not initialised: the configuration is all we have
	}
	d.survey(ctx)
	if err := d.begin(ctx); err != nil {
		return err
	}
	err := d.followMembers()
	if err == nil {
		err = d.settleVoters(ctx)
	}
	d.end()
	return errors.Join(err, d.markHosts(d.hosts()), d.raiseVersion())
}

// raiseVersion raises the cluster version to what all members can.
func (d *director) raiseVersion() error {
	var now, least int
	d.n.machine.view(func(s *placement.State) { now, least = s.Version(), s.LeastVersion() })
	if least <= now {
		return nil
	}
	data, err := placement.EncodeCommand(placement.Command{RaiseVersion: &placement.RaiseVersion{To: least}})
	if err != nil {
		return err
	}
	if err := d.raft.Apply(data, transportTimeout).Error(); err != nil {
		return fmt.Errorf("raise the cluster version to %d: %w", least, err)
	}
	d.n.logger.Info("raised the cluster version: all hosts can it", "from", now, "to", least)
	return nil
}

// followMembers adds the hosts of the catalogue as servers that do not vote, and removes those who are no hosts any
// more. The caller has the turn.
func (d *director) followMembers() error {
	future := d.raft.GetConfiguration()
	index := future.Index()
	for _, step := range membershipSteps(future.Configuration().Servers, d.hosts(), d.n.cfg.ID) {
		var done hraft.IndexFuture
		switch step.suffrage {
		case remove:
			done = d.raft.RemoveServer(step.id, index, transportTimeout)
		case hraft.Voter:
			done = d.raft.AddVoter(step.id, step.address, index, transportTimeout)
		default:
			done = d.raft.AddNonvoter(step.id, step.address, index, transportTimeout)
		}
		if err := d.committed(done); err != nil {
			return fmt.Errorf("%s: %w", step, err)
		}
		d.n.logger.Info("changed the Raft configuration", "step", step.String())
		if step.suffrage == remove {
			d.n.troubles.clear(placement.HostID(step.id))
		}
		index = done.Index()
	}
	return nil
}

// committed waits until a change of the configuration is. A new voter may acknowledge the change before the library
// counts it among the voters, and then it is not counted until it acknowledges a later entry (hashicorp/raft v1.8.0,
// appendConfigurationEntry: the entry is sent before commitment.setConfiguration). Where its vote is needed, the change
// would wait for somebody to write. So an entry follows each change that is not committed at once.
func (d *director) committed(change hraft.Future) error {
	done := make(chan error, 1)
	if !d.n.spawn(func() { done <- change.Error() }) {
		return ErrClosed
	}
	select {
	case err := <-done:
		return err
	case <-time.After(d.n.cfg.Timing.Reconcile):
	}
	if err := d.raft.Barrier(transportTimeout).Error(); err != nil {
		d.n.logger.Debug("cannot follow a change of the configuration with an entry", "error", err)
	}
	return <-done
}

// maxChanges bounds the steps that are taken in a row: more than any configuration needs.
const maxChanges = 4 * MaxVoters

// settleVoters takes steps until the right hosts vote, or no step is safe. The caller has the turn.
func (d *director) settleVoters(ctx context.Context) error {
	for range maxChanges {
		servers, index := d.servers()
		d.tolerates(servers)
		c, ok := nextChange(servers, len(d.hosts()))
		if !ok {
			return nil
		}
		if err := d.take(c, index); err != nil || c.kind == transfer {
			return err
		}
		d.survey(ctx) // the next step is to go by what is so now
	}
	return nil
}

// tolerates notes for Status how many voters may fail.
func (d *director) tolerates(servers []server) {
	d.n.tolerance.Store(int32(max(0, tolerance(servers))))
}

// take carries out a step if the configuration is still the one with that index.
func (d *director) take(c change, index uint64) error {
	var done hraft.Future
	address := hraft.ServerAddress("")
	for _, s := range d.n.configuration().Servers {
		if s.ID == c.id {
			address = s.Address
		}
	}
	switch c.kind {
	case promote:
		done = d.raft.AddVoter(c.id, address, index, transportTimeout)
	case demote:
		done = d.raft.DemoteVoter(c.id, index, transportTimeout)
	default:
		done = d.raft.LeadershipTransferToServer(c.id, address)
	}
	if err := d.committed(done); err != nil {
		return fmt.Errorf("%s: %w", c, err)
	}
	d.n.logger.Info("changed the voters", "step", c.String())
	return nil
}

// retire takes its vote away from a host that is about to be removed, in as many safe steps as that needs. It returns
// an error that wraps errRetry if another host is to lead first or the steps could not be carried out, and ErrQuorum if
// there is no safe way. The caller has the turn, and keeps it until the host is removed.
func (d *director) retire(ctx context.Context, host placement.HostID) error {
	id := hraft.ServerID(host)
	if hosts := d.hosts(); len(hosts) == 1 || !slices.ContainsFunc(hosts, func(h placement.Host) bool { return h.ID == host }) {
		return nil // the catalogue itself will refuse
	}
	for range maxChanges {
		if servers, _ := d.servers(); !slices.ContainsFunc(servers, func(s server) bool { return s.id == id && s.voter }) {
			return nil
		}
		d.survey(ctx)
		servers, index := d.servers()
		c, done, ok := retirement(servers, len(d.hosts()), id)
		switch {
		case done:
			return nil
		case ok:
			if err := d.take(c, index); err != nil {
				return fmt.Errorf("%w: %w", errRetry, err)
			}
			if c.kind == transfer {
				return fmt.Errorf("%w: host %s is to lead first", errRetry, c.id)
			}
			continue
		}
		// A host that was busy for a moment, or is new, may be fit in a moment.
		wait := time.NewTimer(d.n.cfg.Timing.Reconcile)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return d.refusal(servers, id)
		}
	}
	servers, _ := d.servers()
	return d.refusal(servers, id)
}

// refusal says why a host cannot be removed, and what to do first.
func (d *director) refusal(servers []server, id hraft.ServerID) error {
	var silent []string
	voters, name := 0, string(id)
	names := map[placement.HostID]string{}
	for _, h := range d.hosts() {
		names[h.ID] = h.Name
	}
	for _, s := range servers {
		if s.id == id {
			name = cmp.Or(names[placement.HostID(id)], name)
		}
		if s.voter {
			voters++
			if !s.answers && s.id != id {
				silent = append(silent, cmp.Or(names[placement.HostID(s.id)], string(s.id)))
			}
		}
	}
	slices.Sort(silent)
	if len(silent) == 0 {
		return fmt.Errorf("%w: no other host is fit to vote in place of %s yet", ErrQuorum, name)
	}
	return fmt.Errorf("%w: of %d voters %s do not answer; without %s no majority would be left", ErrQuorum, voters, strings.Join(silent, ", "), name)
}

// servers returns the configuration as the choice of voters sees it, and its index.
func (d *director) servers() (servers []server, index uint64) {
	states := map[hraft.ServerID]placement.HostState{}
	for _, h := range d.hosts() {
		states[hraft.ServerID(h.ID)] = h.State
	}
	future := d.raft.GetConfiguration()
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range future.Configuration().Servers {
		c := d.contact[placement.HostID(s.ID)]
		self := placement.HostID(s.ID) == d.n.cfg.ID
		state, member := states[s.ID]
		healthy := self || c.healthy && now.Sub(c.at) <= silentAfter(d.n.cfg.Timing)
		servers = append(servers, server{
			id: s.ID, voter: s.Suffrage == hraft.Voter, leader: self, member: member, leaving: state == placement.Leaving,
			healthy: healthy, answers: self || c.healthy && c.answered, since: c.since,
			stable: self || healthy && now.Sub(c.since) >= d.n.cfg.Timing.Stabilize,
		})
	}
	return servers, future.Index()
}

// step is one change of the Raft configuration.
type step struct {
	id       hraft.ServerID
	address  hraft.ServerAddress
	suffrage hraft.ServerSuffrage // what it is to be, or remove
}

// remove is no suffrage of hashicorp/raft.
const remove hraft.ServerSuffrage = -1

func (s step) String() string {
	if s.suffrage == remove {
		return fmt.Sprintf("remove server %s", s.id)
	}
	return fmt.Sprintf("set server %s to %s", s.address, s.suffrage)
}

// membershipSteps returns what makes the servers follow the hosts: new hosts become non-voters, and who is no host any more
// goes, except self: a leader is never removed before another one leads. A server's address stays that at which its host
// came in: where it is now stands in the catalogue, and hashicorp/raft (v1.8.0) races with itself when it changes one.
func membershipSteps(servers []hraft.Server, hosts []placement.Host, self placement.HostID) []step {
	known := make(map[hraft.ServerID]hraft.Server, len(servers))
	for _, s := range servers {
		known[s.ID] = s
	}
	var steps []step
	for _, h := range hosts {
		id := hraft.ServerID(h.ID)
		if _, ok := known[id]; !ok {
			steps = append(steps, step{id, serverAddress(h.ID, h.Addr), hraft.Nonvoter})
		}
		delete(known, id)
	}
	for _, s := range servers {
		if _, gone := known[s.ID]; gone && placement.HostID(s.ID) != self {
			steps = append(steps, step{s.ID, s.Address, remove})
		}
	}
	return steps
}

// markHosts proposes Down for hosts that were silent for too long, Lost for those that stay so, and Alive for those
// that speak again.
func (d *director) markHosts(hosts []placement.Host) error {
	now := time.Now()
	for _, h := range hosts {
		silence := d.silence(h.ID, now)
		to := d.judge(h, silence, now)
		if to == h.State {
			continue
		}
		c := placement.SetHostState{ID: h.ID, From: h.State, To: to}
		cmd := placement.Command{SetHostState: &c}
		d.n.stamp(cmd)
		data, err := placement.EncodeCommand(cmd)
		if err != nil {
			return err
		}
		if err := d.raft.Apply(data, transportTimeout).Error(); err != nil {
			return fmt.Errorf("mark host %s %s: %w", h.Name, c.To, err)
		}
		d.n.logger.Info("marked host", "host", h.Name, "state", c.To, "silent_for", silence.Round(time.Millisecond))
	}
	return nil
}

// judge says which state a host should be in. Leaving is an operator's word, and stays.
func (d *director) judge(h placement.Host, silence time.Duration, now time.Time) placement.HostState {
	silent := silence >= d.n.cfg.HostTimeout
	// The grace begins in the catalogue, so that a new leader does not begin it again; a clock that is wrong ends it at
	// another time, which is no harm.
	over := now.Sub(time.Unix(h.At, 0)) >= d.n.cfg.Grace || silence >= d.n.cfg.HostTimeout+d.n.cfg.Grace
	switch {
	case h.State == placement.Alive && silent:
		return placement.Down
	case h.State == placement.Down && silent && over:
		return placement.Lost
	case (h.State == placement.Down || h.State == placement.Lost) && !silent && d.spoke(h.ID):
		return placement.Alive
	}
	return h.State
}

// silence is how long nothing was heard of a host, as far as this leader can tell.
func (d *director) silence(id placement.HostID, now time.Time) time.Duration {
	if id == d.n.cfg.ID {
		return 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	last := d.since
	if at := d.contact[id].at; at.After(last) {
		last = at
	}
	return now.Sub(last)
}

// spoke reports whether a host was heard at all by this leader.
func (d *director) spoke(id placement.HostID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.contact[id]
	return ok || id == d.n.cfg.ID
}

// contact is what is known of how a host follows.
type contact struct {
	at       time.Time     // when it last answered
	stats    stats         // what it said then
	healthy  bool          // whether it followed then
	since    time.Time     // when healthy last changed
	answered bool          // whether it answered the last time that it was asked
	joined   uint64        // index at which it became a member: durable is about that membership
	durable  uint64        // the highest log index up to which it is known to have everything on disk
	skew     time.Duration // how far its clock is ahead of the one here
}

// stats is the answer to opStats.
type stats struct {
	LastIndex   uint64        `json:"last_index"`
	LastTerm    uint64        `json:"last_term"`
	LastContact time.Duration `json:"last_contact"` // since it heard a leader; negative if never
	Commit      uint64        `json:"commit,omitempty"`
	Life        uint64        `json:"life,omitempty"`    // number of this start of its daemon
	Lineage     string        `json:"lineage,omitempty"` // see placement.State.Lineage
	Clock       int64         `json:"clock,omitempty"`   // Unix milliseconds when it answered
}

// maxTrailing is how many log entries a host may lack and still count as one that follows.
const maxTrailing = 4 * maxAppendEntries

// silentAfter is the silence after which a host is not healthy enough to keep its vote if another can have it: a few
// missed polls.
func silentAfter(t Timing) time.Duration { return max(5*t.Reconcile, 2*t.Election) }

// survey asks every host how far it is, and waits for the answers no longer than an election may take.
func (d *director) survey(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, d.n.cfg.Timing.Election)
	defer cancel()
	hosts := map[placement.HostID]bool{}
	for _, h := range d.hosts() {
		hosts[h.ID] = true
	}
	for _, s := range d.n.configuration().Servers {
		hosts[placement.HostID(s.ID)] = true
	}
	var asking sync.WaitGroup
	for id := range hosts {
		asking.Go(func() { d.poll(ctx, id) })
	}
	asking.Wait()
}

// poll asks one host for its stats and notes what it said, or that it said nothing.
func (d *director) poll(ctx context.Context, id placement.HostID) {
	own := d.n.stats()
	s := own
	asked := time.Now()
	var err error
	if id != d.n.cfg.ID {
		var p []byte
		if p, err = d.n.forward(ctx, id, opStats, nil); err == nil {
			err = json.Unmarshal(p, &s)
		}
		if err == nil && s.Lineage != own.Lineage { // whatever it holds, it holds for another catalogue, at least until it follows
			err = fmt.Errorf("it follows recovery %q of the cluster, not %q", s.Lineage, own.Lineage)
		}
	}
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.contact[id]
	if c.answered = err == nil; !c.answered {
		d.n.logger.Trace("host does not answer", "host", id, "error", err)
		if !c.at.IsZero() {
			d.contact[id] = c
		}
		return
	}
	if healthy := s.follows(own, d.n.cfg.Timing); healthy != c.healthy || now.Sub(c.at) > silentAfter(d.n.cfg.Timing) {
		c.healthy, c.since = healthy, now
	}
	if joined := d.joined(id); joined != c.joined {
		c.joined, c.durable = joined, 0
	}
	c.at, c.stats = now, s
	if id != d.n.cfg.ID && s.Clock != 0 {
		c.skew = time.UnixMilli(s.Clock).Sub(asked.Add(now.Sub(asked) / 2))
	}
	c.durable = max(c.durable, min(s.Commit, s.LastIndex)) // a host says that an entry is committed once its disk has it
	d.contact[id] = c
}

// Skews returns, if this host leads, how far the clocks of the hosts that answer are ahead of the one here, as exactly
// as half of the time that an answer took; else nil.
func (n *Node) Skews() map[placement.HostID]time.Duration {
	d := n.director.Load()
	if d == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	skews := map[placement.HostID]time.Duration{}
	for id, c := range d.contact {
		if c.answered && id != n.cfg.ID {
			skews[id] = c.skew
		}
	}
	return skews
}

// joined is the index at which a host became a member, 0 if it is none.
func (d *director) joined(id placement.HostID) (index uint64) {
	d.n.machine.view(func(s *placement.State) {
		h, _ := s.Host(id)
		index = h.Joined
	})
	return index
}

// follows reports whether a host hears the leader, whose stats are given, and has nearly all of its log.
func (s stats) follows(leader stats, t Timing) bool {
	return s.LastContact >= 0 && s.LastContact <= t.Election && s.LastTerm == leader.LastTerm &&
		s.LastIndex+maxTrailing >= leader.LastIndex
}
