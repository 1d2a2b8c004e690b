// Package hostd is a host of the cluster: it puts the rooms together (New), runs them (Run), and does what operators
// and other hosts ask for through the API. It is the only writer of this host's facts to the catalogue.
//
// It promises that a publication which it reported as replicated is durable on as many hosts as it said; that what
// it answers is linearizable or said to be stale; and that it ends in order: callers first, the disk last.
package hostd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/virtswarm/virtswarm/hostd/control"
	"github.com/virtswarm/virtswarm/hostd/fetch"
	"github.com/virtswarm/virtswarm/hostd/guest"
	"github.com/virtswarm/virtswarm/hostd/hook"
	"github.com/virtswarm/virtswarm/hostd/keeper"
	"github.com/virtswarm/virtswarm/hostd/observe"
	"github.com/virtswarm/virtswarm/hostd/server"
	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/hostd/swarm"
	"github.com/virtswarm/virtswarm/hostd/virt"
	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/link"
	"github.com/virtswarm/virtswarm/internal/pki"
	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/qmp"
	"github.com/virtswarm/virtswarm/raft"

	"github.com/virtswarm/virtswarm/internal/reason"
)

// ErrRunning means that another daemon uses the data directory.
var ErrRunning = reason.Sentinel(reason.AlreadyRunning, "another virtswarmd uses this data directory")

// noLibvirt is the URI of a host that has none.
const noLibvirt = "none"

// Host is one host of the cluster. New makes it, Run runs it; the methods that the API calls are safe for concurrent
// use in between.
type Host struct {
	cfg     Config
	log     hclog.Logger
	version string
	started time.Time
	now     func() time.Time // this host's wall clock
	can     int              // the highest cluster version
	pace    Snapshots

	network   link.Network
	fs        disk.FS
	lock      io.Closer
	id        *pki.Identity
	self      placement.HostID
	advertise string
	picked    bool // advertise was picked by this daemon, and not by an operator
	adrift    bool // this machine had no address at the start: advertise is the one of before
	founding  bool // this host makes the cluster, and has not yet entered that in the catalogue

	registry  *prometheus.Registry
	port      net.Listener // mux's, once that is there
	mux       *link.Mux
	ports     server.Listeners
	wire      net.Listener
	node      *raft.Node
	members   atomic.Pointer[raft.Node] // node, for handshakes that begin before it is open
	live      link.Live                 // connections to other hosts
	vouched   vouchers
	store     *store.Store
	swarm     *swarm.Swarm
	fetch     *fetch.Fetcher
	keeper    *keeper.Keeper
	seen      observe.DomainSource // nil until open: the libvirt of cfg is to be asked
	libvirt   Libvirt              // seen, if it changes domains too
	watcher   *virt.Watcher        // seen, if that is the libvirt of cfg
	unmanaged *observe.Unmanaged   // nil: none are looked for
	holdings  *observe.Holdings
	domains   *observe.Domains
	starts    control.Starts
	findings  *observe.Findings
	guests    *guest.Server
	peers     *server.Peers
	control   *server.Operations
	departure *control.Departure
	ready     func() // called once the API answers

	setup sync.Mutex // held while the host founds a cluster or joins one after the start
}

// Options are what a Host gets from its process, beside its configuration.
type Options struct {
	Version string
	Logger  hclog.Logger
	// Ready is called once the API answers; it may be nil.
	Ready func()

	// Network carries all that hosts say to one another, and /metrics; nil means link.OS.
	Network link.Network
	// FS holds the data directory, and what Pull writes; nil means disk.OS. What Publish reads is the machine's own.
	FS disk.FS
	// Domains sees the domains of this host in libvirt's place, and changes them if it is a Libvirt; nil means the
	// libvirt of Config.
	Domains observe.DomainSource
	// ListenLocal listens for the local API; nil means at Config.Socket. A nil listener without error: there is none.
	ListenLocal func() (net.Listener, error)

	// What follows is for tests: the process has no reason to set it.

	// Now is this host's wall clock where the catalogue and other hosts hear of it; nil means time.Now.
	Now func() time.Time
	// ClusterVersion is the highest cluster version that this host can, as if its program were older; 0 means
	// placement.Newest.
	ClusterVersion int
	Snapshots      Snapshots
}

// Snapshots says when the log of the catalogue gives way to a snapshot. Zero fields have the defaults of package raft.
type Snapshots struct {
	Threshold uint64        // entries of the log between two snapshots
	Interval  time.Duration // how often their number is looked at
	Trailing  uint64        // entries that are kept behind a snapshot
}

// Libvirt sees the domains of a host, and changes them.
type Libvirt interface {
	observe.DomainSource
	control.Libvirt
	guest.Plugger
}

var _ Libvirt = (*virt.Watcher)(nil)

// defaults puts the real world where nothing else is said.
func (o *Options) defaults(cfg *Config) {
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	if o.Ready == nil {
		o.Ready = func() {}
	}
	if o.Network == nil {
		o.Network = link.OS
	}
	if o.FS == nil {
		o.FS = disk.OS{}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	or(&o.ClusterVersion, placement.Newest)
	if o.ListenLocal == nil {
		o.ListenLocal = func() (net.Listener, error) { return listenSocket(cfg.Socket) }
	}
}

// New validates the configuration, takes the data directory, makes or joins a cluster if this host is of none, and
// opens everything; or, if the configuration says so, leaves it to Run to wait for its cluster. Nothing is served
// before Run. On an error, all that was opened is closed again.
func New(ctx context.Context, cfg Config, o Options) (_ *Host, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	o.defaults(&cfg)
	h := &Host{
		cfg: cfg, log: o.Logger, version: o.Version, started: time.Now(), network: o.Network, fs: o.FS, ready: sync.OnceFunc(o.Ready),
		seen: o.Domains, departure: control.NewDeparture(), now: o.Now, can: o.ClusterVersion, pace: o.Snapshots,
	}
	empty := !exists(h.fs, cfg.Data)
	defer func() {
		if err != nil {
			h.close()
		}
		if err != nil && empty { // unless something is in it by now
			h.fs.Remove(h.lockPath())
			h.fs.Remove(cfg.Data)
		}
	}()
	if err := h.checkMounts(); err != nil {
		return nil, err
	}
	if err := h.takeDirectory(); err != nil {
		return nil, err
	}
	if err := h.listen(ctx, o.ListenLocal); err != nil {
		return nil, err
	}
	if wait, err := h.mustWait(); wait || err != nil {
		return h, err
	}
	if err := h.identify(ctx); err != nil {
		return nil, err
	}
	if err := h.open(); err != nil {
		return nil, err
	}
	return h, nil
}

// takeDirectory makes the data directory and locks it against other daemons.
func (h *Host) takeDirectory() error {
	if err := disk.MakeDir(h.fs, h.cfg.Data, 0o700); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	lock, err := h.fs.Lock(h.lockPath())
	if errors.Is(err, disk.ErrLocked) {
		return fmt.Errorf("%s: %w", h.cfg.Data, ErrRunning)
	}
	if err != nil {
		return fmt.Errorf("take data directory: %w", err)
	}
	h.lock = lock
	return nil
}

// open opens the rooms, from the lowest floor up.
func (h *Host) open() error {
	h.registry = prometheus.NewRegistry()
	h.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	h.self = placement.HostID(h.id.HostID())
	h.mux = link.NewMux(relieving{h.port, h}, link.MuxConfig{Identity: h.id, Allow: h.allow, Live: &h.live, Logger: h.log.Named("link")})
	h.wire = h.mux.Listen(link.ProtoWire)
	h.ports.Port = h.mux.Listen(link.ProtoHTTP2, link.ProtoHTTP1)
	h.ports.Join = h.mux.Listen(link.ProtoJoin)
	dialer := &link.Dialer{Network: h.network, Identity: h.id, Allow: h.allow, Live: &h.live}
	h.peers = peersBy(dialer)

	var err error
	changes, damages := observe.NewChanges(), new(observe.Damages)
	h.store, err = store.Open(store.Options{
		Dir: filepath.Join(h.cfg.Data, "store"), FS: h.fs, Quota: store.Quota{Bytes: int64(h.cfg.Quota)}, Logger: h.log.Named("store"),
		Metrics: h.registry, OnDurable: func(f *store.File) { changes.Touch(f.ID()) }, OnDamage: damages.Note,
	})
	if err != nil {
		return err
	}
	h.relieveListeners()
	h.warnOfFewDescriptors()
	h.node, err = raft.Open(raft.Config{
		ID: h.self, Dir: h.raftDir(), Stream: raftStream{h.mux.Listen(link.ProtoRaft), dialer}, Forwarder: h.peers,
		Advertise: h.advertise, Bootstrap: h.founding, Refused: link.Refused, PeerOf: link.PeerOf,
		HostTimeout: h.cfg.HostTimeout, Grace: h.cfg.Grace, FS: h.frugal(), Logger: h.log.Named("raft"), Metrics: h.registry,
		SnapshotThreshold: h.pace.Threshold, SnapshotInterval: h.pace.Interval, TrailingLogs: h.pace.Trailing, Version: h.can, Now: h.now,
	})
	if err != nil {
		return err
	}
	h.members.Store(h.node)
	if err := h.unmark(h.joiningMark()); err != nil {
		return err
	}
	h.swarm, err = swarm.New(swarm.Config{
		Self: h.self, Store: fetch.Files(h.store), Directory: directory{h.node}, Dialer: wireDialer{dialer, h.node},
		Logger: h.log.Named("swarm"), Metrics: h.registry,
	})
	if err != nil {
		return err
	}
	withdrawn := new(keeper.Withdrawn)
	h.holdings = observe.NewHoldings(observe.HoldingsConfig{
		Self: h.self, Node: h.node, Store: h.store, Changes: changes, Told: withdrawn.Told, Logger: h.log.Named("holdings"),
	})
	network := patient{Swarm: h.swarm, self: h.self, node: h.node, until: h.started.Add(comingPatience)}
	reader := fetch.New(fetch.Config{Store: h.store, Swarm: network, Logger: h.log.Named("fetch")})
	h.keeper = keeper.New(keeper.Config{
		Self: h.self, Catalogue: h.node, Store: h.store, Fetch: reader, Reporter: h.holdings, Withdrawn: withdrawn,
		KeepStrays: h.cfg.KeepStrays, Fetches: h.cfg.Fetches, Logger: h.log.Named("keeper"), Metrics: h.registry,
	})
	h.fetch = reader.Pinning(h.keeper.Pin)
	h.findings = observe.NewFindings(observe.FindingsConfig{
		Self: h.self, Name: h.cfg.Name, Node: h.node, Store: h.store, Keeper: h.keeper, Damages: damages, Expires: h.id.Expires, Doubts: h.doubts,
	})
	if err := h.openDomains(); err != nil {
		return err
	}
	h.registry.MustRegister(newCatalogueMetrics(h.node, h.self), peerMetrics{h.node, h.swarm}, h.findings)
	return h.openControl()
}

// openControl opens the operations, and the guest links, through which guests publish.
func (h *Host) openControl() error {
	starts, err := hook.New(hook.Config{Catalogue: h.node, Fetch: h.fetch, FS: h.frugal(), Dir: h.cfg.Data, Logger: h.log.Named("hook")})
	if err != nil {
		return err
	}
	rooms := &control.Rooms{
		Self: h.self, Name: h.cfg.Name, Advertise: h.advertise, Version: h.version, Data: h.cfg.Data, Started: h.started, Now: h.now,
		Identity: h.id, FS: h.frugal(), Node: h.node, Store: h.store, Swarm: h.swarm, Fetch: h.fetch, Keeper: h.keeper,
		Findings: h.findings, Pulls: control.NewPullMetrics(h.registry), Peers: h.peers, Logger: h.log.Named("control"),
		Probe: func(ctx context.Context, addr string, host placement.HostID) error {
			return link.Probe(ctx, h.network, addr, string(host))
		},
	}
	files := &control.Files{Rooms: rooms}
	h.openGuests(files)
	guests := control.GuestRooms{Hook: starts, Memory: h.guests, Libvirt: h.libvirt, Starts: &h.starts}
	h.control = &server.Operations{
		Files: files, HostOps: control.NewHosts(rooms, h.departure), GuestOps: &control.Guests{Rooms: rooms, GuestRooms: guests},
		StrayOps: &control.Strays{Rooms: rooms}, Reports: &control.Reports{Rooms: rooms}, ScrubRate: int64(h.cfg.ScrubRate),
		Forwarded: h.node.HandleForward, Located: h.located,
	}
	return nil
}

// openDomains opens what knows of domains.
func (h *Host) openDomains() (err error) {
	sources := map[string]observe.DomainSource{}
	if h.seen == nil && h.cfg.Libvirt.URI != noLibvirt {
		h.watcher, err = virt.New(virt.Config{URI: h.cfg.Libvirt.URI, Logger: h.log.Named("virt"), Metrics: h.registry})
		if err != nil {
			return err
		}
		h.seen = h.watcher
	}
	if h.seen != nil {
		sources[placement.ManagedByLibvirt] = h.seen
		h.libvirt, _ = h.seen.(Libvirt)
	}
	if len(h.cfg.QMP) > 0 {
		h.unmanaged = observe.NewUnmanaged(qmp.New(qmp.Config{Paths: h.cfg.QMP, Host: string(h.self), Logger: h.log.Named("qmp")}))
		sources[placement.ManagedByQMP] = h.unmanaged
	}
	used := &observe.InUse{Self: h.self, Store: filepath.Join(h.cfg.Data, "store"), View: h.node.View, Pin: h.keeper.Pin}
	h.domains = observe.NewDomains(observe.DomainsConfig{
		Self: h.self, Node: h.node, Sources: sources, Awaits: h.starts.Waiting, Changed: used.Update, Now: h.now, Logger: h.log.Named("domains"),
	})
	h.starts.Changed = h.domains.Touch
	used.Seen = func() []placement.Domain {
		list, _ := h.domains.Local()
		return list
	}
	used.Update() // before the keeper hears of anything that is removed
	return nil
}

// Run serves until ctx ends or this host leaves the cluster, which are no errors, or until something fails for good.
// Then it closes everything.
func (h *Host) Run(ctx context.Context) error {
	defer h.end()
	if h.id == nil {
		if settled, err := h.awaitSetup(ctx); !settled || err != nil {
			return err
		}
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	srv := server.New(server.Config{Host: h.control, Setup: settled{h}, Logger: h.log.Named("api"), Metrics: h.registry, Peer: link.PeerOf, Member: h.mayCall})
	port := make(chan error, 1)
	go func() { port <- h.mux.Serve() }() // ends with close, after Raft: its last words go through here
	group.Go(func() error { return srv.Run(ctx, h.ports) })
	group.Go(func() error { return h.serveWire(ctx) })
	group.Go(func() error { h.keeper.Run(ctx); return nil })
	group.Go(func() error { h.holdings.Run(ctx); return nil })
	group.Go(func() error { h.domains.Run(ctx); return nil })
	if h.libvirt != nil || h.unmanaged != nil { // else there are no guests
		group.Go(func() error { h.guests.Run(ctx); return nil })
	}
	if h.watcher != nil {
		group.Go(func() error { return h.watcher.Run(ctx) })
	}
	if h.unmanaged != nil {
		group.Go(func() error { h.unmanaged.Run(ctx); return nil })
		defer time.AfterFunc(observe.UnmanagedPatience+time.Millisecond, h.domains.Touch).Stop() // now it is known who is gone
	}
	founding := h.founding
	group.Go(func() error { h.introduce(ctx); return nil })
	group.Go(func() error { h.followSettings(ctx); return nil })
	group.Go(func() error { h.keepAuthority(ctx); return nil })
	group.Go(func() error { h.closeRemoved(ctx); return nil })
	group.Go(func() error { h.vouch(ctx); return nil })
	group.Go(func() error { h.locate(ctx); return nil })
	if h.adrift {
		group.Go(func() error { return h.awaitAddress(ctx) })
	}
	group.Go(func() error { h.control.Files.ScrubEvery(ctx, h.cfg.ScrubEvery, int64(h.cfg.ScrubRate)); return nil })
	group.Go(func() error { h.findings.Run(ctx); return nil })
	group.Go(func() error { defer stop(); return h.membership(ctx) })
	group.Go(func() error {
		select {
		case err := <-port:
			return err
		case <-ctx.Done():
			h.control.HostOps.HandOver()
			return nil
		}
	})
	h.log.Info("running", "host", h.cfg.Name, "id", h.self, "address", h.advertise, "socket", h.cfg.Socket)
	if !founding { // else introduce says so, once the catalogue is there
		h.ready()
	}
	return group.Wait()
}

// Responds waits until the catalogue can be read here: it cannot if something holds its lock for good. The error is that
// of ctx. It is for a watchdog.
func (h *Host) Responds(ctx context.Context) error {
	node := h.members.Load()
	if node == nil { // of no cluster yet
		return nil
	}
	read := make(chan struct{})
	go func() {
		node.View(func(*placement.State) {})
		close(read)
	}()
	select {
	case <-read:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("read the catalogue: %w", ctx.Err())
	}
}

// membership returns when this host is no member any more: nil if it wished to leave or ctx ends.
func (h *Host) membership(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-h.departure.Done():
		return nil
	case <-h.node.Failed():
	}
	if err := h.node.Err(); !h.departure.Wanted() || !errors.Is(err, raft.ErrRemoved) {
		return err
	}
	select { // the call that removes this host has still to say so
	case <-ctx.Done():
	case <-h.departure.Done():
	}
	return nil
}

// end closes everything and, if this host has left the cluster, removes what made it a member. The stored files stay:
// the next cluster may want the same.
func (h *Host) end() {
	h.close()
	select {
	case <-h.departure.Done():
		h.log.Info("this host has left the cluster", "cluster", h.id.Cluster())
		for _, dir := range []string{h.pkiDir(), h.raftDir()} {
			h.warn("remove "+dir, h.fs.RemoveAll(dir))
		}
	default:
	}
}

// close closes what was opened, from the highest floor down. What is told to the log here has no caller any more.
func (h *Host) close() {
	if h.swarm != nil {
		h.warn("end the swarm", h.swarm.Close())
	}
	if h.node != nil {
		h.warn("end raft", h.node.Close())
	}
	if h.peers != nil {
		h.peers.Close()
	}
	if h.mux != nil {
		h.warn("close the port", h.mux.Close())
	} else if h.port != nil {
		h.warn("close the port", h.port.Close())
	}
	for _, l := range []net.Listener{h.ports.Unix, h.ports.Metrics} {
		if l != nil {
			l.Close() // the server has closed them if it ran
		}
	}
	if h.store != nil {
		h.warn("close the store", h.store.Close())
	}
	if h.lock != nil {
		h.lock.Close()
	}
}

func (h *Host) warn(what string, err error) {
	if err != nil {
		h.log.Warn("cannot "+what, "error", err)
	}
}

// lockPath is locked while a daemon uses the data directory.
func (h *Host) lockPath() string { return filepath.Join(h.cfg.Data, "lock") }

// raftDir holds the catalogue's log and snapshots.
func (h *Host) raftDir() string { return filepath.Join(h.cfg.Data, "raft") }

// pkiDir holds this host's identity.
func (h *Host) pkiDir() string { return filepath.Join(h.cfg.Data, "pki") }
