package store

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/virtswarm/virtswarm/internal/disk"
)

const (
	stampPrefix = "virtswarm store of cluster "
	maxStamp    = 128 // bytes
)

// Cluster returns the id of the cluster that the store belongs to, as SetCluster was told last; "" if it was told none.
func (s *Store) Cluster() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cluster
}

// SetCluster stamps the store, durably, with the cluster that its host is a member of.
func (s *Store) SetCluster(id string) error {
	s.stamping.Lock()
	defer s.stamping.Unlock()
	if s.Cluster() == id {
		return nil
	}
	if err := disk.WriteFile(s.fs, s.layout.stamp(), []byte(stampPrefix+id+"\n"), filePerm); err != nil {
		return fmt.Errorf("stamp store %s: %w", s.o.Dir, s.explain(err, 0))
	}
	s.mu.Lock()
	s.cluster = id
	s.mu.Unlock()
	return nil
}

// loadStamp reads the stamp. It is a hint: one that cannot be read counts as none.
func (s *Store) loadStamp() {
	p, err := disk.ReadFile(s.fs, s.layout.stamp(), maxStamp)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	id, ok := strings.CutPrefix(strings.TrimSuffix(string(p), "\n"), stampPrefix)
	if err != nil || !ok || !soundText(id) {
		s.log.Info("the store's cluster is not known: its stamp cannot be read", "path", s.layout.stamp(), "error", err)
		return
	}
	s.cluster = id
}
