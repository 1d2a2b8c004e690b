package control

import (
	"context"
	"slices"
	"strings"

	"github.com/virtswarm/virtswarm/placement"
)

// maxPage is how many names a list has at most.
const maxPage = 1000

// File is a version of a name, as the catalogue has it.
type File struct {
	placement.Version
	Name        string
	Content     placement.Content
	Replication placement.Replication
	Publisher   string // the name of the host that published it; its id if it is no member any more
	Versions    int    // of the name
}

// List names files with a prefix, ordered by name, from the one that follows after. limit bounds how many; 0 and too
// much mean as many as a page may have. more says that others follow.
func (f *Files) List(ctx context.Context, prefix, after string, limit int) (files []File, more bool, now Staleness) {
	now = f.fresh(ctx)
	if limit <= 0 || limit > maxPage {
		limit = maxPage
	}
	f.Node.View(func(s *placement.State) {
		names := s.Names(prefix)
		first, found := slices.BinarySearchFunc(names, after, func(n placement.File, after string) int {
			return strings.Compare(n.Name, after)
		})
		if found {
			first++
		}
		names = names[first:]
		if more = len(names) > limit; more {
			names = names[:limit]
		}
		for _, n := range names {
			files = append(files, describe(s, n, n.Newest()))
		}
	})
	return files, more, now
}

// describe describes a version of a name.
func describe(s *placement.State, f placement.File, v placement.Version) File {
	d := File{Version: v, Name: f.Name, Publisher: hostName(s, v.Publisher), Versions: len(f.Versions)}
	d.Content, _ = s.Content(v.ID)
	d.Replication, _ = s.Replication(v.ID)
	return d
}
