package servertest

import (
	"context"
	"errors"

	"github.com/virtswarm/virtswarm/hostd/server"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// Health implements server.Host.
func (h *Host) Health(context.Context, *v1.HealthRequest) (*v1.HealthResponse, error) {
	return &v1.HealthResponse{}, nil
}

// Init implements server.Setup: the host is a member.
func (h *Host) Init(context.Context) (server.Member, error) {
	return server.Member{}, reason.Wrap(reason.Usage, h.self().name, errors.New("this host is a member of cluster "+ClusterID+" already"))
}

// JoinCluster implements server.Setup.
func (h *Host) JoinCluster(ctx context.Context, _, _ string) (server.Member, error) {
	return h.Init(ctx)
}

// Locate implements server.ClusterHost: nobody is anywhere else.
func (h *Host) Locate(context.Context, *v1.LocateRequest) (*v1.LocateResponse, error) {
	return &v1.LocateResponse{}, nil
}
