package virt

import "errors"

// Errors of a Watcher and of the parsers. Each is wrapped with the domain and, where there is something to do, with that.
var (
	ErrNoLibvirt    = errors.New("no libvirt")
	ErrDisconnected = errors.New("not connected to libvirt")
	ErrTimeout      = errors.New("libvirt has not answered")
	ErrNoDomain     = errors.New("no such domain on this host")
	ErrNotRunning   = errors.New("the domain does not run")
	ErrDenied       = errors.New("libvirt refuses permission")
	ErrBadMemory    = errors.New("not a memory for a guest link")
	ErrNoSlot       = errors.New("the domain has no free PCI slot for it")
	ErrNotUnplugged = errors.New("the guest has not let go of the device")
	ErrBadXML       = errors.New("not the XML of a domain")
	ErrBadMetadata  = errors.New("invalid virtswarm metadata")
)
