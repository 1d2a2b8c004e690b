package virt

import (
	"errors"

	"github.com/virtswarm/virtswarm/internal/reason"
)

// Errors of a Watcher and of the parsers. Each is wrapped with the domain and, where there is something to do, with
// that.
var (
	ErrNoLibvirt    = reason.Sentinel(reason.NoLibvirt, "no libvirt")
	ErrDisconnected = reason.Sentinel(reason.NoLibvirt, "not connected to libvirt")
	ErrTimeout      = reason.Sentinel(reason.NoLibvirt, "libvirt has not answered")
	ErrNoDomain     = reason.Sentinel(reason.NoSuchGuest, "no such domain on this host")
	ErrNotRunning   = reason.Sentinel(reason.NoGuestLink, "the domain does not run")
	ErrDenied       = reason.Sentinel(reason.NoLibvirt, "libvirt refuses permission")
	ErrBadMemory    = reason.Sentinel(reason.Usage, "not a memory for a guest link")
	ErrNoSlot       = reason.Sentinel(reason.NoGuestLink, "the domain has no free PCI slot for it")
	ErrNotUnplugged = reason.Sentinel(reason.NoGuestLink, "the guest has not let go of the device")
	ErrBadXML       = errors.New("not the XML of a domain")
	ErrBadMetadata  = reason.Sentinel(reason.Usage, "invalid virtswarm metadata")
)
