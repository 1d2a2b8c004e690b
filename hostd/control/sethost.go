package control

import (
	"context"
	"errors"

	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

// SetHost changes a host's settings: what u says but for the id, of the host of that name. It returns the host as it is
// then, and the index of the catalogue's entry.
func (h *Hosts) SetHost(ctx context.Context, name string, u placement.UpdateHost) (Host, uint64, error) {
	h.fresh(ctx)
	host, err := h.hostNamed(name)
	if err != nil {
		return Host{}, 0, err
	}
	u.ID = host.ID
	done, err := h.write(ctx, placement.Command{UpdateHost: &u}, host.Name)
	if errors.Is(err, placement.ErrInvalidHost) {
		return Host{}, 0, reason.Wrap(reason.Usage, host.Name, err)
	}
	if err != nil {
		return Host{}, 0, err
	}
	return h.hostNow(host.ID), done.Index, nil
}
