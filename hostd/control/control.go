// Package control carries out what operators and other hosts ask of this host, one file a verb. Requests and answers
// are plain Go values; a long operation reports its progress to a function, in its caller's goroutine or one after
// another.
//
// The operations stand in five groups: [Files], [Hosts], [Guests], [Strays] and [Reports]. Each works with the [Rooms]
// of the host, and knows nothing of who asks or how: package server speaks protobuf, and the command line tool knows
// flags. A field of a request is named in an error in back quotes, such as `replicas`.
//
// It promises that a publication which it reported as replicated is durable on as many hosts as it said, and that what
// it answers is linearizable or said to be stale.
package control

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/virtswarm/virtswarm/hostd/fetch"
	"github.com/virtswarm/virtswarm/hostd/keeper"
	"github.com/virtswarm/virtswarm/hostd/observe"
	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/hostd/swarm"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/pki"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/raft"
)

// Rooms are what operations work with. All fields are needed.
type Rooms struct {
	Self      placement.HostID
	Name      string // of this host
	Advertise string // where other hosts reach this one
	Version   string // of the daemon
	Data      string // its directory
	Started   time.Time
	Now       func() time.Time // the host's wall clock
	Identity  *pki.Identity
	FS        disk.FS
	Node      *raft.Node
	Store     *store.Store
	Swarm     *swarm.Swarm
	Fetch     *fetch.Fetcher
	Keeper    *keeper.Keeper
	Findings  *observe.Findings
	Pulls     *PullMetrics
	// Probe finds out whether a machine that joins answers at an address.
	Probe  func(ctx context.Context, addr string, host placement.HostID) error
	Peers  Peers
	Logger hclog.Logger
}

// Peers asks other hosts to carry out a part of an operation. Errors carry their reason. It is called concurrently.
type Peers interface {
	// Progress says what a host holds of a content at this moment.
	Progress(ctx context.Context, host placement.Host, id content.Digest) (Progress, error)
	// Report says how a host is doing; rates adds those of its sessions.
	Report(ctx context.Context, host placement.Host, rates bool) (Report, error)
	// Strays lists the strays of a host, ordered by id; with hold they are kept for a while from now on.
	Strays(ctx context.Context, host placement.Host, hold bool) ([]Stray, error)
	// Renew is Hosts.Renew at another host.
	Renew(ctx context.Context, host placement.Host, csr []byte) (Renewed, error)
	// AuthorityKey is Hosts.AuthorityKey at another host, asked by this one.
	AuthorityKey(ctx context.Context, host placement.Host, authority string) (held bool, key []byte, err error)
	// SetGuest, AttachShm and DetachShm are Guests' operations, carried out by the host where the domain is.
	SetGuest(ctx context.Context, host placement.Host, change GuestChange) (Guest, error)
	AttachShm(ctx context.Context, host placement.Host, guest string, size int64) (Guest, error)
	DetachShm(ctx context.Context, host placement.Host, guest string) (Guest, error)
	// Prefetch and CancelStart are Guests' operations, carried out by that host.
	Prefetch(ctx context.Context, host placement.Host, domain string, report func(PrepareProgress) error) error
	CancelStart(ctx context.Context, host placement.Host, domain string) error
}

// Files are the operations on files: publish, pull, distribute, list, verify and the like. It is safe for concurrent
// use.
type Files struct{ *Rooms }

// Reports are the operations that say how hosts and cluster are doing. It is safe for concurrent use.
type Reports struct{ *Rooms }

// Strays are the operations on contents that no entry of the catalogue names, and on saved catalogues. It is safe for
// concurrent use.
type Strays struct{ *Rooms }

// errDown is why a host is not asked.
func errDown(host placement.Host) error { return fmt.Errorf("the host is %s", host.State) }

// errMeanwhile says that what an operation works on was removed while it ran.
var errMeanwhile = reason.Sentinel(reason.NotFound, "it was removed meanwhile")
