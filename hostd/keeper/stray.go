package keeper

import (
	"bytes"
	"slices"
	"time"

	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/placement"
)

const (
	// DefaultKeepStrays is how long a stray is kept unless the configuration says otherwise.
	DefaultKeepStrays = 7 * 24 * time.Hour
	// adoptTime is how long a stray stays, whatever its age, after somebody has asked for it in order to adopt it.
	adoptTime = 5 * time.Minute
	// trustClock is how long this process runs before it drops a stray by its age: a machine may boot with a clock that
	// is years ahead, and corrects it within minutes.
	trustClock = time.Hour
)

// stray is what is known of a content on this disk that no catalogue names.
type stray struct {
	// since is a time of this process' clock if the content became a stray in this run: setting the machine's clock does
	// not move it then.
	since time.Time
	held  time.Time // somebody is about to adopt it until then
}

// Stray is a content on this disk that no catalogue names. It is kept for a time as cache, for somebody may adopt it.
type Stray struct {
	File  *store.File
	Since time.Time
	Until time.Time // it is dropped then, or earlier for want of room
}

// Strays returns the strays of this disk, ordered by id. With hold, none of them is dropped or evicted for some
// minutes.
func (k *Keeper) Strays(hold bool) []Stray {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []Stray
	for id, s := range k.strays {
		f, ok := k.cfg.Store.Get(id)
		if !ok || f.HeldBytes() == 0 && f.Manifest().DataBytes() > 0 {
			continue // evicted
		}
		if hold {
			s.held = time.Now().Add(adoptTime)
		}
		all = append(all, Stray{File: f, Since: s.since, Until: k.until(s)})
	}
	slices.SortFunc(all, func(a, b Stray) int {
		x, y := a.File.ID(), b.File.ID()
		return bytes.Compare(x[:], y[:])
	})
	return all
}

// until is when a stray goes by its age.
func (k *Keeper) until(s *stray) time.Time {
	until := s.since.Add(k.cfg.KeepStrays)
	if trusted := k.began.Add(min(trustClock, k.cfg.KeepStrays)); until.Before(trusted) {
		return trusted
	}
	return until
}

// lineage tells catalogues apart: what vanishes when it changes was not removed by anybody.
type lineage struct {
	cluster string
	line    string
}

func lineageOf(s *placement.State) lineage { return lineage{s.ClusterID(), s.Lineage()} }

// vanished drops a content that the catalogue does not name any more, or keeps it as a stray if the catalogue is
// another one than that which named it. It is called with mu held.
func (k *Keeper) vanished(id content.Digest, replaced bool) {
	if !replaced {
		k.drop(id)
		return
	}
	k.forget(id)
	if f, ok := k.cfg.Store.Get(id); ok {
		k.strays[id] = &stray{since: firstSeen(f)}
		k.unnoted = true
	}
}

// firstSeen is since when a file is a stray: by its note, or from now on.
func firstSeen(f *store.File) time.Time {
	now := time.Now()
	if noted := time.Unix(f.Note().StraySince, 0); f.Note().StraySince > 0 && noted.Before(now) {
		return noted
	}
	return now
}

// due says whether the time of a stray has come.
func (k *Keeper) due(s *stray) bool {
	now := time.Now()
	return !now.Before(k.until(s)) && !now.Before(s.held)
}

// nextDue is how long it takes until a stray's time comes. One that could not be dropped is looked at again later.
func (k *Keeper) nextDue() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	wait := lookAnyway
	for _, s := range k.strays {
		at := k.until(s)
		if s.held.After(at) {
			at = s.held
		}
		if left := time.Until(at); left > 0 {
			wait = min(wait, left)
		}
	}
	return wait
}

// StrayBytes is the data in strays.
func (k *Keeper) StrayBytes() (bytes int64) {
	for _, s := range k.Strays(false) {
		bytes += s.File.HeldBytes()
	}
	return bytes
}
