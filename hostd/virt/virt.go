package virt

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/virtswarm/virtswarm/placement"
)

const (
	defaultURI       = "qemu:///system"
	defaultReconcile = time.Minute
	defaultFiles     = "/run/libvirt/qemu"
)

// Config says which libvirt to watch. The zero Config is the system's QEMU.
type Config struct {
	URI       string                // of libvirt; "" is qemu:///system
	Reconcile time.Duration         // how often everything is read again; 0 is a minute
	Logger    hclog.Logger          // nil: none
	Metrics   prometheus.Registerer // nil: none

	files string // where libvirt's QEMU driver keeps the state of domains that run; "" is defaultFiles
}

// Watcher keeps a picture of the domains of this host while it runs. Its methods may be called at any time, from many
// goroutines.
type Watcher struct {
	cfg     Config
	log     hclog.Logger
	metrics *metrics
	inbox   *inbox
	headers *headers

	readers  chan struct{} // slots of calls that read domains
	changing chan struct{} // slots of calls that change something
	editing  chan struct{} // held from reading metadata to writing it

	mu       sync.Mutex
	domains  map[string]*seen
	list     []placement.Domain // of domains, sorted; nil after a change, until somebody asks
	known    bool
	session  *session // nil while there is none
	why      error    // why there is none
	changed  chan struct{}
	removals map[*removal]struct{}
	claims   map[string]chan struct{} // domains that are being changed; closed when one is not any more
}

// seen is a domain of the picture.
type seen struct {
	placement.Domain
	faults string // what was left out of it, as it was logged
}

// New makes a Watcher; Run makes it watch. An error is one of registering its metrics.
func New(cfg Config) (*Watcher, error) {
	cfg.URI, cfg.Reconcile, cfg.files = cmp.Or(cfg.URI, defaultURI), cmp.Or(cfg.Reconcile, defaultReconcile), cmp.Or(cfg.files, defaultFiles)
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	m, err := newMetrics(cfg.Metrics)
	return &Watcher{
		cfg: cfg, log: cfg.Logger, metrics: m, inbox: newInbox(), headers: newHeaders(),
		readers: make(chan struct{}, maxReaders), changing: make(chan struct{}, maxChanging), editing: make(chan struct{}, 1),
		domains: map[string]*seen{}, why: ErrDisconnected, changed: make(chan struct{}), removals: map[*removal]struct{}{}, claims: map[string]chan struct{}{},
	}, err
}

// Domains returns the domains of this host sorted by UUID; known is false until they have been read for the first time.
// While Connected says false it is the last that was known. The list is the caller's, the slices in it are not.
func (w *Watcher) Domains() (list []placement.Domain, known bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.known {
		return nil, false
	}
	if w.list == nil {
		w.list = make([]placement.Domain, 0, len(w.domains))
		for _, d := range w.domains {
			w.list = append(w.list, d.Domain)
		}
		slices.SortFunc(w.list, func(a, b placement.Domain) int { return cmp.Compare(a.UUID, b.UUID) })
	}
	return slices.Clone(w.list), true
}

// Changed returns a channel that is closed at the next change of what Domains or Connected says. Ask for it before
// them: then no change goes unseen.
func (w *Watcher) Changed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

// Connected reports whether libvirt can be asked, so that Domains is what it says now.
func (w *Watcher) Connected() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.session != nil
}

// tell wakes who waits for a change. The caller holds the lock.
func (w *Watcher) tell() {
	w.list = nil
	close(w.changed)
	w.changed = make(chan struct{})
}

// setSession says that there is a connection, or why there is none.
func (w *Watcher) setSession(s *session, why error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	was := w.session != nil
	w.session, w.why = s, why
	if is := s != nil; is != was {
		w.metrics.connected.Set(map[bool]float64{true: 1}[is])
		w.tell()
	}
}

// setKnown says that every domain has been read once.
func (w *Watcher) setKnown() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.known {
		w.known = true
		w.tell()
	}
}

// put shows a domain as it was read, and logs what was left out of it, once for each text. If it is unsure whether it
// migrates it goes on doing what it did; one that crashed has still crashed if libvirt has forgotten it. moving says that
// it migrates.
func (w *Watcher) put(d *Definition, said reading) (moving bool) {
	var faults string
	for _, err := range d.Faults {
		faults += err.Error() + "\n"
	}
	w.mu.Lock()
	old := w.domains[d.UUID]
	if said.unsure && old != nil {
		d.Migration = old.Migration
	}
	if said.forgotten && old != nil && old.State == placement.DomainCrashed {
		d.State = old.State
	}
	w.domains[d.UUID] = &seen{Domain: d.Domain, faults: faults}
	w.metrics.domains.Set(float64(len(w.domains)))
	if w.known && (old == nil || !old.Equal(d.Domain)) {
		w.tell()
	}
	w.mu.Unlock()
	if faults != "" && (old == nil || old.faults != faults) {
		for _, err := range d.Faults {
			w.leftOut(d.Name, d.UUID, err)
		}
	}
	return d.Migration != ""
}

// drop takes a domain out of the picture.
func (w *Watcher) drop(uuid string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.domains[uuid] == nil {
		return
	}
	delete(w.domains, uuid)
	w.metrics.domains.Set(float64(len(w.domains)))
	if w.known {
		w.tell()
	}
}

// uuids returns the domains of the picture.
func (w *Watcher) uuids() (list []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for uuid := range w.domains {
		list = append(list, uuid)
	}
	return list
}

// Run watches until ctx is done, and returns nil then. It may be called once at a time.
func (w *Watcher) Run(ctx context.Context) error {
	r := runner{Watcher: w}
	defer r.end()
	for wait := retryMin; ; wait = min(2*wait, retryMax) {
		began := time.Now()
		err := r.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > retryMax {
			wait = retryMin // it was connected for a while
		}
		r.lost(err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(r.pause(wait, err)):
		}
	}
}
