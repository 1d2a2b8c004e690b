package hostd

import (
	"fmt"
	"os"

	"github.com/virtswarm/virtswarm/hostd/control"
	"github.com/virtswarm/virtswarm/hostd/guest"
	"github.com/virtswarm/virtswarm/hostd/observe"
	"github.com/virtswarm/virtswarm/hostd/virt"
	"github.com/virtswarm/virtswarm/placement"
)

// vhostDevice is there on a host whose guests can have vsock devices of the kernel's.
const vhostDevice = "/dev/vhost-vsock"

// openGuests opens the host's end of guest links.
func (h *Host) openGuests(files *control.Files) {
	h.guests = guest.New(guest.Config{
		Catalogue: h.node, Domains: h.domains, Files: h.fetch,
		Publisher: control.GuestPublisher{Files: files}, Plugger: h.plugger,
		Host: h.cfg.Name, Version: h.version, Network: h.network,
		VSock: h.cfg.Guests.VSock == guestsOn || h.cfg.Guests.VSock == guestsAuto && haveVhost(), Hybrid: h.cfg.Guests.Hybrid,
		ShmDir: h.cfg.Guests.ShmDir, Logger: h.log.Named("guest"), Metrics: h.registry,
	})
}

// doubts are the identities that more than one guest of this host claims.
func (h *Host) doubts() (all []observe.Doubt) {
	if h.guests == nil {
		return nil
	}
	for _, d := range h.guests.Doubts() {
		all = append(all, observe.Doubt(d))
	}
	return all
}

func haveVhost() bool {
	_, err := os.Stat(vhostDevice)
	return err == nil
}

// Who can plug shared memory into running domains: libvirt's own calls where libvirt manages the domain, for it would
// not know of what is plugged behind its back.
var (
	_ guest.Plugger = Libvirt(nil)
	_ guest.Plugger = (*observe.Unmanaged)(nil)
)

// plugger returns what can plug into a domain of this host.
func (h *Host) plugger(d placement.Domain) (guest.Plugger, error) {
	switch {
	case d.Manager == placement.ManagedByLibvirt && h.libvirt != nil:
		return h.libvirt, nil
	case d.Manager == placement.ManagedByLibvirt:
		return nil, fmt.Errorf("domain %s: %w", d.UUID, virt.ErrNoLibvirt)
	case d.Manager == placement.ManagedByQMP && h.unmanaged != nil:
		return h.unmanaged, nil
	}
	return nil, fmt.Errorf("domain %s is managed by %q, which cannot be asked here", d.UUID, d.Manager)
}
