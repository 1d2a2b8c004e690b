package raft

import (
	"path/filepath"
	"testing"

	"github.com/virtswarm/virtswarm/internal/disk"
)

// An empty directory, or empty ones below it, are no data; a vote alone is.
func TestHasData(t *testing.T) {
	for _, tt := range []struct {
		dirs, file string
		want       bool
	}{
		{"", "", false}, {"raft", "", false}, {"raft/log", "", false}, {"raft/snapshots", "", false},
		{"raft", "raft/vote", true}, {"raft/log", "raft/log/0001", true},
		{"raft/snapshots/1", "", true}, {"raft", "raft/note", false},
	} {
		dir := t.TempDir()
		if err := (disk.OS{}).MkdirAll(filepath.Join(dir, tt.dirs), 0o700); err != nil {
			t.Fatal(err)
		}
		if tt.file != "" {
			if err := disk.WriteFile(disk.OS{}, filepath.Join(dir, tt.file), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := HasData(disk.OS{}, filepath.Join(dir, "raft")); got != tt.want || err != nil {
			t.Errorf("with %q and %q: %v, %v, want %v", tt.dirs, tt.file, got, err, tt.want)
		}
	}
}
