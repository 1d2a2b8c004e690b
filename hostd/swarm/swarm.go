package swarm

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/virtswarm/virtswarm/hostd/swarm/plan"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/wire"
	"github.com/virtswarm/virtswarm/placement"
)

// Swarm is this host's part in the swarms of all files. All methods are safe for concurrent use.
type Swarm struct {
	self    wire.PeerID
	store   Store
	dir     Directory
	log     hclog.Logger
	metrics *metrics

	peers   *peers
	server  *server
	recent  recent
	budget  *budget
	buffers buffers
	hot     hot

	speak func(io.ReadWriteCloser, *link) session // speak, but in tests
	watch func(plan.Action)                       // hears what jobs do, in tests; else nil

	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	jobs   map[content.Digest]*job
	closed bool
}

// New makes a Swarm. It runs until Close.
func New(cfg Config) (*Swarm, error) {
	self, err := wire.ParsePeerID(string(cfg.Self))
	if err != nil {
		return nil, fmt.Errorf("start swarm: %w", err)
	}
	m, err := newMetrics(cfg.Metrics)
	if err != nil {
		return nil, fmt.Errorf("start swarm: register metrics: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	s := &Swarm{
		self: self, store: cfg.Store, dir: cfg.Directory, log: cfg.Logger, metrics: m,
		budget: newBudget(plan.MaxInFlight, plan.MaxPeerInFlight),
		jobs:   map[content.Digest]*job{},
		speak:  speak,
	}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	s.server = newServer(s)
	s.peers = newPeers(s, cfg.Dialer)
	s.wg.Go(s.peers.sweep)
	return s, nil
}

// Close ends all sessions and jobs and returns once nothing of them runs.
func (s *Swarm) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel(ErrClosed)
	s.wg.Wait()
	s.server.alarm.Stop()
	s.budget.alarm.Stop()
	return nil
}

// enter counts the caller's work as the swarm's, until wg.Done; false if the swarm is closed.
func (s *Swarm) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Add(1)
	return true
}

// Serve speaks with peer, who dialed this host, until one of the sides has enough. It owns conn.
func (s *Swarm) Serve(ctx context.Context, conn net.Conn, peer placement.HostID) error {
	if !s.enter() {
		conn.Close()
		return ErrClosed
	}
	defer s.wg.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()

	id, err := wire.ParsePeerID(string(peer))
	if err == nil {
		err = s.peers.accept(ctx, conn, id)
	} else {
		conn.Close()
	}
	if err != nil {
		return fmt.Errorf("serve host %s: %w", peer, err)
	}
	return nil
}

// Fetch returns nil once file holds every chunk in want (the zero Bits: all of it). Several calls for one file share a
// job; a chunk's priority is the highest that any of them gives it. progress, which may be nil, is called from Fetch's
// own goroutine as soon as the chunks are wanted, now and then, and once at the end. So a caller who wants something
// else from now on calls Fetch anew, and ends the call before at the first progress: what both want is not given up in
// between.
//
// Errors: ErrNoHolder after PatienceTime without anybody to ask for what is missing; what file.WriteChunk said when
// this host's disk failed; that of ctx; ErrClosed. What was fetched until then stays.
func (s *Swarm) Fetch(ctx context.Context, file File, want content.Bits, prio Priority, progress func(Progress)) error {
	c, err := newClaim(file, want, prio)
	if err != nil {
		return err
	}
	if progress == nil {
		progress = func(Progress) {}
	}
	if c.plan.Left() == 0 {
		progress(c.progress)
		return nil
	}
	for ctx.Err() == nil {
		j, err := s.job(file)
		if err != nil {
			return err
		}
		if err, ended := j.serve(ctx, c, progress); !ended {
			return err
		}
		// The job ended by itself just before it heard of us: there is another.
	}
	return ctx.Err()
}

// job returns the running job of a file, or starts one. If the file was removed and made anew, the job of the old one
// goes first: it would find everything in what nobody has any more.
func (s *Swarm) job(file File) (*job, error) {
	for {
		j, err := s.jobFor(file)
		if err != nil || j.file == file {
			return j, err
		}
		j.cancel()
		<-j.left
	}
}

// jobFor returns the running job of a content, or starts one that fills file.
func (s *Swarm) jobFor(file File) (*job, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	id := file.ID()
	if j := s.jobs[id]; j != nil {
		return j, nil
	}
	j := newJob(s, file)
	s.jobs[id] = j
	s.wg.Go(j.run)
	return j, nil
}

// running returns the job of a file if there is one.
func (s *Swarm) running(file content.Digest) *job {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.jobs[file]
}

// ended takes a job off the list: whoever comes now starts another.
func (s *Swarm) ended(j *job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.jobs, j.id)
}

// everyJob calls f for each running job, outside the lock.
func (s *Swarm) everyJob(f func(*job)) {
	s.mu.Lock()
	all := make([]*job, 0, len(s.jobs))
	for _, j := range s.jobs {
		all = append(all, j)
	}
	s.mu.Unlock()
	for _, j := range all {
		f(j)
	}
}

// holders asks the directory, leaving out this host and what is no host id.
func (s *Swarm) holders(file content.Digest) []plan.Host {
	var ids []plan.Host
	for _, h := range s.dir.Holders(file) {
		id, err := wire.ParsePeerID(string(h))
		if err == nil && id != s.self {
			ids = append(ids, plan.Host(id))
		}
	}
	return ids
}

// place asks the directory where a host stands.
func (s *Swarm) place(h plan.Host) Place {
	return s.dir.Place(placement.HostID(wire.PeerID(h).String()))
}

// SetLimits bounds the rates at which this host sends and receives chunks, all peers together, in bytes a second; 0 is
// no bound. It may be called at any time. Within the bounds the higher priority goes first, and chunks that a reader
// waits for are received even beyond theirs: what they take, the others lack afterwards.
func (s *Swarm) SetLimits(up, down int64) {
	s.server.do(func(now time.Time) { s.server.plan.Out.Set(now, up) })
	s.budget.limit(down)
}
