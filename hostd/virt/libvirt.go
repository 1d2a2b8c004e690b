//go:build libvirt_dlopen

package virt

import (
	"errors"
	"fmt"
	"strings"

	"libvirt.org/go/libvirt"
)

// A connection on which libvirtd is silent for keepaliveInterval times keepaliveCount seconds is closed, with all calls
// on it.
const (
	keepaliveInterval = 5 // seconds
	keepaliveCount    = 3
)

// libvirtConn is a connection to a real libvirt.
type libvirtConn struct {
	*libvirt.Connect
	callbacks []int
}

// dial connects and asks for events. event is called for each, with the alias of the device if it is about one; hungUp
// when libvirt closes the connection. Both are called on the thread of the event loop.
func dial(uri string, event func(kind eventKind, uuid, alias string), hungUp func()) (conn, error) {
	connect, err := libvirt.NewConnect(uri)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", uri, noConnection(err))
	}
	c := &libvirtConn{Connect: connect}
	// Drivers that live in this process know neither.
	_ = c.SetKeepAlive(keepaliveInterval, keepaliveCount)
	_ = c.RegisterCloseCallback(func(*libvirt.Connect, libvirt.ConnectCloseReason) { hungUp() })
	if err := c.subscribe(event); err != nil {
		c.close()
		return nil, fmt.Errorf("ask %s for events: %w", uri, noConnection(err))
	}
	return c, nil
}

// subscribe registers for events. A driver need only know those of a domain's life.
func (c *libvirtConn) subscribe(event func(kind eventKind, uuid, alias string)) error {
	tell := func(kind eventKind, d *libvirt.Domain, alias string) {
		uuid, err := d.GetUUIDString() // asks nobody
		if err != nil {
			uuid = "" // all of them
		}
		event(kind, uuid, alias)
	}
	id, err := c.DomainEventLifecycleRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, _ *libvirt.DomainEventLifecycle) {
		tell(eventLifecycle, d, "")
	})
	if err != nil {
		return err
	}
	c.callbacks = append(c.callbacks, id)
	maybe := func(id int, err error) {
		if err == nil {
			c.callbacks = append(c.callbacks, id)
		}
	}
	maybe(c.DomainEventMigrationIterationRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, _ *libvirt.DomainEventMigrationIteration) {
		tell(eventMigration, d, "")
	}))
	maybe(c.DomainEventJobCompletedRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, _ *libvirt.DomainEventJobCompleted) {
		tell(eventJob, d, "")
	}))
	maybe(c.DomainEventDeviceAddedRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, e *libvirt.DomainEventDeviceAdded) {
		tell(eventDevice, d, e.DevAlias)
	}))
	maybe(c.DomainEventDeviceRemovedRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, e *libvirt.DomainEventDeviceRemoved) {
		tell(eventRemoved, d, e.DevAlias)
	}))
	maybe(c.DomainEventDeviceRemovalFailedRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, e *libvirt.DomainEventDeviceRemovalFailed) {
		tell(eventRemovalFailed, d, e.DevAlias)
	}))
	maybe(c.DomainEventMetadataChangeRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, _ *libvirt.DomainEventMetadataChange) {
		tell(eventMetadata, d, "")
	}))
	maybe(c.DomainEventTrayChangeRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, _ *libvirt.DomainEventTrayChange) {
		tell(eventDisk, d, "")
	}))
	maybe(c.DomainEventBlockJob2Register(nil, func(_ *libvirt.Connect, d *libvirt.Domain, _ *libvirt.DomainEventBlockJob) {
		tell(eventDisk, d, "")
	}))
	maybe(c.DomainEventDiskChangeRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, _ *libvirt.DomainEventDiskChange) {
		tell(eventDisk, d, "")
	}))
	return nil
}

func (c *libvirtConn) alive() bool {
	alive, err := c.IsAlive()
	return err == nil && alive
}

func (c *libvirtConn) close() {
	// Each callback holds the connection.
	for _, id := range c.callbacks {
		_ = c.DomainEventDeregister(id)
	}
	_ = c.UnregisterCloseCallback()
	_, _ = c.Close()
}

func (c *libvirtConn) list() ([]string, error) {
	domains, err := c.ListAllDomains(0)
	if err != nil {
		return nil, fmt.Errorf("list domains: %w", known(err))
	}
	uuids := make([]string, 0, len(domains))
	for i := range domains {
		uuid, err := domains[i].GetUUIDString()
		if err == nil {
			uuids = append(uuids, uuid)
		}
		_ = domains[i].Free()
	}
	return uuids, nil
}

// with calls fn with a domain.
func (c *libvirtConn) with(uuid string, fn func(*libvirt.Domain) error) error {
	d, err := c.LookupDomainByUUIDString(uuid)
	if err != nil {
		return known(err)
	}
	defer func() { _ = d.Free() }()
	return known(fn(d))
}

func (c *libvirtConn) read(uuid string) (r reading, err error) {
	err = c.with(uuid, func(d *libvirt.Domain) (err error) {
		if r.xml, err = d.GetXMLDesc(0); err != nil {
			return err
		}
		state, reason, err := d.GetState()
		if err != nil {
			return err
		}
		job := noJob
		if stateOf(state, reason).Active() {
			job = jobOf(d)
		}
		r.state, r.migration = facts(state, reason, job)
		r.unsure = job == unknownJob
		r.forgotten = state == libvirt.DOMAIN_SHUTOFF && libvirt.DomainShutoffReason(reason) == libvirt.DOMAIN_SHUTOFF_UNKNOWN
		return nil
	})
	return r, err
}

func (c *libvirtConn) metadata(uuid string) (t texts, err error) {
	err = c.with(uuid, func(d *libvirt.Domain) error {
		active, persistent, err := parts(d)
		if err != nil {
			return err
		}
		if active {
			if t.live, err = metadataOf(d, libvirt.DOMAIN_AFFECT_LIVE); err != nil {
				return err
			}
		}
		if persistent {
			t.config, err = metadataOf(d, libvirt.DOMAIN_AFFECT_CONFIG)
		}
		return err
	})
	return t, err
}

// parts says whether a domain runs, and whether it is defined for its next start.
func parts(d *libvirt.Domain) (active, persistent bool, err error) {
	if active, err = d.IsActive(); err != nil {
		return false, false, err
	}
	persistent, err = d.IsPersistent()
	return active, persistent, err
}

func metadataOf(d *libvirt.Domain, part libvirt.DomainModificationImpact) (*string, error) {
	text, err := d.GetMetadata(libvirt.DOMAIN_METADATA_ELEMENT, Namespace, part)
	if isCode(err, libvirt.ERR_NO_DOMAIN_METADATA) {
		return new(""), nil
	}
	return &text, err
}

func (c *libvirtConn) setMetadata(uuid string, t texts) error {
	return c.with(uuid, func(d *libvirt.Domain) error {
		if t.config != nil {
			if err := d.SetMetadata(libvirt.DOMAIN_METADATA_ELEMENT, *t.config, MetadataKey, Namespace, libvirt.DOMAIN_AFFECT_CONFIG); err != nil {
				return err
			}
		}
		if t.live == nil {
			return nil
		}
		return d.SetMetadata(libvirt.DOMAIN_METADATA_ELEMENT, *t.live, MetadataKey, Namespace, libvirt.DOMAIN_AFFECT_LIVE)
	})
}

func (c *libvirtConn) plug(uuid, device string) error {
	return c.running(uuid, func(d *libvirt.Domain) error { return d.AttachDeviceFlags(device, libvirt.DOMAIN_DEVICE_MODIFY_LIVE) })
}

func (c *libvirtConn) unplug(uuid, alias string) error {
	return c.running(uuid, func(d *libvirt.Domain) error {
		err := d.DetachDeviceAlias(alias, libvirt.DOMAIN_DEVICE_MODIFY_LIVE)
		if isCode(err, libvirt.ERR_DEVICE_MISSING) {
			return nil // just now; who waits for it sees that
		}
		return err
	})
}

// running calls fn with a domain that runs.
func (c *libvirtConn) running(uuid string, fn func(*libvirt.Domain) error) error {
	return c.with(uuid, func(d *libvirt.Domain) error {
		if active, err := d.IsActive(); err != nil {
			return err
		} else if !active {
			return ErrNotRunning
		}
		return fn(d)
	})
}

func isCode(err error, codes ...libvirt.ErrorNumber) bool {
	var e libvirt.Error
	if !errors.As(err, &e) {
		return false
	}
	for _, code := range codes {
		if e.Code == code {
			return true
		}
	}
	return false
}

// known gives an error of libvirt the package's sentinel, if it has one, and its text without numbers.
func known(err error) error {
	var e libvirt.Error
	switch {
	case !errors.As(err, &e):
		return err
	case e.Code == libvirt.ERR_NO_DOMAIN:
		return ErrNoDomain
	case isCode(e, libvirt.ERR_ACCESS_DENIED, libvirt.ERR_AUTH_FAILED, libvirt.ERR_AUTH_CANCELLED, libvirt.ERR_AUTH_UNAVAILABLE, libvirt.ERR_OPERATION_DENIED),
		e.Code == libvirt.ERR_SYSTEM_ERROR && strings.Contains(e.Message, "Permission denied"):
		return fmt.Errorf("%w: run as root, or let the user in (group libvirt, or polkit's org.libvirt.unix.manage): %s", ErrDenied, e.Message)
	}
	return errors.New(e.Message)
}

// noConnection is known for an error of connecting.
func noConnection(err error) error {
	if err = known(err); errors.Is(err, ErrDenied) {
		return err
	}
	return fmt.Errorf("%w: see whether libvirtd or virtqemud runs: %w", ErrDisconnected, err)
}
