package hostd

import (
	"bufio"
	"context"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/placement"
)

// savePiece is the size of the pieces in which a saved catalogue goes out, in bytes.
const savePiece = 256 << 10

// SaveCatalogue implements server.Host.
func (h *Host) SaveCatalogue(ctx context.Context, _ *v1.SaveCatalogueRequest, send func(*v1.SaveCatalogueChunk) error) error {
	first := &v1.SaveCatalogueChunk{Staleness: h.fresh(ctx)}
	var frozen *placement.Frozen
	h.node.View(func(s *placement.State) {
		frozen = s.Freeze()
		first.Staleness.Index = s.Applied()
	})
	if err := send(first); err != nil {
		return err
	}
	w := bufio.NewWriterSize(pieces(send), savePiece)
	if _, err := frozen.WriteTo(w); err != nil {
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
