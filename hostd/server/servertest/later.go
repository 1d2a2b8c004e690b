package servertest

import (
	"context"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

// Health implements server.Host.
func (h *Host) Health(context.Context, *v1.HealthRequest) (*v1.HealthResponse, error) {
	return &v1.HealthResponse{}, nil
}
