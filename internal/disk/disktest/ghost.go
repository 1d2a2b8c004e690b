package disktest

import (
	"errors"
	"io/fs"
	"strings"

	"github.com/virtswarm/virtswarm/internal/disk"
)

// Ghost is the disk, for tests, of a daemon whose goroutines live on for a moment after a [Fault] killed it. Nothing
// they do reaches the disk; but hashicorp/raft panics, and every other daemon of the test with it, if it is told that
// its vote could not be saved.
type Ghost struct {
	disk.FS
	Vote string // how the path of the file ends that a dead daemon is told it has written and synced
	// Silence is called before it is told so, and takes the daemon off the network: nobody else must believe it.
	Silence func()
}

// OpenFile implements disk.FS.
func (g Ghost) OpenFile(path string, flag int, perm fs.FileMode) (disk.File, error) {
	f, err := g.FS.OpenFile(path, flag, perm)
	if err != nil || !strings.HasSuffix(path, g.Vote) {
		return f, err
	}
	return ghostVote{f, g.Silence}, nil
}

// ghostVote is a vote, which a dead daemon can save.
type ghostVote struct {
	disk.File
	silence func()
}

func (f ghostVote) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.File.WriteAt(p, off)
	if errors.Is(err, ErrKilled) {
		f.silence()
		return len(p), nil
	}
	return n, err
}

func (f ghostVote) Sync() error {
	err := f.File.Sync()
	if errors.Is(err, ErrKilled) {
		f.silence()
		return nil
	}
	return err
}
