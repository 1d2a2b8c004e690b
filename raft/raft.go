// Package raft keeps the catalogue (package placement) the same on every host, by hashicorp/raft. It is the only
// importer of that library.
//
// It promises: a command that Apply acknowledged is on the disks of a majority of the voters and is seen by every
// View that follows a ReadIndex, at whatever host. Commands may be proposed at any host; followers pass them to the
// leader. The Raft configuration follows the catalogue: a host that is added there becomes a non-voter, up to
// MaxVoters are promoted, and one that is removed there is removed here. Methods of Node are safe for concurrent use.
package raft

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/raft/raftlog"

	"github.com/virtswarm/virtswarm/internal/reason"
)

// Errors of Open, of Node's methods and of Node.Err. Errors of a command itself are placement's.
var (
	ErrDamaged  = raftlog.ErrDamaged
	ErrNoLeader = reason.Sentinel(reason.NoLeader, "the cluster has no leader")
	ErrClosed   = raftlog.ErrClosed
	ErrRemoved  = reason.Sentinel(reason.NotMember, "this host is no longer a member of the cluster")
	ErrStuck    = errors.New("cannot follow the catalogue any further")
	ErrOldCopy  = reason.Sentinel(reason.OldCopy, "the data directory is an old copy")
	ErrTwin     = reason.Sentinel(reason.OldCopy, "another machine runs with this host's identity")
	ErrQuorum   = reason.Sentinel(reason.QuorumAtRisk, "no majority of living voters would be left")
	ErrBroken   = raftlog.ErrBroken
	// ErrOvertaken is a cause of ErrBroken that another start of this host mends.
	ErrOvertaken = raftlog.ErrOvertaken
)

// Stream carries Raft between hosts: connections already authenticated by their TLS certificates. Closing it is the
// Node's business from Open on.
type Stream interface {
	net.Listener
	// Dial connects to the Raft end of a host; it must fail if somebody else answers at addr.
	Dial(ctx context.Context, addr string, host placement.HostID) (net.Conn, error)
}

// Forwarder calls HandleForward on another host, mostly the leader, and returns its answer. It must be safe for
// concurrent use and end with ctx. An error means that nobody knows whether the call arrived.
type Forwarder interface {
	Forward(ctx context.Context, host placement.HostID, addr, op string, payload []byte) ([]byte, error)
}

// Config says how a Node runs. ID, Dir, Stream, Forwarder and Advertise are required.
type Config struct {
	ID        placement.HostID
	Dir       string // kept for this Node alone; made if missing
	Stream    Stream
	Forwarder Forwarder
	Advertise string // host:port at which the others reach Stream
	// Bootstrap makes a cluster of this host alone if Dir is empty, and is ignored otherwise. A host that joins
	// leaves it off and waits to be added by AddHost.
	Bootstrap bool
	// Refused reports whether an error of Stream or Forwarder means that the other side does not take this host for
	// a member; nil if such errors cannot be told apart.
	Refused func(error) bool
	// PeerOf returns which host is at the other end of a connection that Stream accepted, proven by its certificate; nil
	// if that is not known, and hosts are believed.
	PeerOf func(net.Conn) (hostID string, ok bool)

	HostTimeout       time.Duration // silence after which a host is marked Down; DefaultHostTimeout if 0
	Grace             time.Duration // time after which one that is Down is marked Lost; DefaultGrace if 0
	Timing            Timing
	SnapshotThreshold uint64        // log entries between snapshots; DefaultSnapshotThreshold if 0
	SnapshotInterval  time.Duration // how often that is checked; DefaultSnapshotInterval if 0
	TrailingLogs      uint64        // entries kept behind a snapshot; DefaultTrailingLogs if 0
	// Version is the highest cluster version that this host can, as if its program were older; placement.Newest if 0.
	Version int
	// Now is this host's wall clock, which others hear of; time.Now if nil. Timers do not go by it.
	Now func() time.Time

	FS      disk.FS               // nil for the real one
	Logger  hclog.Logger          // nil for none
	Metrics prometheus.Registerer // nil for none
}

// Timing is the pace of Raft; zero fields have the defaults of DefaultTiming.
type Timing struct {
	Heartbeat   time.Duration // silence of the leader after which a follower stands for election
	Election    time.Duration // time a candidate has to win
	LeaderLease time.Duration // a leader that reaches no majority for so long steps down; at most Heartbeat
	Commit      time.Duration // idle time after which followers are told of the commit index, if no entry did
	Reconcile   time.Duration // pace of the leader's loop that makes the configuration follow the catalogue
	Stabilize   time.Duration // how long a host must be healthy before it is made a voter
}

// Defaults. With DefaultTiming a new leader is elected about two seconds after the old one died.
const (
	DefaultHostTimeout       = 10 * time.Second // nothing moves then, but nobody waits for the host any more
	DefaultGrace             = 10 * time.Minute // a host that restarts should not set its shards in motion
	DefaultSnapshotThreshold = 8192
	DefaultSnapshotInterval  = 30 * time.Second
	DefaultTrailingLogs      = 4096
)

// MaxVoters is the most hosts that vote: five survive the loss of two, and more would only make commits slower.
const MaxVoters = 5

// DefaultTiming is the pace unless a test or an unusual network asks otherwise.
var DefaultTiming = Timing{
	Heartbeat:   time.Second,
	Election:    time.Second,
	LeaderLease: 750 * time.Millisecond,
	Commit:      250 * time.Millisecond,
	Reconcile:   time.Second,
	Stabilize:   2 * time.Second,
}

// Limits that are not configured.
const (
	maxAppendEntries = raftlog.MaxBatch // entries in one batch; hashicorp/raft's own default
	transportTimeout = 10 * time.Second // of one Raft call; snapshots get more in proportion to their size
	dialTimeout      = 3 * time.Second  // of one address
	maxPooledConns   = 3                // to one host: heartbeats, replication, votes
	forwardTimeout   = 5 * time.Second  // of one attempt at a leader; it may have died without a word
	ticketBits       = 32               // of a ticket's number count the commands of a life; the others are its number, in seconds
	retryDelay       = 50 * time.Millisecond
	maxRetryDelay    = 500 * time.Millisecond
)

// withDefaults checks the configuration and fills in what is not said.
func (c Config) withDefaults() (Config, error) {
	switch {
	case !c.ID.Valid():
		return c, fmt.Errorf("open Raft: host id %q is not 32 hex digits", c.ID)
	case c.Dir == "" || c.Stream == nil || c.Forwarder == nil || c.Advertise == "":
		return c, errors.New("open Raft: Dir, Stream, Forwarder and Advertise are required")
	}
	or(&c.HostTimeout, DefaultHostTimeout)
	or(&c.Grace, DefaultGrace)
	or(&c.SnapshotThreshold, DefaultSnapshotThreshold)
	or(&c.SnapshotInterval, DefaultSnapshotInterval)
	or(&c.TrailingLogs, DefaultTrailingLogs)
	or(&c.Timing.Heartbeat, DefaultTiming.Heartbeat)
	or(&c.Timing.Election, max(DefaultTiming.Election, c.Timing.Heartbeat))
	or(&c.Timing.LeaderLease, min(DefaultTiming.LeaderLease, c.Timing.Heartbeat))
	or(&c.Timing.Commit, DefaultTiming.Commit)
	or(&c.Timing.Reconcile, DefaultTiming.Reconcile)
	or(&c.Timing.Stabilize, DefaultTiming.Stabilize)
	or(&c.Version, placement.Newest)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.FS == nil {
		c.FS = disk.OS{}
	}
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	if c.Refused == nil {
		c.Refused = func(error) bool { return false }
	}
	return c, nil
}

func or[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// Role is the part that a node plays at the moment.
type Role string

const (
	Follower  Role = "follower"
	Candidate Role = "candidate"
	Leader    Role = "leader"
	Stopped   Role = "stopped"
)

// Status is a moment's view for operators.
type Status struct {
	Role         Role
	Leader       placement.HostID // "" if unknown
	LeaderAddr   string
	Term         uint64
	Applied      uint64 // index up to which this is applied here, entries that change nothing included
	Commit       uint64 // index known to be committed
	LastLog      uint64
	LastSnapshot uint64
	LastContact  time.Duration // since the leader was heard; 0 at the leader, -1 if never
	Voters       []placement.HostID
	Nonvoters    []placement.HostID
	// Quorum is how many voters must be up; Tolerates how many healthy ones may fail before writes stop (-1: unknown
	// here, as only the leader knows).
	Quorum    int
	Tolerates int
}
