//go:build libvirt_dlopen

package virt

import (
	"errors"
	"testing"

	"libvirt.org/go/libvirt"

	"github.com/virtswarm/virtswarm/placement"
)

func TestFacts(t *testing.T) {
	const (
		running, paused, migrating = placement.DomainRunning, placement.DomainPaused, placement.DomainMigrating
		off, crashed               = placement.DomainOff, placement.DomainCrashed
		in, out                    = placement.MigratingIn, placement.MigratingOut
	)
	for _, tt := range []struct {
		state  libvirt.DomainState
		reason int
		job    job
		want   placement.DomainState
		way    string
	}{
		{libvirt.DOMAIN_RUNNING, 0, noJob, running, ""},
		{libvirt.DOMAIN_RUNNING, 0, unknownJob, running, ""},
		{libvirt.DOMAIN_RUNNING, 0, outJob, running, out},
		{libvirt.DOMAIN_RUNNING, int(libvirt.DOMAIN_RUNNING_POSTCOPY), inJob, running, in},
		{libvirt.DOMAIN_BLOCKED, 0, noJob, running, ""},
		{libvirt.DOMAIN_PMSUSPENDED, 0, noJob, running, ""},
		{libvirt.DOMAIN_NOSTATE, 0, noJob, running, ""},
		{libvirt.DOMAIN_SHUTDOWN, 0, noJob, running, ""},
		{libvirt.DOMAIN_PAUSED, int(libvirt.DOMAIN_PAUSED_USER), noJob, paused, ""},
		{libvirt.DOMAIN_PAUSED, int(libvirt.DOMAIN_PAUSED_USER), outJob, paused, out},
		{libvirt.DOMAIN_PAUSED, int(libvirt.DOMAIN_PAUSED_IOERROR), noJob, paused, ""},
		{libvirt.DOMAIN_PAUSED, int(libvirt.DOMAIN_PAUSED_STARTING_UP), noJob, paused, ""},
		{libvirt.DOMAIN_PAUSED, int(libvirt.DOMAIN_PAUSED_STARTING_UP), inJob, migrating, in},
		{libvirt.DOMAIN_PAUSED, int(libvirt.DOMAIN_PAUSED_MIGRATION), inJob, migrating, in},
		{libvirt.DOMAIN_PAUSED, int(libvirt.DOMAIN_PAUSED_MIGRATION), noJob, migrating, in},
		{libvirt.DOMAIN_PAUSED, int(libvirt.DOMAIN_PAUSED_MIGRATION), unknownJob, migrating, ""},
		{libvirt.DOMAIN_PAUSED, int(libvirt.DOMAIN_PAUSED_MIGRATION), outJob, migrating, out},
		{libvirt.DOMAIN_PAUSED, int(libvirt.DOMAIN_PAUSED_POSTCOPY), outJob, migrating, out},
		{libvirt.DOMAIN_PAUSED, int(libvirt.DOMAIN_PAUSED_POSTCOPY_FAILED), inJob, migrating, in},
		{libvirt.DOMAIN_SHUTOFF, int(libvirt.DOMAIN_SHUTOFF_MIGRATED), noJob, off, ""},
		{libvirt.DOMAIN_SHUTOFF, int(libvirt.DOMAIN_SHUTOFF_CRASHED), noJob, crashed, ""},
		{libvirt.DOMAIN_CRASHED, 0, noJob, crashed, ""},
	} {
		if got, way := facts(tt.state, tt.reason, tt.job); got != tt.want || way != tt.way {
			t.Errorf("state %d for reason %d, job %d: %s %q, want %s %q", tt.state, tt.reason, tt.job, got, way, tt.want, tt.way)
		}
	}
}

func TestErrorsOfLibvirt(t *testing.T) {
	for code, want := range map[libvirt.ErrorNumber]error{
		libvirt.ERR_NO_DOMAIN: ErrNoDomain, libvirt.ERR_ACCESS_DENIED: ErrDenied, libvirt.ERR_AUTH_FAILED: ErrDenied,
		libvirt.ERR_AUTH_UNAVAILABLE: ErrDenied, libvirt.ERR_OPERATION_DENIED: ErrDenied,
	} {
		if err := known(libvirt.Error{Code: code, Message: "m"}); !errors.Is(err, want) {
			t.Errorf("code %d is %v, want %v", code, err, want)
		}
	}
	if err := noConnection(libvirt.Error{Code: libvirt.ERR_SYSTEM_ERROR, Message: "Failed to connect socket to '/run/x': Permission denied"}); !errors.Is(err, ErrDenied) {
		t.Error(err)
	}
	if err := noConnection(libvirt.Error{Code: libvirt.ERR_SYSTEM_ERROR, Message: "No such file"}); !errors.Is(err, ErrDisconnected) {
		t.Error(err)
	}
	if known(nil) != nil || isCode(nil, 0) {
		t.Error("nothing is an error")
	}
}
