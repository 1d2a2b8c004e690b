// Package server puts a Host on its listeners: the Connect API (gRPC and plain JSON alike) on the unix
// socket, on the port and on the join protocol, and /metrics beside it. It has no logic of its own.
//
// It promises that a listener offers nothing but its own services, that a message and a header are bounded
// before they are believed, that a panic of a call ends that call only, and that every error leaves with
// its reason.
package server

import (
	"context"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

// Host does what the API offers. Methods are called concurrently. Their context ends when the caller is
// gone or the server stops. An *reason.Error tells the caller its reason; any other error is Unexpected.
//
// The send functions of streams write one event to the caller and return an error once the caller is
// gone, which the method may return as it is. They are not safe for concurrent use, keep nothing of the
// event, and must not be called after the method has returned.
type Host interface {
	ControlHost
	ClusterHost
	JoinHost
}

// ControlHost is asked by operators.
type ControlHost interface {
	Publish(ctx context.Context, req *v1.PublishRequest, send func(*v1.PublishProgress) error) error
	// PublishStream's receive returns io.EOF once the caller sends no more.
	PublishStream(ctx context.Context, receive func() (*v1.PublishChunk, error), send func(*v1.PublishProgress) error) error
	Read(ctx context.Context, req *v1.ReadRequest, send func(*v1.ReadChunk) error) error
	Pull(ctx context.Context, req *v1.PullRequest, send func(*v1.PullProgress) error) error
	Distribute(ctx context.Context, req *v1.DistributeRequest, send func(*v1.DistributeProgress) error) error
	Unpin(ctx context.Context, req *v1.UnpinRequest) (*v1.UnpinResponse, error)
	List(ctx context.Context, req *v1.ListRequest) (*v1.ListResponse, error)
	Show(ctx context.Context, req *v1.ShowRequest) (*v1.ShowResponse, error)
	Remove(ctx context.Context, req *v1.RemoveRequest) (*v1.RemoveResponse, error)
	Guests(ctx context.Context, req *v1.GuestsRequest) (*v1.GuestsResponse, error)
	WatchGuests(ctx context.Context, req *v1.WatchGuestsRequest, send func(*v1.GuestEvent) error) error
	SetGuest(ctx context.Context, req *v1.SetGuestRequest) (*v1.SetGuestResponse, error)
	AttachShm(ctx context.Context, req *v1.AttachShmRequest) (*v1.AttachShmResponse, error)
	DetachShm(ctx context.Context, req *v1.DetachShmRequest) (*v1.DetachShmResponse, error)
	Prepare(ctx context.Context, req *v1.PrepareRequest, send func(*v1.PrepareProgress) error) error
	Prefetch(ctx context.Context, req *v1.PrefetchRequest, send func(*v1.PrepareProgress) error) error
	CancelStart(ctx context.Context, req *v1.CancelStartRequest) (*v1.CancelStartResponse, error)
	Hosts(ctx context.Context, req *v1.HostsRequest) (*v1.HostsResponse, error)
	ShowHost(ctx context.Context, req *v1.ShowHostRequest) (*v1.ShowHostResponse, error)
	SetHost(ctx context.Context, req *v1.SetHostRequest) (*v1.SetHostResponse, error)
	Status(ctx context.Context, req *v1.StatusRequest) (*v1.StatusResponse, error)
	Verify(ctx context.Context, req *v1.VerifyRequest, send func(*v1.CheckProgress) error) error
	Scrub(ctx context.Context, req *v1.ScrubRequest, send func(*v1.CheckProgress) error) error
	CreateToken(ctx context.Context, req *v1.CreateTokenRequest) (*v1.CreateTokenResponse, error)
	Authorities(ctx context.Context, req *v1.AuthoritiesRequest) (*v1.AuthoritiesResponse, error)
	RotateAuthority(ctx context.Context, req *v1.RotateAuthorityRequest, send func(*v1.RotateAuthorityProgress) error) error
	Drain(ctx context.Context, req *v1.DrainRequest, send func(*v1.DrainProgress) error) error
	Undrain(ctx context.Context, req *v1.UndrainRequest) (*v1.UndrainResponse, error)
	Leave(ctx context.Context, req *v1.LeaveRequest, send func(*v1.LeaveProgress) error) error
	Health(ctx context.Context, req *v1.HealthRequest) (*v1.HealthResponse, error)
	Strays(ctx context.Context, req *v1.StraysRequest) (*v1.StraysResponse, error)
	Adopt(ctx context.Context, req *v1.AdoptRequest) (*v1.AdoptResponse, error)
	SaveCatalogue(ctx context.Context, req *v1.SaveCatalogueRequest, send func(*v1.SaveCatalogueChunk) error) error
	RestoreCatalogue(ctx context.Context, req *v1.RestoreCatalogueRequest) (*v1.RestoreCatalogueResponse, error)
}

// ClusterHost is asked by other hosts. PeerOf tells by which.
type ClusterHost interface {
	Forward(ctx context.Context, req *v1.ForwardRequest) (*v1.ForwardResponse, error)
	Progress(ctx context.Context, req *v1.ProgressRequest) (*v1.ProgressResponse, error)
	Report(ctx context.Context, req *v1.ReportRequest) (*v1.HostReport, error)
	Locate(ctx context.Context, req *v1.LocateRequest) (*v1.LocateResponse, error)
	AuthorityKey(ctx context.Context, req *v1.AuthorityKeyRequest) (*v1.AuthorityKeyResponse, error)
	StraysHere(ctx context.Context, req *v1.StraysHereRequest) (*v1.StraysHereResponse, error)
}

// JoinHost is asked by machines that are no hosts yet: nothing about the caller is proven but what the
// request carries.
type JoinHost interface {
	Join(ctx context.Context, req *v1.JoinRequest) (*v1.JoinResponse, error)
	Renew(ctx context.Context, req *v1.RenewRequest) (*v1.RenewResponse, error)
}
