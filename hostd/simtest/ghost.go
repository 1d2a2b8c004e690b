package simtest

import (
	"errors"
	"io/fs"
	"strings"

	"github.com/virtswarm/virtswarm/internal/disk"
)

// ghost is the disk of a daemon whose goroutines live on for a moment after it died. Nothing they do reaches the disk;
// but hashicorp/raft panics, and all of the simulation with it, if it is told that its vote could not be saved.
type ghost struct{ disk.FS }

// OpenFile implements disk.FS.
func (g ghost) OpenFile(path string, flag int, perm fs.FileMode) (disk.File, error) {
	f, err := g.FS.OpenFile(path, flag, perm)
	if err != nil || !strings.HasSuffix(path, "/raft/vote") {
		return f, err
	}
	return ghostVote{f}, nil
}

// ghostVote is a vote, which a dead daemon can save.
type ghostVote struct{ disk.File }

func (f ghostVote) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.File.WriteAt(p, off)
	if errors.Is(err, disk.ErrKilled) {
		return len(p), nil
	}
	return n, err
}

func (f ghostVote) Sync() error {
	if err := f.File.Sync(); !errors.Is(err, disk.ErrKilled) {
		return err
	}
	return nil
}
