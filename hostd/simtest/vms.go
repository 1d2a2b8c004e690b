package simtest

import (
	"sync"

	"github.com/virtswarm/virtswarm/placement"
)

// vms is what the libvirt of a machine sees: it survives the daemon, and its events may be lost, late or come twice. It
// implements hostd.DomainSource and hostd.DomainWitness.
type vms struct {
	m       *machine
	mu      sync.Mutex
	here    map[string]placement.Domain
	changed chan struct{}
}

func newVMs(m *machine) *vms {
	return &vms{m: m, here: map[string]placement.Domain{}, changed: make(chan struct{})}
}

// Domains implements hostd.DomainSource.
func (v *vms) Domains() (list []placement.Domain, known bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, d := range v.here {
		list = append(list, d)
	}
	return list, true
}

// Changed implements hostd.DomainSource.
func (v *vms) Changed() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.changed
}

// Told implements hostd.DomainWitness. The word of a daemon that is dead counts for nothing.
func (v *vms) Told(r placement.ReportDomains) {
	if v.m.running() && !v.m.fault.Killed() {
		v.m.w.fleet.claims.told(v.m, r)
	}
}

// event wakes the daemon.
func (v *vms) event() {
	v.mu.Lock()
	defer v.mu.Unlock()
	close(v.changed)
	v.changed = make(chan struct{})
}

// put makes a domain be here as it is. Each change of it has a number of its own, which its memory carries to whoever
// is shown it: the catalogue takes that as it is.
func (v *vms) put(d placement.Domain) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if was, here := v.here[d.UUID]; here && was.State == d.State {
		return
	}
	d.Memory = v.m.w.fleet.claims.change(v.m, d.UUID, false)
	v.here[d.UUID] = d
}

// drop makes a domain be here no more.
func (v *vms) drop(uuid string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, here := v.here[uuid]; here {
		v.m.w.fleet.claims.change(v.m, uuid, true)
		delete(v.here, uuid)
	}
}
