package raft

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"
	hraft "github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/raft/raftlog"
)

// Node is this host's part in the cluster.
type Node struct {
	cfg     Config
	logger  hclog.Logger
	machine *machine
	log     *raftlog.Store
	votes   *voteStore
	raft    atomic.Pointer[hraft.Raft] // nil until Open is nearly done
	reads   *readGroup
	metrics []prometheus.Collector

	hints      hints
	current    atomic.Bool // the catalogue here has caught up with the present leader's
	leaderSeen chan struct{}
	refusals   refusals
	hint       atomic.Pointer[placement.HostID] // the leader, as another host said
	asked      atomic.Uint32                    // voters asked for the leader, to take turns
	tickets    atomic.Uint64                    // number of the last ticket
	life       uint64                           // number of this start of the daemon
	lifeBefore uint64                           // and of the one before, 0 if there was none
	troubles   troubles
	ready      chan struct{}            // closed once raft is set
	proposals  atomic.Int32             // commands in the leader's log whose outcome is awaited
	committed  chan struct{}            // the last of them is through, and the followers should know; holds one
	director   atomic.Pointer[director] // while leading
	tolerance  atomic.Int32             // voters that may fail, as the director last saw it

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex // guards closing
	// closing is set before Close waits: no goroutine is started from there on.
	closing bool
	close   sync.Once
	closed  error // what Close returned

	failOnce sync.Once
	failed   chan struct{}
	failure  error // set before failed is closed
}

// Open starts the node from what is in cfg.Dir. ErrDamaged names the file and says what to do.
func Open(cfg Config) (_ *Node, err error) {
	cfg, err = cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	n := &Node{
		cfg: cfg, logger: cfg.Logger, machine: newMachine(), leaderSeen: make(chan struct{}, 1), committed: make(chan struct{}, 1),
		refusals: refusals{all: map[placement.HostID]refusing{}}, failed: make(chan struct{}), ready: make(chan struct{}),
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	layer := newStreamLayer(n)
	n.machine.restored, n.machine.can = layer.requalify, cfg.Version
	defer func() {
		if err != nil {
			n.cancel()
			err = errors.Join(err, layer.Close())
			if n.log != nil {
				err = errors.Join(err, n.log.Close())
			}
			if n.votes != nil {
				err = errors.Join(err, n.votes.Close())
			}
		}
	}()
	stores, err := n.openStores()
	if err != nil {
		return nil, err
	}
	if err := n.replay(stores, n.log.KnownCommit()); err != nil {
		return nil, err
	}
	if err := n.findTwin(); err != nil {
		return nil, err
	}
	if n.life, n.lifeBefore, err = n.votes.begin(n.cfg.Now()); err != nil {
		return nil, err
	}
	n.tickets.Store(n.life << ticketBits)
	if err := n.start(layer, stores); err != nil {
		return nil, err
	}
	return n, nil
}

// stores is what is on disk beside the log.
type stores struct {
	votes     *voteStore
	snapshots *snapshotStore
	fresh     bool // there was nothing
}

// openStores opens and checks everything in the directory.
func (n *Node) openStores() (s stores, err error) {
	if err := n.cfg.FS.MkdirAll(n.cfg.Dir, 0o700); err != nil {
		return s, fmt.Errorf("open Raft: %w", err)
	}
	votePath := filepath.Join(n.cfg.Dir, "vote")
	votes, voted, err := openVotes(n.cfg.FS, votePath)
	if err != nil {
		return s, err
	}
	n.votes = votes
	if n.log, err = raftlog.Open(n.cfg.FS, filepath.Join(n.cfg.Dir, "log"), n.logger.Named("log")); err != nil {
		return s, err
	}
	snapshots, err := openSnapshots(n.cfg.FS, filepath.Join(n.cfg.Dir, "snapshots"), n.logger.Named("snapshot"))
	if err != nil {
		return s, err
	}
	names, err := snapshots.names()
	if err != nil {
		return s, err
	}
	for _, dir := range []string{n.cfg.Dir, filepath.Dir(n.cfg.Dir)} { // the directories' own names
		if err := n.cfg.FS.SyncDir(dir); err != nil {
			return s, fmt.Errorf("open Raft: %w", err)
		}
	}
	if _, last := n.log.Bounds(); !voted && (last > 0 || len(names) > 0) {
		return s, raftlog.Damaged(votePath, "the term and vote are missing")
	}
	return stores{votes: votes, snapshots: snapshots, fresh: !voted}, nil
}

// replay brings the catalogue to where this host knew it to be committed, before anybody can be asked: it serves
// stale reads and says who the others are. hashicorp/raft will hand out the same entries again, to be skipped.
func (n *Node) replay(s stores, commit uint64) error {
	metas, err := s.snapshots.List()
	if err != nil {
		return err
	}
	var covered uint64
	if len(metas) > 0 {
		if err := n.restoreSnapshot(s.snapshots, metas[0].ID); err != nil {
			return err
		}
		covered = metas[0].Index
	}
	first, last := n.log.Bounds()
	switch {
	case last > 0 && last < covered:
		// A crash came between the snapshot from the leader and the removal of the log that it replaces.
		if err := n.log.Reset(); err != nil {
			return fmt.Errorf("open Raft: %w", err)
		}
		return nil
	case covered > 0 && first <= covered && last > 0:
		// A crash may have come between the snapshot from the leader and the removal of another history than the leader's.
		var l hraft.Log
		if err := n.log.GetLog(covered, &l); err != nil {
			return err
		}
		if l.Term != metas[0].Term {
			if err := n.log.Reset(); err != nil {
				return fmt.Errorf("open Raft: %w", err)
			}
			return nil
		}
	case first > covered+1:
		return raftlog.Damaged(filepath.Join(n.cfg.Dir, "log"), "the log begins at entry %d, the newest snapshot ends at %d", first, covered)
	}
	var l hraft.Log
	commit = min(commit, last)
	for i := max(first, 1); i <= last; i++ {
		if err := n.log.GetLog(i, &l); err != nil {
			return err
		}
		if i > covered && i <= commit && l.Type == hraft.LogCommand {
			n.machine.Apply(&l)
		}
	}
	return n.machine.stuck
}

func (n *Node) restoreSnapshot(store *snapshotStore, id string) error {
	_, r, err := store.Open(id)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := n.machine.Restore(r); err != nil {
		return raftlog.Damaged(filepath.Join(store.dir, id), "%v", err)
	}
	return nil
}

// findTwin refuses to go on if this host's identity answers at the address that the catalogue has of it, and that is
// another one than this host now has: its directory was copied to a second machine.
func (n *Node) findTwin() error {
	for _, addr := range n.addresses(n.cfg.ID) {
		if addr == n.cfg.Advertise {
			continue
		}
		ctx, cancel := context.WithTimeout(n.ctx, dialTimeout)
		_, err := n.cfg.Forwarder.Forward(ctx, n.cfg.ID, addr, opStats, nil)
		cancel()
		if err == nil {
			return fmt.Errorf("%w: it answers at %s", ErrTwin, addr)
		}
	}
	return nil
}

// start starts hashicorp/raft and the node's own goroutines.
func (n *Node) start(layer *streamLayer, s stores) error {
	n.machine.committed = n.log.Committed
	n.machine.failed = n.fail
	n.log.OnBroken(n.fail)
	cache, err := hraft.NewLogCache(8*maxAppendEntries, n.log)
	if err != nil {
		return fmt.Errorf("open Raft: %w", err)
	}
	transport := hraft.NewNetworkTransportWithConfig(&hraft.NetworkTransportConfig{
		ServerAddressProvider: byID{}, Logger: n.logger.Named("net"), Stream: layer,
		MaxPool: maxPooledConns, Timeout: transportTimeout,
		// No pipeline: when its receiver gives up, on an answer of a newer term say, its sender waits for it for ever
		// (hashicorp/raft v1.8.0), and with it Shutdown. One call at a time, of up to maxAppendEntries, is enough here.
		MaxRPCsInFlight: 1,
	})
	conf := n.raftConfig()
	if n.cfg.Bootstrap && s.fresh {
		self := hraft.Server{ID: conf.LocalID, Address: layer.local, Suffrage: hraft.Voter}
		if err := hraft.BootstrapCluster(conf, cache, s.votes, s.snapshots, transport, hraft.Configuration{Servers: []hraft.Server{self}}); err != nil {
			return errors.Join(fmt.Errorf("bootstrap Raft: %w", err), transport.Close())
		}
	}
	n.follow(s)
	r, err := hraft.NewRaft(conf, n.machine, cache, s.votes, s.snapshots, transport)
	if err != nil {
		return errors.Join(fmt.Errorf("start Raft: %w", err), transport.Close())
	}
	n.raft.Store(r)
	close(n.ready)
	n.reads = &readGroup{
		barrier: func(ctx context.Context) error {
			_, err := n.await(ctx, func() hraft.Future { return r.Barrier(forwardTimeout) })
			return err
		},
		applied: n.AppliedIndex, spawn: n.spawn, base: n.ctx,
	}
	seen := make(chan hraft.Observation, 1)
	r.RegisterObserver(hraft.NewObserver(seen, false, func(o *hraft.Observation) bool {
		_, ok := o.Data.(hraft.LeaderObservation)
		return ok
	}))
	n.spawn(func() { n.observe(seen) })
	n.spawn(func() { n.standAlone(transport) })
	n.spawn(n.spread)
	n.spawn(n.run)
	n.spawn(n.watch)
	n.register()
	return nil
}

// standAlone has a host that is the only voter stand for election at once. Nobody else could be elected meanwhile, so
// there is nothing to wait for.
func (n *Node) standAlone(transport *hraft.NetworkTransport) {
	r := n.raft.Load()
	config := r.GetConfiguration()
	if err := config.Error(); err != nil || r.State() != hraft.Follower {
		return
	}
	self := hraft.ServerID(n.cfg.ID)
	voters := slices.DeleteFunc(slices.Clone(config.Configuration().Servers), func(s hraft.Server) bool { return s.Suffrage != hraft.Voter })
	if len(voters) != 1 || voters[0].ID != self {
		return
	}
	header := hraft.RPCHeader{ProtocolVersion: hraft.ProtocolVersionMax, ID: []byte(self), Addr: transport.EncodePeer(self, transport.LocalAddr())}
	// This is how a leader has another host take its place. If it fails, the election comes when its time is.
	if err := transport.TimeoutNow(self, transport.LocalAddr(), &hraft.TimeoutNowRequest{RPCHeader: header}, &hraft.TimeoutNowResponse{}); err != nil {
		n.logger.Debug("the election waits for its time", "error", err)
	}
}

// follow wires what must know of snapshots that come from a leader, before Raft starts.
func (n *Node) follow(s stores) {
	n.machine.installed = n.log.Installed
	n.log.OnInstalled(func() (index, term uint64) {
		<-n.ready // NewRaft has begun to work already, and is about to return
		index = n.raft.Load().AppliedIndex()
		return index, s.snapshots.term(index)
	})
	n.votes.refuse = n.Err
}

func (n *Node) raftConfig() *hraft.Config {
	t := n.cfg.Timing
	conf := hraft.DefaultConfig()
	conf.LocalID = hraft.ServerID(n.cfg.ID)
	conf.HeartbeatTimeout, conf.ElectionTimeout = t.Heartbeat, t.Election
	conf.LeaderLeaseTimeout, conf.CommitTimeout = t.LeaderLease, t.Commit
	conf.MaxAppendEntries = maxAppendEntries
	conf.SnapshotThreshold, conf.SnapshotInterval = n.cfg.SnapshotThreshold, n.cfg.SnapshotInterval
	conf.TrailingLogs = n.cfg.TrailingLogs
	conf.Logger = n.logger
	conf.NoSnapshotRestoreOnStart = true // replay did it
	conf.ShutdownOnRemove = false        // watch finds out and says so
	conf.NoLegacyTelemetry = true
	return conf
}

// spawn runs a goroutine that Close waits for; it reports false, and does not, once the node is closing.
func (n *Node) spawn(f func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closing {
		return false
	}
	n.wg.Go(f)
	return true
}

// observe wakes watch when the leader changes.
func (n *Node) observe(seen <-chan hraft.Observation) {
	for {
		select {
		case <-seen:
			select {
			case n.leaderSeen <- struct{}{}:
			default:
			}
		case <-n.ctx.Done():
			return
		}
	}
}

// catchUp tries once to become current with the leader.
func (n *Node) catchUp() {
	ctx, cancel := context.WithTimeout(n.ctx, forwardTimeout)
	defer cancel()
	at, err := n.ask(ctx, opRead, nil)
	if err == nil {
		err = n.waitApplied(ctx, at.Index)
	}
	if err != nil {
		n.logger.Debug("not current yet", "error", err)
		return
	}
	n.current.Store(true)
}

// View runs f with the local catalogue, which does not change meanwhile. f must not keep it, nor call the Node.
func (n *Node) View(f func(*placement.State)) { n.machine.view(f) }

// Changed returns a channel that is closed when the local catalogue next changes.
func (n *Node) Changed() <-chan struct{} {
	_, changed := n.machine.wait()
	return changed
}

// Life is the number of this start of the daemon; it grows with every start.
func (n *Node) Life() uint64 { return n.life }

// AppliedIndex is the log index up to which the local catalogue has it.
func (n *Node) AppliedIndex() uint64 {
	applied, _ := n.machine.wait()
	return applied
}

// fail reports why the node cannot go on; the first reason counts.
func (n *Node) fail(err error) {
	n.failOnce.Do(func() {
		n.failure = err
		close(n.failed)
		n.logger.Error("the host cannot take part in the cluster any more", "error", err)
	})
}

// Failed returns a channel that is closed when the node cannot go on: Err says why (ErrRemoved, ErrStuck, ErrBroken).
// It still has to be closed.
func (n *Node) Failed() <-chan struct{} { return n.failed }

// Err returns why Failed is closed, nil before.
func (n *Node) Err() error {
	select {
	case <-n.failed:
		return n.failure
	default:
		return nil
	}
}

// stopped returns why nothing can be asked of the node any more, nil if it can.
func (n *Node) stopped() error {
	if n.ctx.Err() != nil {
		return ErrClosed
	}
	return n.Err()
}

// TransferLeadership makes another voter the leader if this host is; a host that is about to stop calls it so that
// the cluster does not wait for an election. It does nothing at a follower, or if there is no other voter.
func (n *Node) TransferLeadership(ctx context.Context) error {
	r := n.raft.Load()
	others := 0
	for _, s := range n.configuration().Servers {
		if s.Suffrage == hraft.Voter && placement.HostID(s.ID) != n.cfg.ID {
			others++
		}
	}
	if r.State() != hraft.Leader || others == 0 {
		return nil
	}
	if _, err := n.await(ctx, r.LeadershipTransfer); err != nil {
		return fmt.Errorf("transfer leadership: %w", err)
	}
	return nil
}

// Close stops the node and waits for what it started. What was acknowledged is on disk. It is idempotent.
func (n *Node) Close() error {
	n.close.Do(func() {
		n.mu.Lock()
		n.closing = true
		n.mu.Unlock()
		n.cancel()
		n.unregister()
		// Raft is still up while we wait for what was asked of it: it answers everything within a lease, but when it is
		// shut down it drops what was on its way to the catalogue, without an answer.
		n.wg.Wait()
		err := n.raft.Load().Shutdown().Error() // closes the transport, and with it the stream layer
		n.closed = errors.Join(err, n.log.Close(), n.votes.Close())
	})
	return n.closed
}
