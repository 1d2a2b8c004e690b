package observe

import (
	"path/filepath"
	"time"

	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/qmp"
)

// Unmanaged are the QEMUs that libvirt does not manage, as domains: a DomainSource over QMP.
type Unmanaged struct {
	*qmp.Watcher
	since time.Time // when it began to look
}

// UnmanagedPatience is how long those that ran when the daemon started may take to be seen: until then nobody is called
// gone, nor as long as a QMP socket takes connections and says nothing.
const UnmanagedPatience = 5 * time.Second

// NewUnmanaged returns what a watcher sees from now on; the caller runs the watcher.
func NewUnmanaged(w *qmp.Watcher) *Unmanaged { return &Unmanaged{Watcher: w, since: time.Now()} }

// Domains implements DomainSource.
func (u *Unmanaged) Domains() (list []placement.Domain, known bool) {
	for _, g := range u.Guests() {
		if d := unmanagedDomain(g); d.Validate() == nil { // one that calls itself what no domain may be called stays unseen
			list = append(list, d)
		}
	}
	return list, time.Since(u.since) > UnmanagedPatience && u.Settled()
}

// runStates are the QEMU run states in which a guest's vCPUs do not run.
var runStates = map[string]placement.DomainState{
	"paused": placement.DomainPaused, "prelaunch": placement.DomainPaused, "debug": placement.DomainPaused,
	"io-error": placement.DomainPaused, "watchdog": placement.DomainPaused, "save-vm": placement.DomainPaused,
	"restore-vm": placement.DomainPaused, "internal-error": placement.DomainPaused, "colo": placement.DomainPaused,
	"inmigrate": placement.DomainMigrating, "finish-migrate": placement.DomainMigrating, "postmigrate": placement.DomainMigrating,
	"guest-panicked": placement.DomainPaused, "shutdown": placement.DomainPaused, // the process is still there
}

func unmanagedDomain(g qmp.Guest) placement.Domain {
	d := placement.Domain{
		UUID: g.UUID, Name: g.Name, State: placement.DomainRunning, Manager: placement.ManagedByQMP, VCPUs: g.VCPUs, Memory: g.Memory, CID: g.CID,
		Shm: g.Shm,
	}
	if state, ok := runStates[g.Status]; ok {
		d.State = state
	}
	d.Silent = g.Silent
	if g.Status == "inmigrate" {
		d.Migration = placement.MigratingIn
	}
	for _, disk := range g.Disks[:min(len(g.Disks), placement.MaxDisks)] {
		var chain []string
		for _, path := range disk.Chain {
			if filepath.IsAbs(path) && len(chain) < placement.MaxChain { // else it is no file of this host
				chain = append(chain, path)
			}
		}
		if len(chain) > 0 {
			d.Disks = append(d.Disks, placement.Disk{Target: disk.Target, Chain: chain})
		}
	}
	return d
}
