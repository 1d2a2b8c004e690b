package hostd

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

// DomainSource is who knows domains of this host: hostd/virt, or qmp by way of unmanaged. It is called concurrently.
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

// domains tells the catalogue which domains are here. It compares what the sources see with what the catalogue has of this
// host, so that an event that was lost, late or came twice does no harm.
type domains struct {
	self    placement.HostID
	node    *raft.Node
	sources map[string]DomainSource // by placement.ManagedBy…
	log     hclog.Logger

	changed func()        // called after every comparison
	wake    chan struct{} // the picture changed; holds one
	seq     uint64        // of the last report
	real    bool          // the sources see domains of this machine, not those of a simulation

	mu    sync.Mutex
	pulse chan struct{} // closed when the picture changes
}

// Local returns the domains that are here as the sources see them now; of what a source cannot see at the moment, its last
// picture. all is false as long as a source has not seen anything yet.
func (d *domains) Local() (list []placement.Domain, all bool) {
	seen, known := d.picture()
	return slices.Collect(maps.Values(seen)), known[placement.ManagedByLibvirt] && known[placement.ManagedByQMP]
}

// Changed returns a channel that is closed when Local may have changed after the call.
func (d *domains) Changed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.pulse == nil {
		d.pulse = make(chan struct{})
	}
	return d.pulse
}

// picture merges what the sources see. Of a manager that knows nothing yet nothing is concluded.
func (d *domains) picture() (seen map[string]placement.Domain, known map[string]bool) {
	seen, known = map[string]placement.Domain{}, map[string]bool{}
	for _, manager := range []string{placement.ManagedByQMP, placement.ManagedByLibvirt} { // what libvirt knows, it knows best
		source := d.sources[manager]
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

// run reports until ctx ends.
func (d *domains) run(ctx context.Context) {
	var following sync.WaitGroup
	defer following.Wait()
	for _, s := range d.sources {
		following.Go(func() { d.follow(ctx, s) })
	}
	anyway := time.NewTicker(compareAll)
	defer anyway.Stop()
	for {
		changed := d.node.Changed()
		pause := domainGather
		if err := d.report(ctx); err != nil && ctx.Err() == nil {
			d.log.Debug("cannot report domains to the catalogue yet", "error", err)
			d.touch()
			pause = reportRetry
		}
		d.changed()
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
func (d *domains) follow(ctx context.Context, s DomainSource) {
	for {
		changed := s.Changed()
		d.touch()
		d.mu.Lock()
		if d.pulse != nil {
			close(d.pulse)
			d.pulse = nil
		}
		d.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// touch asks for a comparison. It does not block.
func (d *domains) touch() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// await waits until there may be something to report: the picture changed, or the catalogue has another report of this host
// than the last one, which was late. False: ctx has ended.
func (d *domains) await(ctx context.Context, changed <-chan struct{}, anyway <-chan time.Time) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-d.wake:
			return true
		case <-anyway:
			return true
		case <-changed:
			changed = d.node.Changed()
			if d.told() != d.seq {
				return true
			}
		}
	}
}

// told is the number of the last report of this host that the catalogue has.
func (d *domains) told() (seq uint64) {
	d.node.View(func(s *placement.State) {
		h, _ := s.Host(d.self)
		seq = h.DomainSeq
	})
	return seq
}

// report tells the catalogue what it does not have, or has otherwise.
func (d *domains) report(ctx context.Context) error {
	seen, known := d.picture()
	var r placement.ReportDomains
	d.node.View(func(s *placement.State) {
		for _, said := range s.ClaimedBy(d.self) {
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
		part := placement.ReportDomains{Host: d.self, Domains: r.Domains[:n], Gone: r.Gone[:gone]}
		r.Domains, r.Gone = r.Domains[n:], r.Gone[gone:]
		// Greater than all before, over restarts and over a clock that was set back.
		part.Seq = max(uint64(time.Now().UnixMicro()), d.told()+1, d.seq+1)
		d.seq = part.Seq
		if _, err := d.node.Apply(ctx, placement.Command{ReportDomains: &part}); err != nil {
			return err
		}
		for _, s := range d.sources {
			if w, ok := s.(DomainWitness); ok {
				w.Told(part)
			}
		}
	}
	return nil
}
