package simtest

import (
	"errors"
	"io/fs"
	"strings"

	"github.com/virtswarm/virtswarm/internal/disk"
)

// ghost is the disk of a daemon whose goroutines live on for a moment after it died. Nothing they do reaches the disk;
// but hashicorp/raft panics, and all of the simulation with it, if it is told that its vote could not be saved. For the
// same reason a vote finds room on a full disk.
type ghost struct {
	disk.FS
	m *machine
}

// vote is in every path that it concerns.
const vote = "/raft/vote"

// laid says that a dead daemon has saved its vote.
func laid(path string, err error) error {
	if strings.Contains(path, vote) && errors.Is(err, disk.ErrKilled) {
		return nil
	}
	return err
}

// OpenFile implements disk.FS.
func (g ghost) OpenFile(path string, flag int, perm fs.FileMode) (disk.File, error) {
	f, err := g.FS.OpenFile(path, flag, perm)
	if !strings.Contains(path, vote) || err != nil && laid(path, err) != nil {
		return f, err
	}
	return ghostFile{f, path, g.m}, nil
}

// Rename implements disk.FS.
func (g ghost) Rename(from, to string) error { return laid(to, g.FS.Rename(from, to)) }

// Remove implements disk.FS.
func (g ghost) Remove(path string) error { return laid(path, g.FS.Remove(path)) }

// SyncDir implements disk.FS.
func (g ghost) SyncDir(path string) error {
	err := g.FS.SyncDir(path)
	return laid(path+"/vote", err)
}

// ghostFile is a vote; File is nil if the daemon was dead when it opened it.
type ghostFile struct {
	disk.File
	path string
	m    *machine
}

func (f ghostFile) WriteAt(p []byte, off int64) (int, error) {
	if f.File == nil {
		return len(p), nil
	}
	n, err := f.File.WriteAt(p, off)
	err = f.m.spare(err, func() (err error) { n, err = f.File.WriteAt(p, off); return err })
	if err != nil && laid(f.path, err) == nil {
		return len(p), nil
	}
	return n, err
}

func (f ghostFile) Sync() error {
	if f.File == nil {
		return nil
	}
	return laid(f.path, f.File.Sync())
}

func (f ghostFile) Close() error {
	if f.File == nil {
		return nil
	}
	return f.File.Close()
}
