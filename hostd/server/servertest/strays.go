package servertest

import (
	"context"
	"errors"
	"slices"

	"google.golang.org/protobuf/proto"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// AddStray puts a stray into the store of a host.
func (h *Host) AddStray(s *v1.Stray) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.strays = append(h.strays, proto.CloneOf(s))
}

// Strays implements server.ControlHost.
func (h *Host) Strays(_ context.Context, req *v1.StraysRequest) (*v1.StraysResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := &v1.StraysResponse{}
	for _, s := range h.strays {
		if req.GetAll() || s.GetHost() == h.self().name {
			r.Strays = append(r.Strays, proto.CloneOf(s))
		}
	}
	if req.GetAll() {
		r.Silent = h.silent()
	}
	return r, nil
}

// silent names the hosts that are down. It is called with mu held.
func (h *Host) silent() (names []string) {
	for _, m := range h.hosts {
		if m.state != v1.HostState_HOST_STATE_ALIVE {
			names = append(names, m.name)
		}
	}
	return names
}

// StraysHere implements server.ClusterHost.
func (h *Host) StraysHere(context.Context, *v1.StraysHereRequest) (*v1.StraysHereResponse, error) {
	return nil, errors.New("servertest has no other hosts")
}

// Adopt implements server.ControlHost, as far as the tool needs it: nothing enters the catalogue.
func (h *Host) Adopt(_ context.Context, req *v1.AdoptRequest) (*v1.AdoptResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.write(); err != nil {
		return nil, err
	}
	r := &v1.AdoptResponse{Silent: h.silent()}
	for _, s := range h.strays {
		for _, name := range s.GetNames() {
			if !req.GetAll() && !slices.Contains(req.GetWhich(), name) {
				continue
			}
			if req.GetAs() != "" {
				name = req.GetAs()
			}
			a := &v1.Adopted{Name: name, Id: s.GetId(), Shards: s.GetShards(), MissingShards: s.GetShards() - s.GetHeldShards()}
			if a.MissingShards > 0 && !req.GetForce() {
				a.Refused, a.Reason = "no host that answers has shards 1 of 2", v1.Reason(reason.NoHolder)
				r.Refused++
			} else {
				r.Entered++
			}
			r.Adopted = append(r.Adopted, a)
		}
	}
	if len(r.Adopted) == 0 {
		return nil, reason.Wrap(reason.NotFound, req.GetWhich()[0], nil)
	}
	return r, nil
}

// SavedCatalogue is what SaveCatalogue sends.
const SavedCatalogue = "a saved catalogue\n"

// SaveCatalogue implements server.ControlHost.
func (h *Host) SaveCatalogue(ctx context.Context, _ *v1.SaveCatalogueRequest, send func(*v1.SaveCatalogueChunk) error) error {
	h.mu.Lock()
	first := &v1.SaveCatalogueChunk{Staleness: h.staleness(), Data: []byte(SavedCatalogue[:3])}
	h.mu.Unlock()
	if err := send(first); err != nil {
		return err
	}
	if err := h.wait(ctx, "save"); err != nil {
		return err
	}
	return send(&v1.SaveCatalogueChunk{Data: []byte(SavedCatalogue[3:])})
}

// RestoreCatalogue implements server.ControlHost: the saved catalogue has one version.
func (h *Host) RestoreCatalogue(_ context.Context, req *v1.RestoreCatalogueRequest) (*v1.RestoreCatalogueResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.write(); err != nil {
		return nil, err
	}
	return &v1.RestoreCatalogueResponse{
		ClusterId: ClusterID, Index: 7, Names: 1, Versions: 2, Present: 1, Entered: 1, LeftOut: []string{"domains (2), of which their hosts tell"},
		Restored: []*v1.Adopted{{Name: req.GetPath(), Id: "b3:00", Shards: 2, MissingShards: 1}}, Silent: h.silent(),
	}, nil
}
