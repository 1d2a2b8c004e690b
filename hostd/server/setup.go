package server

import (
	"context"
	"net/http"

	"connectrpc.com/connect"

	"github.com/virtswarm/virtswarm/hostd/control"
	"github.com/virtswarm/virtswarm/internal/api"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/api/virtswarm/v1/virtswarmv1connect"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// Member is what a machine has become.
type Member struct{ Cluster, Host string }

// Setup is asked by the operator of a machine whose cluster is not settled yet. A host that is a member refuses.
type Setup interface {
	Init(ctx context.Context) (Member, error)
	JoinCluster(ctx context.Context, addr, token string) (Member, error)
}

// Waiting is a machine of no cluster yet. Beside its setup it answers for libvirt's hook, which must not keep a domain
// that needs no file from starting.
type Waiting interface {
	Setup
	Prepare(ctx context.Context, start control.Start) error
}

// setup turns the messages of the Setup service into calls.
type setup struct{ Setup }

// Init implements virtswarmv1connect.SetupHandler.
func (s setup) Init(ctx context.Context, _ *v1.InitRequest) (*v1.InitResponse, error) {
	m, err := s.Setup.Init(ctx)
	if err != nil {
		return nil, err
	}
	return &v1.InitResponse{ClusterId: m.Cluster, HostId: m.Host}, nil
}

// JoinCluster implements virtswarmv1connect.SetupHandler.
func (s setup) JoinCluster(ctx context.Context, req *v1.JoinClusterRequest) (*v1.JoinClusterResponse, error) {
	m, err := s.Setup.JoinCluster(ctx, req.GetAddress(), req.GetToken())
	if err != nil {
		return nil, err
	}
	return &v1.JoinClusterResponse{ClusterId: m.Cluster, HostId: m.Host}, nil
}

// waitingHandler answers for a machine of no cluster: every call of Control but Prepare is told so.
func (s *Server) waitingHandler() http.Handler {
	opts := s.options("unix", api.MaxMessage)
	mux := http.NewServeMux()
	mux.Handle(virtswarmv1connect.NewSetupHandler(setup{s.cfg.Waiting}, opts...))
	mux.Handle(virtswarmv1connect.ControlPrepareProcedure, connect.NewServerStreamHandlerSimple(
		virtswarmv1connect.ControlPrepareProcedure,
		func(ctx context.Context, req *v1.PrepareRequest, stream *connect.ServerStream[v1.PrepareProgress]) error {
			if err := s.cfg.Waiting.Prepare(ctx, startOf(req)); err != nil {
				return err
			}
			return stream.Send(&v1.PrepareProgress{Done: true})
		}, opts...))
	mux.HandleFunc("/"+virtswarmv1connect.ControlName+"/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, r, http.StatusPreconditionFailed, reason.Wrap(reason.NoCluster, "", nil))
	})
	return mux
}
