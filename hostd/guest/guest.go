// Package guest is the host's end of guest links: it takes them, knows which domain each comes from, and serves what
// that domain may have.
//
// It promises that
//   - a guest is who the kernel or the device says at that moment: the CID of its vsock, the socket of its VMM, the shared
//     memory that is plugged into it. A domain that leaves, or whose CID is another's, loses its links at once;
//   - a guest learns of no file that it may not read, not even that it exists, nor whether this host holds bytes that it
//     has not sent itself;
//   - it publishes under its own prefix and within its quota alone;
//   - whatever a guest does costs bounded memory and a bounded share of the processor: its links, the bytes that are held
//     for it and the chunks that are read for it at a time have named limits, each guest's own.
package guest

import (
	"context"
	"errors"
	"sync"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/virtswarm/virtswarm/hostd/fetch"
	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/guestlink"
	"github.com/virtswarm/virtswarm/internal/link"
	"github.com/virtswarm/virtswarm/placement"
)

// Limits of what one domain may use at a time.
const (
	MaxLinks = 16
	// MaxStreams bounds the streams of all of its links, and so what it has sent and nobody has read yet: a window of
	// each.
	MaxStreams = 32
	// MaxHeld bounds the bytes of chunks and manifests that are held for it: two chunks of the largest size, and what a
	// push of the largest manifest takes.
	MaxHeld = 2*content.MaxChunkSize + 2*guestlink.MaxManifest + content.MaxChunkSize
	// maxTurns bounds the chunks that are read and hashed for it at a time: whoever opens many links gets no more of the
	// processor than that.
	maxTurns = 2
	// maxPushes bounds the files that it publishes at a time.
	maxPushes = 1
)

// Errors of Attach and Detach.
var (
	ErrNotRunning = errors.New("the domain does not run here")
	ErrAttached   = errors.New("shared memory is plugged in already")
	ErrBadSize    = errors.New("shared memory has a power of two of bytes, from 1 MiB to 1 GiB")
	ErrNotServed  = errors.New("the shared memory cannot be used")
)

// Catalogue is the replicated state as this host has it. It is called concurrently.
type Catalogue interface {
	View(f func(*placement.State))
	// Changed returns a channel that is closed at the next change after the call.
	Changed() <-chan struct{}
}

// Domains says which domains are on this host now. It is called concurrently.
type Domains interface {
	// Local returns them; all is false while some may be missing.
	Local() (list []placement.Domain, all bool)
	// Changed returns a channel that is closed at the next change after the call.
	Changed() <-chan struct{}
}

// Files is the read path: package fetch. It is called concurrently.
type Files interface {
	Open(ctx context.Context, id content.Digest, purpose fetch.Priority) (*fetch.Handle, error)
}

// Publisher takes in what guests publish. It is called concurrently.
type Publisher interface {
	// Receive makes a file of this manifest, into which chunks can be written, and keeps it until done is called.
	Receive(ctx context.Context, m *content.Manifest) (file *store.File, done func(), err error)
	// Publish makes a complete file a version of a name. It tells how many hosts have all of it, and returns when those
	// are as many as there are to be, or as there are hosts.
	Publish(ctx context.Context, name, guests string, file *store.File, progress func(copies, wanted int)) error
}

// Plugger plugs shared memory into running domains. It is called concurrently.
type Plugger interface {
	PlugMemory(ctx context.Context, uuid, path string, size int64) error
	UnplugMemory(ctx context.Context, uuid, path string) error
	// Owner is whom the domain's process runs as.
	Owner(ctx context.Context, uuid string) (uid, gid int, err error)
}

// Config is what a Server works with. Logger, Metrics, Network and the links may be left out.
type Config struct {
	Catalogue Catalogue
	Domains   Domains
	Files     Files
	Publisher Publisher
	Plugger   func(d placement.Domain) (Plugger, error)

	Host, Version string // what guests are told

	Network link.Network // nil means link.OS
	VSock   bool         // take links by AF_VSOCK
	// Hybrid are the sockets of VMMs, of which a domain's takes the place of {uuid} or {name}: see package link.
	Hybrid []string
	ShmDir string // where the files of shared memory are, "" means /dev/shm

	Logger  hclog.Logger
	Metrics prometheus.Registerer
}

// Server serves the guests of this host. Its methods are safe for concurrent use.
type Server struct {
	cfg     Config
	log     hclog.Logger
	metrics *metrics
	shm     *shm

	mu     sync.Mutex
	roster *roster
	guests map[string]*guest // by UUID: those of the domains that are here
	links  sync.WaitGroup    // those that are being served
}

// New makes a Server; Run makes it serve.
func New(cfg Config) *Server {
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	if cfg.Network == nil {
		cfg.Network = link.OS
	}
	if cfg.ShmDir == "" {
		cfg.ShmDir = "/dev/shm"
	}
	s := &Server{cfg: cfg, log: cfg.Logger, metrics: newMetrics(cfg.Metrics), roster: newRoster(nil), guests: map[string]*guest{}}
	s.shm = newShm(s)
	return s
}

// Run takes links until ctx ends, and returns when all are closed.
func (s *Server) Run(ctx context.Context) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer s.links.Wait()
	var listening sync.WaitGroup
	defer listening.Wait()
	if s.cfg.VSock {
		listening.Go(func() { s.listenVSock(ctx) })
	}
	hybrid := &hybrid{server: s, open: map[string]func(){}}
	defer hybrid.close()
	defer s.shm.close()
	for {
		changed := s.cfg.Domains.Changed()
		list, all := s.cfg.Domains.Local()
		s.update(list)
		hybrid.update(ctx, list)
		again := s.shm.update(ctx, list, all)
		select {
		case <-changed:
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}
