package observe

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/raft"
)

const (
	// domainGather is the least time from one report of domains to the next: each is an entry of everybody's log, and
	// what a watcher wants to see within a second may well come together.
	domainGather = 20 * time.Millisecond
	// maxDomainsTold bounds the domains in one report, so that it stays far below a command's bound.
	maxDomainsTold = 128
)

// DomainSource is who knows domains of this host: hostd/virt, or qmp by way of Unmanaged. It is called concurrently.
type DomainSource interface {
	// Domains returns the picture of this moment; known is false as long as there is none.
	Domains() (list []placement.Domain, known bool)
	// Changed returns a channel that is closed at the next change after the call.
	Changed() <-chan struct{}
}

// DomainWitness is a DomainSource that hears what the catalogue has acknowledged of it, so that tests can hold the
// catalogue to that. It is called by one goroutine, and must not block.
type DomainWitness interface {
	Told(r placement.ReportDomains)
}

// DomainsConfig is what Domains works with.
type DomainsConfig struct {
	Self    placement.HostID
	Node    *raft.Node
	Sources map[string]DomainSource  // by placement.ManagedBy…; a manager without one has no domains here
	Awaits  func() map[string]string // the file that each start waits for here, by the domain's UUID
	Changed func()                   // called, concurrently, when a source sees something else, and after every comparison
	Now     func() time.Time         // the host's wall clock
	Logger  hclog.Logger
}

// Domains tells the catalogue which domains are here. It compares what the sources see with what the catalogue has of
// this host, so that an event that was lost, late or came twice does no harm. It is safe for concurrent use.
type Domains struct {
	cfg  DomainsConfig
	log  hclog.Logger
	wake chan struct{} // the picture changed; holds one
	seq  uint64        // of the last report

	mu    sync.Mutex
	pulse chan struct{} // closed when the picture changes
}

// NewDomains makes Domains; Run starts it.
func NewDomains(cfg DomainsConfig) *Domains {
	return &Domains{cfg: cfg, log: cfg.Logger, wake: make(chan struct{}, 1)}
}

// Local returns the domains that are here as the sources see them now; of what a source cannot see at the moment, its
// last picture. all is false as long as a source has not seen anything yet.
func (d *Domains) Local() (list []placement.Domain, all bool) {
	seen, known := d.picture()
	return slices.Collect(maps.Values(seen)), known[placement.ManagedByLibvirt] && known[placement.ManagedByQMP]
}

// Changed returns a channel that is closed when Local may have changed after the call.
func (d *Domains) Changed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.pulse == nil {
		d.pulse = make(chan struct{})
	}
	return d.pulse
}

// picture merges what the sources see. A source that has not reported yet removes nothing.
func (d *Domains) picture() (seen map[string]placement.Domain, known map[string]bool) {
	seen, known = map[string]placement.Domain{}, map[string]bool{}
	for _, manager := range []string{placement.ManagedByQMP, placement.ManagedByLibvirt} { // what libvirt knows, it knows best
		source := d.cfg.Sources[manager]
		if source == nil {
			known[manager] = true // nobody is there to know anything
			continue
		}
		list, ok := source.Domains()
		known[manager] = ok
		for _, dom := range list {
			seen[dom.UUID] = dom
		}
	}
	return seen, known
}

// Run reports until ctx ends.
func (d *Domains) Run(ctx context.Context) {
	var following sync.WaitGroup
	defer following.Wait()
	for _, s := range d.cfg.Sources {
		following.Go(func() { d.follow(ctx, s) })
	}
	anyway := time.NewTicker(compareAll)
	defer anyway.Stop()
	for {
		changed := d.cfg.Node.Changed()
		pause := domainGather
		if err := d.report(ctx); err != nil && ctx.Err() == nil {
			d.log.Debug("cannot report domains to the catalogue yet", "error", err)
			d.Touch()
			pause = reportRetry
		}
		d.cfg.Changed()
		if !d.await(ctx, changed, anyway.C) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// follow touches whenever a source sees something else.
func (d *Domains) follow(ctx context.Context, s DomainSource) {
	for {
		changed := s.Changed()
		d.Touch()
		d.mu.Lock()
		if d.pulse != nil {
			close(d.pulse)
			d.pulse = nil
		}
		d.mu.Unlock()
		d.cfg.Changed() // at once: the comparison waits for a leader
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// Touch asks for a comparison. It does not block.
func (d *Domains) Touch() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// await waits until there may be something to report: the picture changed, or the catalogue has another report of this
// host than the last one, which was late. False: ctx has ended.
func (d *Domains) await(ctx context.Context, changed <-chan struct{}, anyway <-chan time.Time) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-d.wake:
			return true
		case <-anyway:
			return true
		case <-changed:
			changed = d.cfg.Node.Changed()
			if d.told() != d.seq {
				return true
			}
		}
	}
}

// told is the number of the last report of this host that the catalogue has.
func (d *Domains) told() (seq uint64) {
	d.cfg.Node.View(func(s *placement.State) {
		h, _ := s.Host(d.cfg.Self)
		seq = h.DomainSeq
	})
	return seq
}

// silentVersion is the cluster version from which on the catalogue knows that a domain is silent, and what it awaits.
const silentVersion = 4

// report tells the catalogue what it does not have, or has otherwise.
func (d *Domains) report(ctx context.Context) error {
	seen, known := d.picture()
	var r placement.ReportDomains
	d.cfg.Node.View(func(s *placement.State) {
		awaits := d.cfg.Awaits()
		for uuid, dom := range seen {
			dom.Awaits = awaits[uuid]
			if s.Version() < silentVersion {
				dom.Silent, dom.Awaits = false, ""
			}
			seen[uuid] = dom
		}
		for _, said := range s.ClaimedBy(d.cfg.Self) {
			now, here := seen[said.UUID]
			switch {
			case !here && known[said.Manager]:
				r.Gone = append(r.Gone, said.UUID)
			case !here, now.Equal(said):
				delete(seen, said.UUID)
			}
		}
	})
	for _, dom := range seen {
		r.Domains = append(r.Domains, dom)
	}
	slices.SortFunc(r.Domains, func(a, b placement.Domain) int { return cmp.Compare(a.UUID, b.UUID) })
	for len(r.Domains)+len(r.Gone) > 0 {
		n, gone := min(len(r.Domains), maxDomainsTold), min(len(r.Gone), maxDomainsTold)
		part := placement.ReportDomains{Host: d.cfg.Self, Domains: r.Domains[:n], Gone: r.Gone[:gone]}
		r.Domains, r.Gone = r.Domains[n:], r.Gone[gone:]
		// Greater than all before, over restarts and over a clock that was set back.
		part.Seq = max(uint64(d.cfg.Now().UnixMicro()), d.told()+1, d.seq+1)
		d.seq = part.Seq
		if _, err := d.cfg.Node.Apply(ctx, placement.Command{ReportDomains: &part}); err != nil {
			return err
		}
		for _, s := range d.cfg.Sources {
			if w, ok := s.(DomainWitness); ok {
				w.Told(part)
			}
		}
	}
	return nil
}
