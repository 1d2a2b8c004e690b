package control

import (
	"context"

	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/placement"
)

// GuestPublisher takes in what guests publish: guest.Publisher.
type GuestPublisher struct{ Files *Files }

// Receive implements guest.Publisher.
func (p GuestPublisher) Receive(ctx context.Context, m *content.Manifest) (*store.File, func(), error) {
	unpin := p.Files.Keeper.Pin(m.ID()) // before it is there: nobody wants it yet
	err := p.Files.Store.MakeRoom(ctx, m.DataBytes())
	var file *store.File
	if err == nil {
		file, err = p.Files.Store.Create(ctx, m)
	}
	if err != nil {
		unpin()
		return nil, nil, err
	}
	return file, unpin, nil
}

// Publish implements guest.Publisher.
func (p GuestPublisher) Publish(ctx context.Context, name, guests string, file *store.File, progress func(copies, wanted int)) error {
	cmd := &placement.Publish{Name: name, Replicas: DefaultReplicas, Guests: guests}
	return p.Files.publishFile(ctx, cmd, file, false, func(e PublishProgress) error {
		progress(e.CopiesMade, e.CopiesWanted)
		return nil
	})
}
