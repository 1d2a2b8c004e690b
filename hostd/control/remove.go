package control

import (
	"context"
	"slices"

	"github.com/virtswarm/virtswarm/placement"
)

// Remove removes a name with all its versions, or the one version that ref means. It returns what is removed, the
// newest first, and the index of the catalogue's entry.
func (f *Files) Remove(ctx context.Context, ref Ref) (removed []File, index uint64, err error) {
	f.fresh(ctx)
	f.Node.View(func(s *placement.State) {
		file, ok := s.File(ref.Name)
		if !ok {
			return // the command says so
		}
		for _, v := range slices.Backward(file.Versions) {
			if ref.ID.IsZero() || v.ID == ref.ID {
				removed = append(removed, describe(s, file, v))
			}
		}
	})
	done, err := f.write(ctx, placement.Command{RemoveFile: &placement.RemoveFile{Name: ref.Name, ID: ref.ID}}, ref.Name)
	return removed, done.Index, err
}
