package control

import (
	"context"
	"io"

	"github.com/virtswarm/virtswarm/placement"
)

// SaveCatalogue calls begin with the age of the catalogue that follows, and then writes the catalogue to w, as
// RestoreCatalogue reads it.
func (t *Strays) SaveCatalogue(ctx context.Context, w io.Writer, begin func(Staleness) error) error {
	now := t.fresh(ctx)
	var frozen *placement.Frozen
	t.Node.View(func(s *placement.State) {
		frozen = s.Freeze()
		now.Index = s.Applied()
	})
	if err := begin(now); err != nil {
		return err
	}
	_, err := frozen.WriteTo(w)
	return err
}
