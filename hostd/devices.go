package hostd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/virtswarm/virtswarm/hostd/guest"
	"github.com/virtswarm/virtswarm/hostd/virt"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

// defaultShm is the shared memory of a guest link of which nobody says how much it is to be, in bytes: as much as fits into
// the 2 MiB that SeaBIOS leaves below a bridge of q35 for what is plugged in later.
const defaultShm = 1 << 20

// Who can plug shared memory into running domains: libvirt's own calls where libvirt manages the domain, for it would not
// know of what is plugged behind its back.
var (
	_ guest.Plugger = (*virt.Watcher)(nil)
	_ guest.Plugger = (*unmanaged)(nil)
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

// linkMemory attaches the shared memory of guest links to domains that run on this host, and detaches it: guest.Server. It is
// an error to attach a second one, none to detach what is not there.
type linkMemory interface {
	Attach(ctx context.Context, d placement.Domain, size int64) error
	Detach(ctx context.Context, d placement.Domain) error
}

// AttachShm implements server.Host. It is carried out by the host where the domain runs.
func (h *Host) AttachShm(ctx context.Context, req *v1.AttachShmRequest) (*v1.AttachShmResponse, error) {
	v, err := h.runningGuest(ctx, req.GetGuest())
	if err != nil {
		return nil, err
	}
	size := int64(min(req.GetSize(), math.MaxInt64))
	size = cmp.Or(size, v.Shm, v.WantShm, defaultShm)
	if err := virt.ValidateMemory(size); err != nil {
		return nil, reason.Explain(err, v.Name)
	}
	if v.Host != h.self {
		addr, err := h.address(v.Host)
		if err != nil {
			return nil, reason.Explain(err, v.Name)
		}
		req.Guest = v.UUID
		return h.peers.client(v.Host, addr).Control.AttachShm(ctx, req)
	}
	if v.Shm != size {
		if err := h.shm.Attach(ctx, v.Domain, size); err != nil {
			return nil, explainLink(err, v.Name)
		}
	}
	v.Shm = size // the catalogue hears of it in a moment
	return &v1.AttachShmResponse{Guest: h.describe(v)}, nil
}

// DetachShm implements server.Host. It is carried out by the host where the domain runs.
func (h *Host) DetachShm(ctx context.Context, req *v1.DetachShmRequest) (*v1.DetachShmResponse, error) {
	v, err := h.runningGuest(ctx, req.GetGuest())
	if err != nil {
		return nil, err
	}
	if v.Host != h.self {
		addr, err := h.address(v.Host)
		if err != nil {
			return nil, reason.Explain(err, v.Name)
		}
		req.Guest = v.UUID
		return h.peers.client(v.Host, addr).Control.DetachShm(ctx, req)
	}
	if err := h.shm.Detach(ctx, v.Domain); err != nil {
		return nil, explainLink(err, v.Name)
	}
	v.Shm = 0
	return &v1.DetachShmResponse{Guest: h.describe(v)}, nil
}

// runningGuest finds the one domain of a name or UUID, which must run.
func (h *Host) runningGuest(ctx context.Context, name string) (placement.DomainView, error) {
	h.fresh(ctx)
	v, err := h.guestNamed(name)
	if err == nil && !v.State.Active() {
		err = reason.Wrap(reason.NoGuestLink, v.Name, fmt.Errorf("the guest is %s", v.State)).
			WithHint("start it; memory that its metadata asks for (virtswarm guest attach-shm --always) is attached then")
	}
	return v, err
}

func (h *Host) describe(v placement.DomainView) (g *v1.Guest) {
	h.node.View(func(s *placement.State) { g = describeGuest(s, v) })
	return g
}

// explainLink is Explain for what went wrong with a guest link: whatever libvirt or QEMU say to it is nothing unexpected.
func explainLink(err error, guest string) error {
	if _, ok := errors.AsType[*reason.Error](err); !ok && reason.Of(err) == reason.Unexpected {
		return reason.Wrap(reason.NoGuestLink, guest, err)
	}
	return reason.Explain(err, guest)
}
