package raft

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/raft/raftlog"
)

// voteSlot is the size of a slot, a page: what befalls the writing of one leaves the other alone. A handful of short
// values fit well.
const voteSlot = 4096

// voteStore is the term and the vote on disk: raft.StableStore. A host that forgot its vote could vote twice, and
// hashicorp/raft ends the process if a term cannot be saved; so the file is made once, with all the room that it will
// ever need, and has two slots that both hold the values, each with a checksum and a count. They are overwritten one
// after the other, synced in between: whatever a crash makes of one, the other is whole and holds all that was
// acknowledged. A slot that is not whole is written again when the file is opened; two are damage.
type voteStore struct {
	fs   disk.FS
	path string

	mu     sync.RWMutex
	file   disk.File // nil until the first value is set
	values votes
	slot   int // where the next write begins: not the only one that is whole
	// refuse says why no vote may be given any more, nil if one may; it may be nil.
	refuse func() error
}

type votes struct {
	Count   uint64            `json:"count,omitempty"` // of saves, so that the newer slot is known
	Numbers map[string]uint64 `json:"numbers"`
	Texts   map[string]string `json:"texts"`
}

// openVotes reads the file; voted is false if there is none, or neither term nor vote in it.
func openVotes(f disk.FS, path string) (v *voteStore, voted bool, err error) {
	v = &voteStore{fs: f, path: path, values: votes{Numbers: map[string]uint64{}, Texts: map[string]string{}}}
	if v.file, err = f.OpenFile(path, os.O_RDWR, 0); errors.Is(err, fs.ErrNotExist) {
		v.file = nil
		return v, false, nil
	} else if err == nil {
		err = v.load()
	}
	if err != nil {
		return nil, false, errors.Join(fmt.Errorf("open Raft vote: %w", err), v.Close())
	}
	return v, v.values.Numbers[keyTerm] > 0, nil
}

// load reads the newer slot, and mends the other one.
func (v *voteStore) load() error {
	p := make([]byte, 2*voteSlot)
	if _, err := v.file.ReadAt(p, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	var slots [2]votes
	var errs [2]error
	for i := range slots {
		errs[i] = slots[i].decode(bytes.TrimRight(p[i*voteSlot:(i+1)*voteSlot], "\x00"))
	}
	best := 0
	if errs[0] != nil || errs[1] == nil && slots[1].Count > slots[0].Count {
		best = 1
	}
	if errs[best] != nil {
		return raftlog.Damaged(v.path, "%v", errs[best])
	}
	v.values, v.slot = slots[best], 1-best
	if errs[1-best] == nil && slots[0].Count == slots[1].Count {
		return nil
	}
	page, err := v.values.page()
	if err != nil {
		return err
	}
	return v.put(page)
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

// page is a slot.
func (v *votes) page() ([]byte, error) {
	p, err := v.encode()
	if err == nil && len(p) > voteSlot {
		err = fmt.Errorf("term and vote have %d bytes, at most %d", len(p), voteSlot)
	}
	if err != nil {
		return nil, err
	}
	return append(p, make([]byte, voteSlot-len(p))...), nil
}

// save makes values those of the store, durably; if it fails, what is on disk is what was, or they. The caller holds
// the lock.
func (v *voteStore) save(values votes) error {
	v.values.Count++ // in any case: two slots of one count are one save
	values.Count = v.values.Count
	page, err := values.page()
	switch {
	case err != nil:
	case v.file == nil:
		err = v.create(page)
	default:
		if err = v.put(page); err == nil { // the one slot,
			err = v.put(page) // and then the other
		}
	}
	if err != nil {
		return fmt.Errorf("save Raft vote: %w", err)
	}
	v.values = values
	return nil
}

// create makes the file, with its room.
func (v *voteStore) create(page []byte) (err error) {
	if err := disk.WriteFile(v.fs, v.path, bytes.Repeat(page, 2), 0o600); err != nil {
		return err
	}
	v.file, err = v.fs.OpenFile(v.path, os.O_RDWR, 0)
	return err
}

// put writes the slot whose turn it is, durably. If that fails it stays the slot's turn, as the other one is whole.
func (v *voteStore) put(page []byte) error {
	if _, err := v.file.WriteAt(page, int64(v.slot)*voteSlot); err != nil {
		return err
	}
	if err := v.file.Sync(); err != nil {
		return err
	}
	v.slot = 1 - v.slot
	return nil
}

// keyLife is the number of this host's life, which grows with every start; hashicorp/raft has keys of its own.
const keyLife = "Life"

// keyTerm and keyVoteTerm are hashicorp/raft's: the term is the first that it sets, the other one comes before a vote.
const (
	keyTerm     = "CurrentTerm"
	keyVoteTerm = "LastVoteTerm"
)

// begin numbers a life, durably: by the clock, so that the number is a new one though the file was lost or came from a
// backup, but above the life before, should the clock have been set back. The first one makes the file.
func (v *voteStore) begin(now time.Time) (life, before uint64, err error) {
	if before, err = v.GetUint64([]byte(keyLife)); err != nil {
		return 0, 0, err
	}
	life = max(uint64(max(now.Unix(), 0)), before+1)
	return life, before, v.SetUint64([]byte(keyLife), life)
}

// Set implements raft.StableStore; values are text.
func (v *voteStore) Set(key, val []byte) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	next := v.values
	next.Texts = maps.Clone(next.Texts)
	next.Texts[string(key)] = string(val)
	return v.save(next)
}

// Get implements raft.StableStore.
func (v *voteStore) Get(key []byte) ([]byte, error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return []byte(v.values.Texts[string(key)]), nil
}

// SetUint64 implements raft.StableStore. A host that cannot go on gives no vote any more: Raft may believe of its log
// what is not true.
func (v *voteStore) SetUint64(key []byte, val uint64) error {
	if v.refuse != nil && string(key) == keyVoteTerm {
		if err := v.refuse(); err != nil {
			return fmt.Errorf("no vote is given: %w", err)
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	next := v.values
	next.Numbers = maps.Clone(next.Numbers)
	next.Numbers[string(key)] = val
	return v.save(next)
}

// GetUint64 implements raft.StableStore.
func (v *voteStore) GetUint64(key []byte) (uint64, error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.values.Numbers[string(key)], nil
}

// Close closes the file; everything is on disk.
func (v *voteStore) Close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.file == nil {
		return nil
	}
	return v.file.Close()
}
