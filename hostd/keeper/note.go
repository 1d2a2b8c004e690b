package keeper

import (
	"errors"
	"time"

	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/placement"
)

// clockSlack is by how many seconds a noted time may differ from the right one before it is written anew.
const clockSlack = 60

// Remember notes beside a file what the catalogue says of it, for the day on which no catalogue does. It writes only
// what has changed.
func (k *Keeper) Remember(f *store.File) {
	var n store.Note
	var named bool
	k.cfg.Catalogue.View(func(s *placement.State) { n, named = noteOf(s, f.ID()) })
	if named {
		k.write(f, n)
	}
}

// rememberAll does so for those of the contents that are on this disk.
func (k *Keeper) rememberAll(ids []content.Digest) {
	var files []*store.File
	for _, id := range ids {
		if f, ok := k.cfg.Store.Get(id); ok {
			files = append(files, f)
		}
	}
	if len(files) == 0 {
		return
	}
	notes := make([]store.Note, len(files))
	k.cfg.Catalogue.View(func(s *placement.State) {
		for i, f := range files {
			if n, named := noteOf(s, f.ID()); named {
				notes[i] = n
			} else {
				notes[i] = f.Note()
			}
		}
	})
	for i, f := range files {
		k.write(f, notes[i])
	}
}

// noteStrays notes beside each stray since when it is one, and beside one without a note in whose store it was found.
func (k *Keeper) noteStrays() {
	for _, s := range k.Strays(false) {
		n := s.File.Note()
		// A clock that was set meanwhile counts: by it the next run goes.
		if since := time.Now().Add(-time.Since(s.Since)).Unix(); n.StraySince == 0 || since-n.StraySince > clockSlack || n.StraySince-since > clockSlack {
			n.StraySince = since
		}
		if n.Cluster == "" {
			n.Cluster = k.cfg.Store.Cluster()
		}
		k.write(s.File, n)
	}
}

func (k *Keeper) write(f *store.File, n store.Note) {
	err := f.SetNote(n)
	if err != nil && !errors.Is(err, store.ErrRemoved) && !errors.Is(err, store.ErrClosed) {
		k.log.Debug("cannot note what a content is called", "id", f.ID(), "error", err) // the next look tries again
	}
}

// noteOf is what the catalogue says of a content, as far as a note holds it.
func noteOf(s *placement.State, id content.Digest) (store.Note, bool) {
	c, ok := s.Content(id)
	if !ok {
		return store.Note{}, false
	}
	n := store.Note{Cluster: s.ClusterID(), Seen: s.Applied()}
	for _, name := range c.Names[:min(len(c.Names), store.MaxNoteNames)] {
		if v, err := s.Lookup(name, id); err == nil {
			n.Names = append(n.Names, store.NotedName{
				Name: name, Replicas: v.Replicas, Guests: v.Guests, Publisher: string(v.Publisher), At: v.At, Index: v.Index,
			})
		}
	}
	return n, true
}
