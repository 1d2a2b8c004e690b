package hostd

import (
	"context"
	"errors"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

var errPending = errors.New("not there yet")

func (h *Host) Health(context.Context, *v1.HealthRequest) (*v1.HealthResponse, error) {
	return nil, errPending
}
