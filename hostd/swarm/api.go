package swarm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

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
	ErrBadPeer = errors.New("peer gave wrong data")
	// ErrBusy: MaxSessions are open and in use.
	ErrBusy = errors.New("too many sessions")
	// ErrClosed: Close was called.
	ErrClosed = errors.New("swarm is closed")
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

// Limits. What costs memory is bounded in bytes, what costs others' patience in time.
const (
	// MaxSessions bounds the peers that this host talks to at a time, in either direction. A session costs some
	// hundred KiB of buffers.
	MaxSessions = 256
	// MaxLobby bounds the sessions above MaxSessions, in which peers are told that there is no room, and whom to ask instead.
	MaxLobby = 64
	// LobbyTime is how long such a session lasts.
	LobbyTime = 2 * time.Second
	// MaxInFlight bounds the bytes requested by all jobs of this host and not yet stored. They are buffers in memory.
	MaxInFlight = 256 << 20
	// MaxPeerInFlight bounds the same for one peer. (One chunk may always be in flight.)
	MaxPeerInFlight = plan.MaxWindow
	// DemandReserve is the part of both that is kept for chunks a reader waits for.
	DemandReserve = 4 // one in so many
	// MaxServing bounds the bytes of chunks that are on their way to peers. They are buffers in memory; only when many
	// receivers are slow does it come to more than plan.Slots chunks.
	MaxServing = 256 << 20
	// MaxHot bounds the bytes of chunks that are kept in memory because others will ask for them next: 13 ms at 10 Gbit/s,
	// a second at 100 Mbit/s. More costs more than it saves: memory that was never used before is what a chunk's copy, and
	// its place in the page cache, spend most of their time on.
	MaxHot = 16 << 20

	// StallTime is how long a peer may owe chunks without sending a byte before they are asked from others.
	StallTime = 4 * time.Second
	// AsideTime is how long a peer that stalled or failed is left alone by the job; it doubles up to MaxAside.
	AsideTime = time.Second
	// MaxAside bounds AsideTime.
	MaxAside = 30 * time.Second
	// ShunTime is how long nothing is taken from a peer that lied, and nothing served to it.
	ShunTime = 10 * time.Minute
	// CourtesyTime is how long the host of the higher id leaves it to the other to dial when two want a session: two
	// handshakes for each pair are most of what the first moments of a swarm cost.
	CourtesyTime = 100 * time.Millisecond
	// DialTimeout bounds the way to a peer's answer that it knows the file.
	DialTimeout = 10 * time.Second
	// PatienceTime is how long a job looks for somebody who offers a missing chunk before it says ErrNoHolder: time
	// for a fetcher that was just introduced to get it.
	PatienceTime = 5 * time.Second
	// IdleTime is how long a session stays that nobody has a file open on.
	IdleTime = time.Minute
	// LingerTime is how long a job without callers keeps its sources, for the next reader of the same file.
	LingerTime = 10 * time.Second
	// LookTime is how often a job asks the Directory for new holders.
	LookTime = time.Second

	// tickTime is how often a job looks at its sources' rates and tells its callers how far it is.
	tickTime = 200 * time.Millisecond
)

// Progress is how far one call of Fetch has come.
type Progress struct {
	Done, Total int64   // bytes of what the caller wants, holes left out
	Rate        float64 // bytes a second that the job receives now, from all sources and for all callers
	Seeds       int     // connected peers that hold everything
	Fetchers    int     // connected peers that hold a part, most likely because they fetch as well
}

// Sources returns the number of connected peers.
func (p Progress) Sources() int { return p.Seeds + p.Fetchers }
