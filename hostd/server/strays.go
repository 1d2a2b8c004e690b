package server

import (
	"bufio"
	"context"
	"errors"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/virtswarm/virtswarm/hostd/control"
	"github.com/virtswarm/virtswarm/internal/api"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/reason"
	"github.com/virtswarm/virtswarm/placement"
)

const (
	// strayPage bounds a page of strays, in bytes; maxStrays, how many one host is asked for.
	strayPage = api.MaxMessage / 4
	maxStrays = 1 << 17
	// listRoom is the room in an answer for a list of strays, or of what became of them, in bytes.
	listRoom = api.MaxMessage * 3 / 4
	// savePiece is the size of the pieces in which a saved catalogue goes out, in bytes.
	savePiece = 256 << 10
)

// StraysHere implements ClusterHost.
func (o *Operations) StraysHere(ctx context.Context, req *v1.StraysHereRequest) (*v1.StraysHereResponse, error) {
	all, err := o.StrayOps.Here(ctx, req.GetHold())
	if err != nil {
		return nil, err
	}
	first, found := slices.BinarySearchFunc(all, req.GetAfter(), func(s control.Stray, after string) int {
		return strings.Compare(s.ID.String(), after)
	})
	if found {
		first++
	}
	r := &v1.StraysHereResponse{}
	size := 0
	for _, s := range all[first:] {
		m := strayHere(s)
		if size += proto.Size(m); size > strayPage && len(r.Strays) > 0 {
			r.More = true
			break
		}
		r.Strays = append(r.Strays, m)
	}
	return r, nil
}

// Strays implements ControlHost.
func (o *Operations) Strays(ctx context.Context, req *v1.StraysRequest) (*v1.StraysResponse, error) {
	all, silent, err := o.StrayOps.Strays(ctx, req.GetAll())
	if err != nil {
		return nil, err
	}
	r := &v1.StraysResponse{Silent: silent}
	size := 0
	for _, s := range all {
		m := stray(s)
		if size += proto.Size(m); size > listRoom {
			r.LeftOut++
			continue
		}
		r.Strays = append(r.Strays, m)
	}
	return r, nil
}

func stray(s control.Stray) *v1.Stray {
	return &v1.Stray{
		HostId: string(s.Host), Host: s.HostName, Id: s.ID.String(), Size: uint64(s.Size), DataBytes: uint64(s.DataBytes),
		Shards: uint32(s.Shards), HeldShards: uint32(s.Held.Count(s.Shards)), HeldBytes: uint64(s.HeldBytes), Names: s.NameList(),
		Cluster: s.Cluster, Since: s.Since.Unix(), Until: s.Until.Unix(),
	}
}

func strayHere(s control.Stray) *v1.StrayHere {
	return &v1.StrayHere{
		Stray: stray(s), ChunkSize: uint32(s.ChunkSize), Held: s.Held.String(), Seen: s.Seen,
		Names: list(s.Names, func(n control.StrayName) *v1.StrayName {
			return &v1.StrayName{
				Name: n.Name, Replicas: uint32(n.Replicas), Guests: n.Guests, Publisher: string(n.Publisher), At: n.At, Index: n.Index,
			}
		}),
	}
}

// strayOf is the inverse of strayHere. Another host may have sent anything.
func strayOf(m *v1.StrayHere) (control.Stray, error) {
	id, err := content.ParseDigest(m.GetStray().GetId())
	if err != nil {
		return control.Stray{}, err
	}
	held, err := placement.ParseShardSet(m.GetHeld())
	if err != nil {
		return control.Stray{}, err
	}
	s := m.GetStray()
	return control.Stray{
		Host: placement.HostID(s.GetHostId()), HostName: s.GetHost(), ID: id, Size: int64(s.GetSize()), DataBytes: int64(s.GetDataBytes()),
		HeldBytes: int64(s.GetHeldBytes()), ChunkSize: int(m.GetChunkSize()), Shards: int(s.GetShards()), Held: held,
		Since: timeOf(s.GetSince()), Until: timeOf(s.GetUntil()), Cluster: s.GetCluster(), Seen: m.GetSeen(),
		Names: list(m.GetNames(), func(n *v1.StrayName) control.StrayName {
			return control.StrayName{
				Name: n.GetName(), Replicas: int(n.GetReplicas()), Guests: n.GetGuests(), Publisher: placement.HostID(n.GetPublisher()),
				At: n.GetAt(), Index: n.GetIndex(),
			}
		}),
	}, nil
}

// Adopt implements ControlHost.
func (o *Operations) Adopt(ctx context.Context, req *v1.AdoptRequest) (*v1.AdoptResponse, error) {
	a := control.Adoption{Which: req.GetWhich(), All: req.GetAll(), As: req.GetAs(), Force: req.GetForce()}
	if req.Replicas != nil {
		a.Replicas = new(int(req.GetReplicas()))
	}
	r, err := o.StrayOps.Adopt(ctx, a)
	if err != nil {
		return nil, err
	}
	return &v1.AdoptResponse{
		Adopted: adopted(r.Entries), Silent: r.Silent, Entered: uint32(r.Entered), Refused: uint32(r.Refused),
	}, nil
}

// adopted gives what became of entries in the API's words, as many as an answer has room for.
func adopted(entries []control.Adopted) (all []*v1.Adopted) {
	size := 0
	for _, e := range entries {
		m := &v1.Adopted{Name: e.Name, Id: idText(e.ID), Shards: uint32(e.Shards), MissingShards: uint32(e.MissingShards)}
		if e.Refused != nil {
			m.Refused, m.Reason = refusal(e.Refused), v1.Reason(reason.Of(e.Refused))
		}
		if size += proto.Size(m); size > listRoom {
			break
		}
		all = append(all, m)
	}
	return all
}

// refusal says why an entry was refused, and what to do.
func refusal(err error) string {
	e := reason.As(err, "")
	text := e.Error()
	if e.Err != nil {
		text = e.Err.Error()
	}
	if e.Hint != "" {
		text += "; " + e.Hint
	} else if errors.Is(err, placement.ErrHides) {
		text += "; to have it as well, enter it under another name: virtswarm adopt ID `as` NAME"
	}
	return text
}

// SaveCatalogue implements ControlHost.
func (o *Operations) SaveCatalogue(ctx context.Context, _ *v1.SaveCatalogueRequest, send func(*v1.SaveCatalogueChunk) error) error {
	w := bufio.NewWriterSize(pieces(send), savePiece)
	err := o.StrayOps.SaveCatalogue(ctx, w, func(now control.Staleness) error {
		return send(&v1.SaveCatalogueChunk{Staleness: staleness(now)})
	})
	if err != nil {
		return err
	}
	return w.Flush()
}

// pieces sends what is written to it.
type pieces func(*v1.SaveCatalogueChunk) error

func (p pieces) Write(b []byte) (int, error) {
	for n := 0; n < len(b); n += savePiece {
		if err := p(&v1.SaveCatalogueChunk{Data: b[n:min(len(b), n+savePiece)]}); err != nil {
			return n, err
		}
	}
	return len(b), nil
}

// RestoreCatalogue implements ControlHost.
func (o *Operations) RestoreCatalogue(ctx context.Context, req *v1.RestoreCatalogueRequest) (*v1.RestoreCatalogueResponse, error) {
	r, err := o.StrayOps.RestoreCatalogue(ctx, req.GetPath(), req.GetDryRun())
	if err != nil {
		return nil, err
	}
	return &v1.RestoreCatalogueResponse{
		ClusterId: r.Cluster, Index: r.Index, Names: uint32(r.Names), Versions: uint32(r.Versions), Present: uint32(r.Present),
		Restored: adopted(r.Entries), Entered: uint32(r.Entered), Refused: uint32(r.Refused), Silent: r.Silent, LeftOut: r.LeftOut,
		DryRun: req.GetDryRun(),
	}, nil
}
