package servertest

import (
	"context"
	"errors"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// Health implements server.Host.
func (h *Host) Health(context.Context, *v1.HealthRequest) (*v1.HealthResponse, error) {
	return &v1.HealthResponse{}, nil
}

// Init implements server.SetupHost: the host is a member.
func (h *Host) Init(context.Context, *v1.InitRequest) (*v1.InitResponse, error) {
	return nil, reason.Wrap(reason.Usage, h.self().name, errors.New("this host is a member of cluster "+ClusterID+" already"))
}

// JoinCluster implements server.SetupHost: the host is a member.
func (h *Host) JoinCluster(ctx context.Context, _ *v1.JoinClusterRequest) (*v1.JoinClusterResponse, error) {
	_, err := h.Init(ctx, nil)
	return nil, err
}
