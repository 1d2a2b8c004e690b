package raft

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk"
)

// maxVote bounds the vote file: a handful of short values.
const maxVote = 64 << 10

// voteStore is the term and the vote on disk: raft.StableStore. The file is one line of JSON and one with the digest
// of the first, replaced as a whole; a host that forgot its vote could vote twice, so a damaged file is an error.
type voteStore struct {
	fs   disk.FS
	path string

	mu     sync.RWMutex
	values votes
}

type votes struct {
	Numbers map[string]uint64 `json:"numbers"`
	Texts   map[string]string `json:"texts"`
}

// keyLives counts how often this host was started; hashicorp/raft has keys of its own.
const keyLives = "Lives"

// keyTerm is hashicorp/raft's, and the first that it sets.
const keyTerm = "CurrentTerm"

// begin counts a life, durably.
func (v *voteStore) begin() (uint64, error) {
	life, err := v.GetUint64([]byte(keyLives))
	if err != nil {
		return 0, err
	}
	return life + 1, v.SetUint64([]byte(keyLives), life+1)
}

// openVotes reads the file; voted is false if there is none, or neither term nor vote in it.
func openVotes(f disk.FS, path string) (v *voteStore, voted bool, err error) {
	v = &voteStore{fs: f, path: path, values: votes{map[string]uint64{}, map[string]string{}}}
	p, err := disk.ReadFile(f, path, maxVote)
	if errors.Is(err, fs.ErrNotExist) {
		return v, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("open Raft vote: %w", err)
	}
	if err := v.values.decode(p); err != nil {
		return nil, false, damaged(path, "%v", err)
	}
	return v, v.values.Numbers[keyTerm] > 0, nil
}

func (v *votes) decode(p []byte) error {
	line, sum, _ := strings.Cut(string(p), "\n")
	if sum != content.Sum([]byte(line)).String()+"\n" {
		return errors.New("the term and vote do not match their checksum")
	}
	if err := json.Unmarshal([]byte(line), v); err != nil || v.Numbers == nil || v.Texts == nil {
		return fmt.Errorf("the term and vote cannot be read: %v", err)
	}
	return nil
}

func (v *votes) encode() ([]byte, error) {
	p, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%s\n%s\n", p, content.Sum(p)), nil
}

// save writes the values; the caller holds the lock.
func (v *voteStore) save() error {
	p, err := v.values.encode()
	if err == nil {
		err = disk.WriteFile(v.fs, v.path, p, 0o600)
	}
	if err != nil {
		return fmt.Errorf("save Raft vote: %w", err)
	}
	return nil
}

// Set implements raft.StableStore; values are text.
func (v *voteStore) Set(key, val []byte) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.values.Texts[string(key)] = string(val)
	return v.save()
}

// Get implements raft.StableStore.
func (v *voteStore) Get(key []byte) ([]byte, error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return []byte(v.values.Texts[string(key)]), nil
}

// SetUint64 implements raft.StableStore.
func (v *voteStore) SetUint64(key []byte, val uint64) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.values.Numbers[string(key)] = val
	return v.save()
}

// GetUint64 implements raft.StableStore.
func (v *voteStore) GetUint64(key []byte) (uint64, error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.values.Numbers[string(key)], nil
}
