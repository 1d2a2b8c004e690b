package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/virtswarm/virtswarm/hostd/virt"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

// defaultShm is the shared memory of a guest link of which nobody says how much it is to be, in bytes: as much as fits
// into the 2 MiB that SeaBIOS leaves below a bridge of q35 for what is plugged in later.
const defaultShm = 1 << 20

// Memory attaches the shared memory of guest links to domains that run on this host, and detaches it: *guest.Server. It
// is an error to attach one of another size beside the first, none to attach or detach what is there or is not there
// already.
type Memory interface {
	Attach(ctx context.Context, d placement.Domain, size int64) error
	Detach(ctx context.Context, d placement.Domain) error
}

// AttachShm attaches shared memory for a guest link to a running domain: size bytes, or, if that is 0, what the domain
// has or asks for. It is carried out by the host where the domain runs.
func (g *Guests) AttachShm(ctx context.Context, guest string, size int64) (Guest, error) {
	v, err := g.runningGuest(ctx, guest)
	if err != nil {
		return Guest{}, err
	}
	asked := size
	size = cmp.Or(size, v.Shm, v.WantShm, defaultShm)
	if err := virt.ValidateMemory(size); err != nil {
		return Guest{}, reason.Explain(err, v.Name)
	}
	if v.Host != g.Self {
		host, err := g.host(v.Host)
		if err != nil {
			return Guest{}, reason.Explain(err, v.Name)
		}
		return g.Peers.AttachShm(ctx, host, v.UUID, asked)
	}
	if err := g.Memory.Attach(ctx, v.Domain, size); err != nil {
		return Guest{}, explainLink(err, v.Name)
	}
	v.Shm = size // the catalogue hears of it in a moment
	return g.describe(v), nil
}

// DetachShm takes the shared memory of its guest link from a running domain. It is carried out by the host where the
// domain runs.
func (g *Guests) DetachShm(ctx context.Context, guest string) (Guest, error) {
	v, err := g.runningGuest(ctx, guest)
	if err != nil {
		return Guest{}, err
	}
	if v.Host != g.Self {
		host, err := g.host(v.Host)
		if err != nil {
			return Guest{}, reason.Explain(err, v.Name)
		}
		return g.Peers.DetachShm(ctx, host, v.UUID)
	}
	if err := g.Memory.Detach(ctx, v.Domain); err != nil {
		return Guest{}, explainLink(err, v.Name)
	}
	v.Shm = 0
	return g.describe(v), nil
}

// runningGuest finds the one domain of a name or UUID, which must run.
func (g *Guests) runningGuest(ctx context.Context, name string) (placement.DomainView, error) {
	g.fresh(ctx)
	v, err := g.guestNamed(name)
	if err == nil && !v.State.Active() {
		err = reason.Wrap(reason.NoGuestLink, v.Name, fmt.Errorf("the guest is %s", v.State)).
			WithHint("start it; memory that its metadata asks for (virtswarm guest attach-shm `always`) is attached then")
	}
	return v, err
}

// explainLink is Explain for what went wrong with a guest link: whatever libvirt or QEMU say to it is nothing
// unexpected.
func explainLink(err error, guest string) error {
	if _, ok := errors.AsType[*reason.Error](err); !ok && reason.Of(err) == reason.Unexpected {
		return reason.Wrap(reason.NoGuestLink, guest, err)
	}
	return reason.Explain(err, guest)
}
