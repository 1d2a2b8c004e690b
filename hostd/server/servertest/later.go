package servertest

import (
	"context"
	"errors"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

// errElsewhere is the answer to calls that need a real cluster: package acceptance tests them with real daemons.
var errElsewhere = errors.New("servertest has no such call")

// Health implements server.Host.
func (h *Host) Health(context.Context, *v1.HealthRequest) (*v1.HealthResponse, error) {
	return &v1.HealthResponse{}, nil
}

// Strays implements server.Host.
func (h *Host) Strays(context.Context, *v1.StraysRequest) (*v1.StraysResponse, error) {
	return &v1.StraysResponse{}, nil
}

// StraysHere implements server.Host.
func (h *Host) StraysHere(context.Context, *v1.StraysHereRequest) (*v1.StraysHereResponse, error) {
	return &v1.StraysHereResponse{}, nil
}

// Adopt implements server.Host.
func (h *Host) Adopt(context.Context, *v1.AdoptRequest) (*v1.AdoptResponse, error) {
	return nil, errElsewhere
}

// SaveCatalogue implements server.Host.
func (h *Host) SaveCatalogue(context.Context, *v1.SaveCatalogueRequest, func(*v1.SaveCatalogueChunk) error) error {
	return errElsewhere
}

// RestoreCatalogue implements server.Host.
func (h *Host) RestoreCatalogue(context.Context, *v1.RestoreCatalogueRequest) (*v1.RestoreCatalogueResponse, error) {
	return nil, errElsewhere
}
