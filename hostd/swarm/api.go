package swarm

import (
	"context"
	"fmt"
	"net"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/placement"

	"github.com/virtswarm/virtswarm/internal/reason"
)

// Errors of this package. What the store or the caller's context says is passed on as it is.
var (
	// ErrNoHolder: nobody who can be reached has what is missing. A *NoHolderError is around it.
	ErrNoHolder = reason.Sentinel(reason.NoHolder, "no host that can be reached holds it")
	// ErrBadPeer: a peer gave bytes that do not match their digest; it is shunned for ShunTime.
	ErrBadPeer = reason.Sentinel(reason.DamagedData, "peer gave wrong data")
	// ErrBusy: MaxSessions are open and in use.
	ErrBusy = reason.Sentinel(reason.LimitReached, "too many sessions")
	// ErrClosed: Close was called.
	ErrClosed = reason.Sentinel(reason.Unreachable, "swarm is closed")
)

// NoHolderError says what could not be had of a file. It is an ErrNoHolder.
type NoHolderError struct {
	File    content.Digest
	Missing int   // chunks that nobody offers; 0 if it is the manifest that is missing
	Hosts   int   // hosts that were tried
	Last    error // of the last host tried; may be nil
}

// Error implements error.
func (e *NoHolderError) Error() string {
	what := fmt.Sprintf("fetch %s: %d chunks are missing", e.File.Short(), e.Missing)
	if e.Missing == 0 {
		what = fmt.Sprintf("fetch manifest of %s", e.File.Short())
	}
	switch {
	case e.Hosts == 0:
		return fmt.Sprintf("%s: %v: the catalogue names none", what, ErrNoHolder)
	case e.Last == nil:
		return fmt.Sprintf("%s: %v (%d tried)", what, ErrNoHolder, e.Hosts)
	}
	return fmt.Sprintf("%s: %v (%d tried, the last: %v)", what, ErrNoHolder, e.Hosts, e.Last)
}

// Unwrap makes it an ErrNoHolder, and whatever the last host failed with.
func (e *NoHolderError) Unwrap() []error {
	if e.Last == nil {
		return []error{ErrNoHolder}
	}
	return []error{ErrNoHolder, e.Last}
}

// File is a content on this host's disk. All methods are called concurrently.
type File interface {
	ID() content.Digest
	Manifest() *content.Manifest
	// Have returns a copy of the set of chunks that ReadChunk can read, holes included.
	Have() content.Bits
	// ReadChunk reads chunk i into buf (grown if it is too small), verified, and returns it.
	ReadChunk(i int, buf []byte) ([]byte, error)
	// WriteChunk verifies and stores chunk i, after which ReadChunk can read it. It returns content.ErrMismatch, and
	// stores nothing, if p is not the chunk; any other error is taken for a fault of this host's disk.
	WriteChunk(i int, p []byte) error
}

// Store knows the files on this host's disk. It is called concurrently and does not wait.
type Store interface {
	Get(id content.Digest) (File, bool)
}

// Directory knows who should hold a file: the catalogue. It is called concurrently and does not wait.
type Directory interface {
	// Holders returns the hosts that say they hold some or all of a file and are not known to be down.
	Holders(file content.Digest) []placement.HostID
	// Place returns where a host stands, by its labels; the zero Place of one that is not known or has none.
	Place(host placement.HostID) Place
}

// Place is where a host stands; see package plan.
type Place = plan.Place

// Dialer opens a stream to a host, which must turn out to be that host. It is called concurrently.
type Dialer interface {
	Dial(ctx context.Context, host placement.HostID) (net.Conn, error)
}

// Priority says who waits for a chunk: see package plan.
type Priority = plan.Priority

// The priorities, lowest first.
const (
	Repair     = plan.Repair
	Distribute = plan.Distribute
	Start      = plan.Start
	ReadAhead  = plan.ReadAhead
	Demand     = plan.Demand
)

// Config is what a Swarm works with. Logger and Metrics may be nil.
type Config struct {
	Self      placement.HostID
	Store     Store
	Directory Directory
	Dialer    Dialer
	Logger    hclog.Logger
	Metrics   prometheus.Registerer
}

// Limits that operators and callers see; the others stand beside them in package plan.
const (
	// MaxSessions bounds the peers that this host talks to at a time.
	MaxSessions = plan.MaxSessions
	// StallTime is how long a peer may owe chunks without sending a byte before they are asked from others.
	StallTime = plan.StallTime
	// ShunTime is how long nothing is taken from a peer that lied, and nothing served to it.
	ShunTime = plan.ShunTime
	// PatienceTime is how long a job looks for somebody who offers a missing chunk before it says ErrNoHolder.
	PatienceTime = plan.PatienceTime
	// IdleTime is how long a session stays that nobody has a file open on.
	IdleTime = plan.IdleTime
	// LingerTime is how long a job without callers keeps its sources, for the next reader of the same file.
	LingerTime = plan.LingerTime
	// LookTime is how often a job asks the Directory for new holders.
	LookTime = plan.LookTime
)

// MaxHot bounds the bytes of chunks that are kept in memory because others will ask for them next: 13 ms at 10 Gbit/s,
// a second at 100 Mbit/s. More costs more than it saves: memory that was never used before is what a chunk's copy, and
// its place in the page cache, spend most of their time on.
const MaxHot = 16 << 20

// Progress is how far one call of Fetch has come.
type Progress struct {
	Done, Total int64   // bytes of what the caller wants, holes left out
	Rate        float64 // bytes a second that the job receives now, from all sources and for all callers
	Seeds       int     // connected peers that hold everything
	Fetchers    int     // connected peers that hold a part, most likely because they fetch as well
}

// Sources returns the number of connected peers.
func (p Progress) Sources() int { return p.Seeds + p.Fetchers }
