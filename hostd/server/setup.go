package server

import (
	"context"
	"net/http"

	"connectrpc.com/connect"

	"github.com/virtswarm/virtswarm/internal/api"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/api/virtswarm/v1/virtswarmv1connect"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// SetupHost is asked by the operator of a machine whose cluster is not settled yet. A host that is a member refuses.
type SetupHost interface {
	Init(ctx context.Context, req *v1.InitRequest) (*v1.InitResponse, error)
	JoinCluster(ctx context.Context, req *v1.JoinClusterRequest) (*v1.JoinClusterResponse, error)
}

// Waiting is a machine of no cluster yet. Beside its setup it answers for libvirt's hook, which must not keep a domain that
// needs no file from starting.
type Waiting interface {
	SetupHost
	Prepare(ctx context.Context, req *v1.PrepareRequest, send func(*v1.PrepareProgress) error) error
}

// waitingHandler answers for a machine of no cluster: every call of Control but Prepare is told so.
func (s *Server) waitingHandler() http.Handler {
	opts := s.options("unix", api.MaxMessage)
	mux := http.NewServeMux()
	mux.Handle(virtswarmv1connect.NewSetupHandler(s.cfg.Waiting, opts...))
	mux.Handle(virtswarmv1connect.ControlPrepareProcedure, connect.NewServerStreamHandlerSimple(
		virtswarmv1connect.ControlPrepareProcedure,
		func(ctx context.Context, req *v1.PrepareRequest, stream *connect.ServerStream[v1.PrepareProgress]) error {
			return s.cfg.Waiting.Prepare(ctx, req, stream.Send)
		}, opts...))
	mux.HandleFunc("/"+virtswarmv1connect.ControlName+"/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, r, http.StatusPreconditionFailed, reason.Wrap(reason.NoCluster, "", nil))
	})
	return mux
}
