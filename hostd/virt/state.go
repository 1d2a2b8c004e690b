//go:build libvirt_dlopen

package virt

import (
	"libvirt.org/go/libvirt"

	"github.com/virtswarm/virtswarm/placement"
)

// job is what a domain's job says of a migration.
type job int

const (
	noJob job = iota
	outJob
	inJob
	unknownJob // could not be found out
)

// jobOf asks for a domain's job. Of one that comes in QEMU's driver says so by refusing: "available only on the
// source".
func jobOf(d *libvirt.Domain) job {
	stats, err := d.GetJobStats(0)
	switch {
	case isCode(err, libvirt.ERR_OPERATION_UNSUPPORTED):
		return inJob
	case isCode(err, libvirt.ERR_NO_SUPPORT, libvirt.ERR_OPERATION_INVALID, libvirt.ERR_NO_DOMAIN):
		return noJob // a driver without jobs, or it stopped just now
	case err != nil:
		return unknownJob
	case stats.Operation == libvirt.DOMAIN_JOB_OPERATION_MIGRATION_OUT:
		return outJob
	case stats.Operation == libvirt.DOMAIN_JOB_OPERATION_MIGRATION_IN:
		return inJob
	}
	return noJob
}

// stateOf is what a domain does, whatever its job.
func stateOf(state libvirt.DomainState, reason int) placement.DomainState {
	switch state {
	case libvirt.DOMAIN_CRASHED:
		return placement.DomainCrashed
	case libvirt.DOMAIN_SHUTOFF:
		if libvirt.DomainShutoffReason(reason) == libvirt.DOMAIN_SHUTOFF_CRASHED {
			return placement.DomainCrashed
		}
		return placement.DomainOff
	case libvirt.DOMAIN_PAUSED:
		switch libvirt.DomainPausedReason(reason) {
		case libvirt.DOMAIN_PAUSED_MIGRATION, libvirt.DOMAIN_PAUSED_POSTCOPY, libvirt.DOMAIN_PAUSED_POSTCOPY_FAILED:
			return placement.DomainMigrating
		}
		return placement.DomainPaused
	}
	return placement.DomainRunning // also one that sleeps, shuts down, or whose state the driver does not know
}

// facts is what a domain does, and which way it migrates.
func facts(state libvirt.DomainState, reason int, j job) (placement.DomainState, string) {
	s := stateOf(state, reason)
	switch {
	case !s.Active():
		return s, ""
	case j == outJob:
		return s, placement.MigratingOut
	case j == inJob && s == placement.DomainPaused && libvirt.DomainPausedReason(reason) == libvirt.DOMAIN_PAUSED_STARTING_UP:
		return placement.DomainMigrating, placement.MigratingIn
	case j == inJob, s == placement.DomainMigrating && j == noJob:
		// Without a job it is one that came and waits for the other host to let it go on.
		return s, placement.MigratingIn
	}
	return s, ""
}
