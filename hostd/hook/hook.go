package hook

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/virtswarm/virtswarm/hostd/fetch"
	"github.com/virtswarm/virtswarm/hostd/store"
	"github.com/virtswarm/virtswarm/hostd/swarm"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/placement"

	"github.com/virtswarm/virtswarm/internal/reason"
)

const (
	// readPatience is how long a file that this host's catalogue does not know is asked of the leader's.
	readPatience = 3 * time.Second
	// dirPerm is that of a directory that is made for a path.
	dirPerm = 0o755
)

var (
	// ErrOccupied: something else is where a file is to be.
	ErrOccupied = reason.Sentinel(reason.DestExists, "the path is taken by something else")
	// ErrNoSuchFile: the catalogue has no such name or version.
	ErrNoSuchFile = reason.Sentinel(reason.NotFound, "no such file in the cluster")
)

// Catalogue is the replicated state as this host has it. It is called concurrently.
type Catalogue interface {
	ReadIndex(ctx context.Context) error
	View(f func(*placement.State))
}

// Fetcher is the read path. It is called concurrently.
type Fetcher interface {
	Open(ctx context.Context, id content.Digest, purpose fetch.Priority) (*fetch.Handle, error)
}

// Config is what a Hook works with. All fields but Logger are needed.
type Config struct {
	Catalogue Catalogue
	Fetch     Fetcher
	FS        disk.FS
	Dir       string // where the journal is kept; it must exist
	Logger    hclog.Logger
}

// Progress says how far a need is.
type Progress struct {
	Need        int // which, from 0
	Name        string
	Have, Total int64   // bytes of its data in the store
	Rate        float64 // bytes a second
}

// Hook makes files present. Its methods are safe for concurrent use.
type Hook struct {
	cfg     Config
	log     hclog.Logger
	journal *journal

	mu   sync.Mutex
	busy map[string]chan struct{} // paths that are being filled
}

// New reads the journal.
func New(cfg Config) (*Hook, error) {
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	j, err := openJournal(cfg.FS, filepath.Join(cfg.Dir, "exposed.json"))
	if err != nil {
		return nil, err
	}
	return &Hook{cfg: cfg, log: cfg.Logger, journal: j, busy: map[string]chan struct{}{}}, nil
}

// Prepare makes all needs present, one after the other, and returns nil once they are: what is missing is fetched,
// which takes as long as ctx allows. progress, if set, is told now and then; calls do not overlap.
//
// An error names the file. It is ErrNoSuchFile, ErrOccupied, swarm.ErrNoHolder, store.ErrNoSpace, that of ctx or of a
// disk. What was made present before stays.
func (h *Hook) Prepare(ctx context.Context, needs []placement.Need, progress func(Progress)) error {
	if progress == nil {
		progress = func(Progress) {}
	}
	for i, need := range needs {
		err := h.prepare(ctx, need, func(p Progress) {
			p.Need, p.Name = i, need.Name
			progress(p)
		})
		if err != nil {
			return fmt.Errorf("%s: %w", need.Name, err)
		}
	}
	return nil
}

func (h *Hook) prepare(ctx context.Context, need placement.Need, progress func(Progress)) error {
	if need.Path != "" {
		done, err := h.claim(ctx, need.Path)
		if err != nil {
			return err
		}
		defer done()
		if present, err := h.present(need); present || err != nil {
			return err
		}
	}
	id, err := h.resolve(ctx, need)
	if err != nil {
		return err
	}
	image, err := h.cfg.Fetch.Open(ctx, id, swarm.Start)
	if err != nil {
		return err
	}
	defer image.Close()
	tell := func(p fetch.Progress) {
		if !p.Exporting {
			progress(Progress{Have: p.Done, Total: p.Total, Rate: p.Rate})
		}
	}
	if err := image.Wait(ctx, tell, image.All()); err != nil || need.Path == "" {
		return err
	}
	return h.expose(ctx, image, need, tell)
}

// claim waits until nobody else fills a path.
func (h *Hook) claim(ctx context.Context, path string) (done func(), err error) {
	for {
		h.mu.Lock()
		other := h.busy[path]
		if other == nil {
			mine := make(chan struct{})
			h.busy[path] = mine
			h.mu.Unlock()
			return func() {
				h.mu.Lock()
				defer h.mu.Unlock()
				delete(h.busy, path)
				close(mine)
			}, nil
		}
		h.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for another start that fills %s: %w", path, ctx.Err())
		}
	}
}

// present says whether a need is met by what this host has put at its path.
func (h *Hook) present(need placement.Need) (bool, error) {
	e, ok := h.journal.get(need.Path)
	if !ok {
		return false, nil
	}
	fi, err := h.cfg.FS.Lstat(need.Path)
	if err != nil {
		return false, nil // it was removed: it is put there again
	}
	if need.ID != "" && need.ID != e.ID {
		return false, fmt.Errorf("%w: %s holds version %s, and images may build on it; name another path", ErrOccupied, need.Path, e.ID)
	}
	if !e.is(fi) { // a guest may write to its own disk
		h.log.Info("a file was changed since it was put at its path, and stays so", "file", need.Name, "path", need.Path)
	}
	return true, nil
}

// resolve finds the version that is needed.
func (h *Hook) resolve(ctx context.Context, need placement.Need) (content.Digest, error) {
	var id content.Digest
	if need.ID != "" {
		var err error
		if id, err = content.ParseDigest(need.ID); err != nil {
			return id, fmt.Errorf("%w: %w", ErrNoSuchFile, err)
		}
		if id.IsZero() { // to the catalogue it would mean the newest version
			return id, fmt.Errorf("%w: no content has the version %s", ErrNoSuchFile, need.ID)
		}
	}
	look := func() (v placement.Version, err error) {
		h.cfg.Catalogue.View(func(s *placement.State) { v, err = s.Lookup(need.Name, id) })
		return v, err
	}
	v, err := look()
	if err != nil { // it may have been published a moment ago
		ctx, cancel := context.WithTimeout(ctx, readPatience)
		defer cancel()
		if stale := h.cfg.Catalogue.ReadIndex(ctx); stale != nil {
			return id, fmt.Errorf("%w, as far as this host knows, which hears no leader: %w", ErrNoSuchFile, err)
		}
		if v, err = look(); err != nil {
			return id, fmt.Errorf("%w: %w", ErrNoSuchFile, err)
		}
	}
	return v.ID, nil
}

// expose puts an image at its path and notes that it did.
func (h *Hook) expose(ctx context.Context, image *fetch.Handle, need placement.Need, progress func(fetch.Progress)) error {
	if err := disk.MakeDir(h.cfg.FS, filepath.Dir(need.Path), dirPerm); err != nil {
		return fmt.Errorf("make the directory of %s: %w", need.Path, err)
	}
	m := image.Manifest()
	switch err := image.Export(ctx, need.Path, store.ExportOptions{}, progress); {
	case errors.Is(err, store.ErrExists):
		return h.adopt(ctx, m, need.Path)
	case err != nil:
		return err
	}
	h.log.Info("put a file at its path", "file", need.Name, "id", m.ID(), "path", need.Path)
	return h.note(need.Path, m.ID())
}

// note enters what is at a path in the journal.
func (h *Hook) note(path string, id content.Digest) error {
	fi, err := h.cfg.FS.Lstat(path)
	if err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	return h.journal.put(path, entryOf(id, fi))
}

// adopt takes what is at a path, but was not put there as far as the journal knows, for the file if it has all of its
// bytes: it was pulled there, or comes from a crash before the journal was written.
func (h *Hook) adopt(ctx context.Context, m *content.Manifest, path string) error {
	fi, err := h.cfg.FS.Lstat(path)
	if err != nil || !fi.Mode().IsRegular() || fi.Size() != m.Size() { // a pipe would keep who opens it
		return fmt.Errorf("%w: %s is not %s", ErrOccupied, path, m.ID())
	}
	f, err := h.cfg.FS.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	defer f.Close()
	buf := make([]byte, m.ChunkSize())
	for i := range m.Chunks() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		p := buf[:m.ChunkLen(i)]
		if _, err := f.ReadAt(p, m.Offset(i)); err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		if m.Verify(i, p) != nil {
			return fmt.Errorf("%w: %s is not %s", ErrOccupied, path, m.ID())
		}
	}
	h.log.Info("found a file at its path", "id", m.ID(), "path", path)
	return h.note(path, m.ID())
}

// Exposed returns which content is at a path, if this host has put it there and it was not changed since.
func (h *Hook) Exposed(path string) (content.Digest, bool) {
	e, ok := h.journal.get(path)
	if !ok {
		return content.Digest{}, false
	}
	if fi, err := h.cfg.FS.Lstat(path); err != nil || !e.is(fi) {
		return content.Digest{}, false
	}
	id, err := content.ParseDigest(e.ID)
	return id, err == nil
}
