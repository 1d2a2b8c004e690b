package server

import (
	"context"

	"connectrpc.com/connect"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

// controlHandler hands calls to the host. Single calls have the signature of Host already and are embedded;
// streams become send functions. Errors, panics and contexts are the business of calls.
type controlHandler struct{ ControlHost }

func (c controlHandler) Publish(ctx context.Context, req *v1.PublishRequest, s *connect.ServerStream[v1.PublishProgress]) error {
	return c.ControlHost.Publish(ctx, req, s.Send)
}

func (c controlHandler) PublishStream(ctx context.Context, s *connect.BidiStream[v1.PublishChunk, v1.PublishProgress]) error {
	return c.ControlHost.PublishStream(ctx, s.Receive, s.Send)
}

func (c controlHandler) Read(ctx context.Context, req *v1.ReadRequest, s *connect.ServerStream[v1.ReadChunk]) error {
	return c.ControlHost.Read(ctx, req, s.Send)
}

func (c controlHandler) Pull(ctx context.Context, req *v1.PullRequest, s *connect.ServerStream[v1.PullProgress]) error {
	return c.ControlHost.Pull(ctx, req, s.Send)
}

func (c controlHandler) Distribute(ctx context.Context, req *v1.DistributeRequest, s *connect.ServerStream[v1.DistributeProgress]) error {
	return c.ControlHost.Distribute(ctx, req, s.Send)
}

func (c controlHandler) Verify(ctx context.Context, req *v1.VerifyRequest, s *connect.ServerStream[v1.CheckProgress]) error {
	return c.ControlHost.Verify(ctx, req, s.Send)
}

func (c controlHandler) Scrub(ctx context.Context, req *v1.ScrubRequest, s *connect.ServerStream[v1.CheckProgress]) error {
	return c.ControlHost.Scrub(ctx, req, s.Send)
}

func (c controlHandler) Drain(ctx context.Context, req *v1.DrainRequest, s *connect.ServerStream[v1.DrainProgress]) error {
	return c.ControlHost.Drain(ctx, req, s.Send)
}

func (c controlHandler) RotateAuthority(
	ctx context.Context, req *v1.RotateAuthorityRequest, s *connect.ServerStream[v1.RotateAuthorityProgress],
) error {
	return c.ControlHost.RotateAuthority(ctx, req, s.Send)
}

func (c controlHandler) Leave(ctx context.Context, req *v1.LeaveRequest, s *connect.ServerStream[v1.LeaveProgress]) error {
	return c.ControlHost.Leave(ctx, req, s.Send)
}

func (c controlHandler) WatchGuests(ctx context.Context, req *v1.WatchGuestsRequest, s *connect.ServerStream[v1.GuestEvent]) error {
	return c.ControlHost.WatchGuests(ctx, req, s.Send)
}

func (c controlHandler) Prefetch(ctx context.Context, req *v1.PrefetchRequest, s *connect.ServerStream[v1.PrepareProgress]) error {
	return c.ControlHost.Prefetch(ctx, req, s.Send)
}

func (c controlHandler) Prepare(ctx context.Context, req *v1.PrepareRequest, s *connect.ServerStream[v1.PrepareProgress]) error {
	return c.ControlHost.Prepare(ctx, req, s.Send)
}

func (c controlHandler) SaveCatalogue(ctx context.Context, req *v1.SaveCatalogueRequest, s *connect.ServerStream[v1.SaveCatalogueChunk]) error {
	return c.ControlHost.SaveCatalogue(ctx, req, s.Send)
}
