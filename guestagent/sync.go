package guestagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/guestlink"
)

// journalName is the file in a synchronised directory that says what is there because of Sync: nothing else is touched.
const journalName = ".virtswarm-sync"

// maxJournal bounds it, in bytes: that of about a hundred thousand files.
const maxJournal = 64 << 20

// syncRetry is the pause before what failed is tried again.
const syncRetry = 5 * time.Second

// ErrSynced says that another process keeps this directory.
var ErrSynced = errors.New("another process keeps this directory in sync")

// SyncEvent is one change that Sync has made, or failed to make.
type SyncEvent struct {
	Path    string         `json:"path"` // below the directory
	ID      content.Digest `json:"id,omitzero"`
	Removed bool           `json:"removed,omitempty"`
	Error   string         `json:"error,omitempty"`
}

// SyncOptions says how a directory is kept.
type SyncOptions struct {
	Once  bool            // return once it is as it should be; an error if it cannot be
	Event func(SyncEvent) // may be nil
	Perm  *fs.FileMode    // of the files; see PullOptions
}

// syncing is one call of Sync.
type syncing struct {
	agent   *Agent
	prefix  string
	dir     string
	options SyncOptions
	known   map[string]content.Digest // by path below dir: what is there because of Sync
}

// Sync keeps dir equal to the files below a prefix that this domain may read, until ctx ends. A file appears at its
// name without the prefix up to the last slash of that. What Sync brought and is not given to the domain any more is
// removed; files of others are left alone, and not overwritten.
func (a *Agent) Sync(ctx context.Context, prefix, dir string, o SyncOptions) error {
	s := &syncing{agent: a, prefix: prefix, dir: dir, options: o}
	if o.Event == nil {
		s.options.Event = func(SyncEvent) {}
	}
	lock, err := s.begin()
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	defer lock.Close()
	for {
		err := s.follow(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case o.Once || err != nil && !broken(err) && !errors.Is(err, errIncomplete):
			return err
		}
		a.log().Info("will sync again", "after", syncRetry, "error", err)
		select {
		case <-time.After(syncRetry):
		case <-ctx.Done():
			return nil
		}
	}
}

// errIncomplete: some files could not be brought; the events say which.
var errIncomplete = errors.New("not all files could be synchronised")

// begin makes the directory, takes it, and reads the journal.
func (s *syncing) begin() (lock *os.File, err error) {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return nil, err
	}
	path := disk.Join(s.dir, journalName)
	if lock, err = os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600); err != nil {
		return nil, err
	}
	if err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); errors.Is(err, syscall.EWOULDBLOCK) {
		err = ErrSynced
	}
	if err == nil {
		err = s.readJournal(path)
	}
	if err != nil {
		lock.Close()
		return nil, err
	}
	return lock, nil
}

func (s *syncing) readJournal(path string) error {
	s.known = map[string]content.Digest{}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Size() > maxJournal {
		return fmt.Errorf("%s has %d bytes, at most %d", path, info.Size(), maxJournal)
	}
	p, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(p, &s.known); err != nil {
		return fmt.Errorf("%s is damaged: remove it, and the files that are to be fetched anew: %w", path, err)
	}
	for at := range s.known {
		if !filepath.IsLocal(at) {
			return fmt.Errorf("%s is damaged: it has the path %.200q", path, at)
		}
	}
	return nil
}

// writeJournal replaces the journal as a whole.
func (s *syncing) writeJournal() error {
	p, err := json.Marshal(s.known)
	if err != nil {
		return err
	}
	path := disk.Join(s.dir, journalName)
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(p)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return system.SyncDir(s.dir)
}

// follow makes the directory what it should be, each time that becomes something else, over one link.
func (s *syncing) follow(ctx context.Context) error {
	c, leave, err := s.agent.connect(ctx)
	if err != nil {
		return err
	}
	defer leave()
	t, err := c.talk(ctx, guestlink.ForWatch)
	if err != nil {
		return err
	}
	defer t.Close()
	id, err := t.ask(guestlink.Watch, guestlink.ListRequest{Prefix: s.prefix})
	if err != nil {
		return err
	}
	for {
		if _, err := t.expect(id, guestlink.Changed); err != nil {
			return err
		}
		if err := s.equal(ctx); err != nil || s.options.Once {
			return err
		}
	}
}

// equal makes the directory what it should be now.
func (s *syncing) equal(ctx context.Context) error {
	files, err := s.agent.List(ctx, s.prefix)
	if err != nil {
		return err
	}
	strip := strings.LastIndexByte(s.prefix, '/') + 1
	given := map[string]bool{}
	var failed error
	for _, f := range files {
		at := f.Name[strip:]
		if !filepath.IsLocal(at) || strings.HasPrefix(at, journalName) {
			continue // no host sends such a name
		}
		given[at] = true
		if err := s.bring(ctx, f, at); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			s.options.Event(SyncEvent{Path: at, ID: f.ID, Error: err.Error()})
			failed = fmt.Errorf("%w: %s: %w", errIncomplete, at, err)
		}
	}
	for at := range s.known {
		if given[at] {
			continue
		}
		if err := os.Remove(disk.Join(s.dir, at)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.options.Event(SyncEvent{Path: at, Removed: true, Error: err.Error()})
			failed = fmt.Errorf("%w: %s: %w", errIncomplete, at, err)
			continue
		}
		delete(s.known, at)
		if err := s.writeJournal(); err != nil {
			return localError{err}
		}
		s.prune(filepath.Dir(at))
		s.options.Event(SyncEvent{Path: at, Removed: true})
	}
	return failed
}

// bring makes a file what it should be, if it is not.
func (s *syncing) bring(ctx context.Context, f guestlink.Entry, at string) error {
	path := disk.Join(s.dir, at)
	known, ours := s.known[at]
	_, err := os.Lstat(path)
	switch {
	case err == nil && !ours:
		return fmt.Errorf("a file that is not of the host is there: %w", ErrExists)
	case err == nil && known == f.ID:
		return nil
	}
	if err := os.MkdirAll(disk.Dir(path), 0o755); err != nil {
		return err
	}
	if _, err := s.agent.Pull(ctx, f.Name, path, PullOptions{ID: f.ID, Replace: ours, Perm: s.options.Perm}); err != nil {
		return err
	}
	s.known[at] = f.ID
	if err := s.writeJournal(); err != nil {
		return err
	}
	s.options.Event(SyncEvent{Path: at, ID: f.ID})
	return nil
}

// prune removes directories that are empty now.
func (s *syncing) prune(dir string) {
	for ; dir != "." && os.Remove(disk.Join(s.dir, dir)) == nil; dir = filepath.Dir(dir) {
	}
}
