package simtest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/hostd"
	"github.com/virtswarm/virtswarm/hostd/virt"
	"github.com/virtswarm/virtswarm/placement"
)

// vms is what the libvirt of a machine sees: it survives the daemon, and its events may be lost, late or come twice. It
// implements hostd.Libvirt and hostd.DomainWitness.
type vms struct {
	m       *machine
	mu      sync.Mutex
	here    map[string]placement.Domain
	changed chan struct{}
	ended   map[right]time.Time // when the daemon was told that a right had ended; zero: it lasts
}

var _ hostd.Libvirt = (*vms)(nil)

// right is what the guest of a domain may read at a machine: the files of a policy.
type right struct{ uuid, guests string }

// Policies of files. Nobody may read what has policyNone.
const (
	policyNone = "none"
	policyWeb  = "tag:web"
	policyAll  = "all"
	tagWeb     = "web"
)

var policies = []string{policyNone, policyWeb, policyAll}

func newVMs(m *machine) *vms {
	return &vms{m: m, here: map[string]placement.Domain{}, changed: make(chan struct{}), ended: map[right]time.Time{}}
}

// Domains implements hostd.Libvirt.
func (v *vms) Domains() (list []placement.Domain, known bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, d := range v.here {
		list = append(list, d)
	}
	return list, true
}

// Changed implements hostd.Libvirt.
func (v *vms) Changed() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.changed
}

// errSimulated is the answer of a libvirt that can only be looked at.
var errSimulated = errors.New("the simulated libvirt changes nothing")

// SetMetadata implements hostd.Libvirt.
func (*vms) SetMetadata(context.Context, string, func(virt.Metadata) (virt.Metadata, error)) error {
	return errSimulated
}

// PlugMemory implements hostd.Libvirt.
func (*vms) PlugMemory(context.Context, string, string, int64) error { return errSimulated }

// UnplugMemory implements hostd.Libvirt.
func (*vms) UnplugMemory(context.Context, string, string) error { return errSimulated }

// Owner implements hostd.Libvirt.
func (*vms) Owner(context.Context, string) (uid, gid int, err error) { return 0, 0, errSimulated }

// Told implements hostd.DomainWitness. The word of a daemon that is dead counts for nothing.
func (v *vms) Told(r placement.ReportDomains) {
	if v.m.running() && !v.m.fault.Killed() {
		v.m.w.fleet.claims.told(v.m, r)
	}
}

// event wakes the daemon, which knows from now on which rights have ended.
func (v *vms) event() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for r, since := range v.ended {
		if since.IsZero() && !v.entitled(r) {
			v.ended[r] = time.Now()
		}
	}
	close(v.changed)
	v.changed = make(chan struct{})
}

// put makes a domain be here as it is. Each change of it has a number of its own, which its memory carries to whoever
// is shown it: the catalogue takes that as it is.
func (v *vms) put(d placement.Domain) {
	v.mu.Lock()
	defer v.mu.Unlock()
	was, here := v.here[d.UUID]
	if d.Memory = was.Memory; here && was.Equal(d) {
		return
	}
	d.Memory = v.m.w.fleet.claims.change(v.m, d.UUID, false)
	v.here[d.UUID] = d
	for _, guests := range policies {
		if r := (right{d.UUID, guests}); v.entitled(r) {
			v.ended[r] = time.Time{}
		}
	}
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

// entitled says whether a guest that is here has a right now. The caller holds mu.
func (v *vms) entitled(r right) bool {
	d, here := v.here[r.uuid]
	return here && d.State.Active() && (r.guests == policyAll || r.guests == policyWeb && slices.Contains(d.Tags, tagWeb))
}

// forbidden says since when a guest may not read files of a policy here, false if it may.
func (v *vms) forbidden(uuid, guests string) (since time.Time, forbidden bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	since, known := v.ended[right{uuid, guests}]
	if !known {
		since = v.m.w.begin
	}
	return since, !since.IsZero()
}
