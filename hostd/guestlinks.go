package hostd

import (
	"context"
	"os"

	"github.com/virtswarm/virtswarm/hostd/guest"
	"github.com/virtswarm/virtswarm/hostd/store"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/placement"
)

// vhostDevice is there on a host whose guests can have vsock devices of the kernel's.
const vhostDevice = "/dev/vhost-vsock"

// openGuests opens the host's end of guest links.
func (h *Host) openGuests() {
	h.guests = guest.New(guest.Config{
		Catalogue: h.node, Domains: h.domains, Files: h.fetch,
		Publisher: guestPublisher{h}, Plugger: h.plugger,
		Host: h.cfg.Name, Version: h.version, Network: h.network,
		VSock: h.cfg.Guests.VSock == guestsOn || h.cfg.Guests.VSock == guestsAuto && haveVhost(), Hybrid: h.cfg.Guests.Hybrid,
		ShmDir: h.cfg.Guests.ShmDir, Logger: h.log.Named("guest"), Metrics: h.registry,
	})
	h.shm = h.guests
}

func haveVhost() bool {
	_, err := os.Stat(vhostDevice)
	return err == nil
}

// guestPublisher takes in what guests publish: guest.Publisher.
type guestPublisher struct{ host *Host }

// Receive implements guest.Publisher.
func (p guestPublisher) Receive(ctx context.Context, m *content.Manifest) (*store.File, func(), error) {
	unpin := p.host.keeper.Pin(m.ID()) // before it is there: nobody wants it yet
	err := p.host.store.MakeRoom(ctx, m.DataBytes())
	var file *store.File
	if err == nil {
		file, err = p.host.store.Create(ctx, m)
	}
	if err != nil {
		unpin()
		return nil, nil, err
	}
	return file, unpin, nil
}

// Publish implements guest.Publisher.
func (p guestPublisher) Publish(ctx context.Context, name, guests string, file *store.File, progress func(copies, wanted int)) error {
	cmd := &placement.Publish{Name: name, Replicas: DefaultReplicas, Guests: guests}
	return p.host.publishFile(ctx, cmd, file, false, func(e *v1.PublishProgress) error {
		progress(int(e.GetCopiesMade()), int(e.GetCopiesWanted()))
		return nil
	})
}
