package raft

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"
	hraft "github.com/hashicorp/raft"

	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/raft/raftlog"
)

const (
	keepSnapshots = 2       // the newest, and one to fall back to by hand
	maxSnapHead   = 1 << 20 // bytes of a head: a configuration of the most hosts is a tenth
	snapSum       = sha256.Size
)

// snapshotStore keeps snapshots as files: raft.SnapshotStore. A file is one line of JSON (snapHead), the catalogue
// as placement wrote it, and the SHA-256 of all that. It gets its name when it is whole and durable.
type snapshotStore struct {
	fs     disk.FS
	dir    string
	logger hclog.Logger
}

// snapHead is what Raft itself must know of a snapshot.
type snapHead struct {
	Version            int                 `json:"raft_snapshot"` // 1
	Index              uint64              `json:"index"`
	Term               uint64              `json:"term"`
	Configuration      hraft.Configuration `json:"configuration"`
	ConfigurationIndex uint64              `json:"configuration_index"`
}

// snapName sorts by index, then term.
func snapName(index, term uint64) string { return fmt.Sprintf("%020d-%020d.snap", index, term) }

// openSnapshots checks all snapshots in dir and removes what a crash left of unfinished ones.
func openSnapshots(f disk.FS, dir string, logger hclog.Logger) (*snapshotStore, error) {
	s := &snapshotStore{f, dir, logger}
	if err := f.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open Raft snapshots: %w", err)
	}
	entries, err := f.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open Raft snapshots: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if strings.HasSuffix(e.Name(), ".tmp") {
			if err := f.Remove(path); err != nil {
				return nil, fmt.Errorf("open Raft snapshots: %w", err)
			}
			continue
		}
		_, r, err := s.Open(e.Name())
		if err != nil {
			return nil, err
		}
		if err := r.Close(); err != nil {
			return nil, fmt.Errorf("open Raft snapshots: %w", err)
		}
	}
	return s, nil
}

// names returns the snapshots, newest first.
func (s *snapshotStore) names() ([]string, error) {
	entries, err := s.fs.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list Raft snapshots: %w", err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".snap") {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	slices.Reverse(names)
	return names, nil
}

// term returns the term of the newest snapshot that ends at an entry, 0 if there is none.
func (s *snapshotStore) term(index uint64) (term uint64) {
	names, err := s.names()
	if err != nil {
		return 0
	}
	for _, name := range names {
		var at, of uint64
		if _, err := fmt.Sscanf(name, "%020d-%020d.snap", &at, &of); err == nil && at == index {
			return of
		}
	}
	return 0
}

// List implements raft.SnapshotStore: newest first.
func (s *snapshotStore) List() ([]*hraft.SnapshotMeta, error) {
	names, err := s.names()
	if err != nil {
		return nil, err
	}
	var metas []*hraft.SnapshotMeta
	for _, name := range names {
		f, meta, _, err := s.head(name)
		if err != nil {
			return nil, err
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
		metas = append(metas, meta)
	}
	return metas, nil
}

// head opens a snapshot file and reads its head; body is where the catalogue begins.
func (s *snapshotStore) head(name string) (_ disk.File, _ *hraft.SnapshotMeta, body int64, err error) {
	path := filepath.Join(s.dir, name)
	f, err := s.fs.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, nil, 0, fmt.Errorf("open Raft snapshot: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	st, err := f.Stat()
	if err != nil {
		return nil, nil, 0, fmt.Errorf("open Raft snapshot: %w", err)
	}
	p := make([]byte, min(st.Size(), maxSnapHead))
	if _, err := f.ReadAt(p, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, 0, fmt.Errorf("open Raft snapshot %s: %w", path, err)
	}
	h, body, err := decodeSnapHead(p)
	if err == nil && (snapName(h.Index, h.Term) != name || st.Size() < body+snapSum) {
		err = errors.New("name or length does not fit")
	}
	if err != nil {
		return nil, nil, 0, raftlog.Damaged(path, "its head cannot be read: %v", err)
	}
	return f, &hraft.SnapshotMeta{
		Version: 1, ID: name, Index: h.Index, Term: h.Term, Size: st.Size() - body - snapSum,
		Configuration: h.Configuration, ConfigurationIndex: h.ConfigurationIndex,
	}, body, nil
}

func decodeSnapHead(p []byte) (snapHead, int64, error) {
	var h snapHead
	i := bytes.IndexByte(p, '\n')
	if i < 0 {
		return h, 0, errors.New("no first line")
	}
	if err := json.Unmarshal(p[:i], &h); err != nil {
		return h, 0, err
	}
	if h.Version != 1 {
		return h, 0, fmt.Errorf("version %d", h.Version)
	}
	return h, int64(i + 1), nil
}

// Open implements raft.SnapshotStore: the whole file is verified before the first byte is handed out.
func (s *snapshotStore) Open(id string) (*hraft.SnapshotMeta, io.ReadCloser, error) {
	f, meta, body, err := s.head(id)
	if err != nil {
		return nil, nil, err
	}
	if err := verifySnapshot(f, body+meta.Size); err != nil {
		return nil, nil, errors.Join(raftlog.Damaged(filepath.Join(s.dir, id), "%v", err), f.Close())
	}
	return meta, snapReader{io.NewSectionReader(f, body, meta.Size), f}, nil
}

type snapReader struct {
	io.Reader
	io.Closer
}

// verifySnapshot compares the first n bytes with the sum behind them.
func verifySnapshot(f disk.File, n int64) error {
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, n)); err != nil {
		return err
	}
	var want [snapSum]byte
	if _, err := f.ReadAt(want[:], n); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if !bytes.Equal(sum.Sum(nil), want[:]) {
		return errors.New("the snapshot does not match its checksum")
	}
	return nil
}

// Create implements raft.SnapshotStore.
func (s *snapshotStore) Create(version hraft.SnapshotVersion, index, term uint64, c hraft.Configuration, at uint64, _ hraft.Transport) (hraft.SnapshotSink, error) {
	if version != 1 {
		return nil, fmt.Errorf("create Raft snapshot: unknown version %d", version)
	}
	head, err := json.Marshal(snapHead{1, index, term, c, at})
	if err != nil {
		return nil, fmt.Errorf("create Raft snapshot: %w", err)
	}
	k := &snapSink{store: s, name: snapName(index, term), sum: sha256.New()}
	if k.file, err = s.fs.OpenFile(k.temp(), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
		return nil, fmt.Errorf("create Raft snapshot: %w", err)
	}
	if _, err := k.Write(append(head, '\n')); err != nil {
		return nil, errors.Join(err, k.Cancel())
	}
	return k, nil
}

// snapSink writes one snapshot: raft.SnapshotSink. It is not safe for concurrent use.
type snapSink struct {
	store *snapshotStore
	name  string
	file  disk.File // nil when closed or cancelled
	sum   hash.Hash
	size  int64
}

func (k *snapSink) path() string { return filepath.Join(k.store.dir, k.name) }
func (k *snapSink) temp() string { return k.path() + ".tmp" }

// ID implements raft.SnapshotSink.
func (k *snapSink) ID() string { return k.name }

func (k *snapSink) Write(p []byte) (int, error) {
	if k.file == nil {
		return 0, os.ErrClosed
	}
	n, err := k.file.WriteAt(p, k.size)
	k.sum.Write(p[:n])
	k.size += int64(n)
	if err != nil {
		return n, fmt.Errorf("write Raft snapshot %s: %w", k.name, err)
	}
	return n, nil
}

// Close makes the snapshot durable and gives it its name.
func (k *snapSink) Close() error {
	if k.file == nil {
		return nil
	}
	if err := k.finish(); err != nil {
		return errors.Join(fmt.Errorf("finish Raft snapshot %s: %w", k.name, err), k.Cancel())
	}
	k.store.reap()
	return nil
}

func (k *snapSink) finish() error {
	if _, err := k.file.WriteAt(k.sum.Sum(nil), k.size); err != nil {
		return err
	}
	if err := k.file.Sync(); err != nil {
		return err
	}
	err := k.file.Close()
	k.file = nil
	if err != nil {
		return err
	}
	if err := k.store.fs.Rename(k.temp(), k.path()); err != nil {
		return err
	}
	return k.store.fs.SyncDir(k.store.dir)
}

// Cancel implements raft.SnapshotSink.
func (k *snapSink) Cancel() error {
	var err error
	if k.file != nil {
		err, k.file = k.file.Close(), nil
	}
	if rm := k.store.fs.Remove(k.temp()); rm != nil && !errors.Is(rm, os.ErrNotExist) {
		err = errors.Join(err, rm)
	}
	return err
}

// reap removes old snapshots; a failure costs space only.
func (s *snapshotStore) reap() {
	names, err := s.names()
	for i := keepSnapshots; err == nil && i < len(names); i++ {
		err = s.fs.Remove(filepath.Join(s.dir, names[i]))
	}
	if err != nil {
		s.logger.Warn("cannot remove an old snapshot", "error", err)
	}
}
