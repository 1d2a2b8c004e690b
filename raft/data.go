package raft

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/virtswarm/virtswarm/internal/disk"
)

// HasData reports whether a directory holds anything that a Node has written: a vote, log entries or snapshots. A host
// that took part in a cluster and has none of it has forgotten its promises: it must not vote again under its old id.
func HasData(files disk.FS, dir string) (bool, error) {
	if _, err := files.Lstat(filepath.Join(dir, "vote")); err == nil {
		return true, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("look for Raft data: %w", err)
	}
	for _, name := range []string{"log", "snapshots"} {
		entries, err := files.ReadDir(filepath.Join(dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, fmt.Errorf("look for Raft data: %w", err)
		}
		if len(entries) > 0 {
			return true, nil
		}
	}
	return false, nil
}
