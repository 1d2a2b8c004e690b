package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/virtswarm/virtswarm/internal/disk"
)

const (
	// maxPart bounds the note of a part, in bytes: no path is longer.
	maxPart = 4096
	// keepParts is how long the note of a part is kept that is not where the note says: its file system may be mounted
	// only later.
	keepParts = 30 * 24 * time.Hour
)

// partFile is a file that is being exported. It gets its name once it is whole. Where the file system has no files
// without a name it has a hidden one until then, and a note in parts/ says which: if the process dies, the next Open
// removes it.
type partFile struct {
	disk.File
	store *Store
	id    string // of the note
	path  string // the hidden name; "" if there is none
}

func hiddenName(id string) string { return ".virtswarm-" + id + ".part" }

// newPart makes a file, which only its owner may read, to be named dest.
func (s *Store) newPart(dest string) (*partFile, error) {
	dir := disk.Dir(dest)
	f, err := s.fs.CreateUnnamed(dir, filePerm)
	if err == nil {
		return &partFile{File: f, store: s}, nil
	}
	if !errors.Is(err, disk.ErrNoUnnamed) {
		return nil, err
	}
	s.sweepParts()
	p := &partFile{store: s, id: rand.Text()}
	p.path = disk.Join(dir, hiddenName(p.id))
	s.mu.Lock()
	s.parts[p.id] = true
	s.mu.Unlock()
	err = disk.MakeDir(s.fs, s.layout.parts(), dirPerm)
	if err == nil {
		err = disk.WriteFile(s.fs, p.note(), []byte(p.path), filePerm)
	}
	if err != nil { // a full disk here is no reason not to write there
		s.log.Warn("cannot note where a file is being made: if the daemon is killed now, it stays", "path", p.path, "error", err)
	}
	if p.File, err = s.fs.OpenFile(p.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, filePerm); err != nil {
		p.forget()
		return nil, err
	}
	return p, nil
}

func (p *partFile) note() string { return filepath.Join(p.store.layout.parts(), p.id) }

// link gives the file its name. It fails with fs.ErrExist, atomically, if something is there.
func (p *partFile) link(dest string) error {
	if p.path == "" {
		return p.File.Link(dest)
	}
	if err := p.store.fs.RenameNew(p.path, dest); err != nil {
		return err
	}
	p.path = ""
	p.forget()
	return nil
}

// close removes what has got no name.
func (p *partFile) close() error {
	err := p.File.Close()
	if p.path != "" {
		err = errors.Join(err, ignoreMissing(p.store.fs.Remove(p.path)))
		p.forget()
	}
	return err
}

// forget removes the note.
func (p *partFile) forget() {
	if err := ignoreMissing(p.store.fs.Remove(p.note())); err != nil {
		p.store.log.Debug("cannot remove the note of a file that was being made", "path", p.note(), "error", err)
	}
	p.store.mu.Lock()
	defer p.store.mu.Unlock()
	delete(p.store.parts, p.id)
}

// sweepParts removes the parts that were being made when a process died.
func (s *Store) sweepParts() {
	entries, err := s.fs.ReadDir(s.layout.parts())
	if err != nil {
		return // there were never any
	}
	for _, e := range entries {
		s.mu.Lock()
		alive := s.parts[e.Name()]
		s.mu.Unlock()
		if alive {
			continue
		}
		if err := s.sweepPart(e); err != nil {
			s.log.Warn("cannot remove a file that was not made to its end", "error", err)
		}
	}
}

func (s *Store) sweepPart(e fs.DirEntry) error {
	note := filepath.Join(s.layout.parts(), e.Name())
	p, err := disk.ReadFile(s.fs, note, maxPart)
	if err != nil {
		return err
	}
	path := string(p)
	if disk.Base(path) != hiddenName(e.Name()) { // torn, or none of ours: what it names is left alone
		return s.fs.Remove(note)
	}
	st, err := s.fs.Lstat(path)
	if err == nil && st.Mode().IsRegular() {
		err = s.fs.Remove(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) < keepParts {
			return nil
		}
		err = nil
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	s.log.Info("removed a file that was being made when the daemon died", "path", path)
	return s.fs.Remove(note)
}
