package hostd

import (
	"context"
	"errors"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

var errPending = errors.New("not there yet")

func (h *Host) Strays(context.Context, *v1.StraysRequest) (*v1.StraysResponse, error) {
	return nil, errPending
}
func (h *Host) Adopt(context.Context, *v1.AdoptRequest) (*v1.AdoptResponse, error) {
	return nil, errPending
}
func (h *Host) SaveCatalogue(context.Context, *v1.SaveCatalogueRequest, func(*v1.SaveCatalogueChunk) error) error {
	return errPending
}
func (h *Host) RestoreCatalogue(context.Context, *v1.RestoreCatalogueRequest) (*v1.RestoreCatalogueResponse, error) {
	return nil, errPending
}
