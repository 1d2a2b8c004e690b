package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	boltdb "github.com/hashicorp/raft-boltdb/v2"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metrics"
	"github.com/hashicorp/raft-wal/verifier"

	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/raft/raftlog"
)

// entrySize is the length of an entry's data: what a command of the catalogue has.
const entrySize = 300

// store is a log as Raft uses it.
type store interface {
	raft.LogStore
	io.Closer
}

// kind is a way to keep a log in a directory.
type kind struct {
	name string
	open func(dir string) (store, error)
}

// make makes the directory and opens the log in it.
func (k kind) make(dir string) (store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return k.open(dir)
}

// kinds begins with ours, which the others are compared with.
var kinds = []kind{
	{"ours", func(dir string) (store, error) { return raftlog.Open(disk.OS{}, dir, hclog.NewNullLogger()) }},
	{"raft-wal", openWAL},
	{"raft-wal under its verifier", func(dir string) (store, error) {
		s, err := openWAL(dir)
		if err != nil {
			return nil, err
		}
		v := &verified{reports: make(chan verifier.VerificationReport, 1)}
		isCheckpoint := func(l *raft.Log) (bool, error) { return bytes.Equal(l.Data, checkpointData), nil }
		report := func(r verifier.VerificationReport) { v.reports <- r }
		v.LogStore = verifier.NewLogStore(s, isCheckpoint, report, &metrics.NoOpCollector{})
		return v, nil
	}},
	{"raft-boltdb", func(dir string) (store, error) { return boltdb.NewBoltStore(filepath.Join(dir, "raft.db")) }},
}

func openWAL(dir string) (store, error) { return wal.Open(dir) }

// verified is a log under raft-wal's verifier.
type verified struct {
	*verifier.LogStore
	reports chan verifier.VerificationReport
}

// checkpointData marks an entry as a checkpoint.
var checkpointData = []byte("checkpoint")

// checkpoint does what Raft does with a host that comes back with a shorter log, and tells what the verifier makes of
// it: the leader sends the entries that are missing, and then its checkpoint over all of them.
func (v *verified) checkpoint(last, count uint64) string {
	for i := last + 1; i <= count; i++ {
		if err := v.StoreLogs([]*raft.Log{entry(i, 1)}); err != nil {
			return fmt.Sprint("an append fails: ", err)
		}
	}
	mark := entry(count+1, 1)
	mark.Data = checkpointData
	mark.Extensions = leaderSum(count)
	if err := v.StoreLogs([]*raft.Log{mark}); err != nil {
		return fmt.Sprint("a checkpoint fails: ", err)
	}
	select {
	case r := <-v.reports:
		if r.Err != nil {
			return fmt.Sprint("at the next checkpoint it reports: ", r.Err)
		}
		return "at the next checkpoint it reports that all is right"
	case <-time.After(10 * time.Second):
		return "it reports nothing"
	}
}

// leaderSum is what a leader whose log is whole puts into its checkpoint after count entries.
func leaderSum(count uint64) []byte {
	isCheckpoint := func(l *raft.Log) (bool, error) { return bytes.Equal(l.Data, checkpointData), nil }
	leader := verifier.NewLogStore(raft.NewInmemStore(), isCheckpoint, func(verifier.VerificationReport) {}, &metrics.NoOpCollector{})
	defer leader.Close()
	for i := uint64(1); i <= count; i++ {
		if err := leader.StoreLogs([]*raft.Log{entry(i, 1)}); err != nil {
			panic(err) // in memory
		}
	}
	mark := entry(count+1, 1)
	mark.Data = checkpointData
	if err := leader.StoreLogs([]*raft.Log{mark}); err != nil {
		panic(err)
	}
	return mark.Extensions
}

// entry is an entry whose bytes no other has.
func entry(index, term uint64) *raft.Log {
	p := make([]byte, entrySize)
	rng := rand.New(rand.NewPCG(index, term))
	for i := range p {
		p[i] = byte(rng.Uint32())
	}
	return &raft.Log{Index: index, Term: term, Type: raft.LogCommand, Data: p}
}

// differsError says that a store gave out another entry than it was given.
type differsError uint64

func (e differsError) Error() string { return fmt.Sprintf("entry %d is another one", uint64(e)) }

// check reads one entry and compares it.
func check(s store, index, term uint64) error {
	var l raft.Log
	if err := s.GetLog(index, &l); err != nil {
		return err
	}
	if want := entry(index, term); l.Index != index || l.Term != term || !bytes.Equal(l.Data, want.Data) {
		return differsError(index)
	}
	return nil
}

// damage is what may befall the files of a log.
type damage struct {
	name string
	what func(count uint64) string
	do   func(dir string, count uint64) error
}

var damages = []damage{
	{"cut", func(uint64) string { return "file cut to half of what was written" }, func(dir string, count uint64) error {
		return cut(dir, count, func(written int) int { return written / 2 })
	}},
	{"emptied", func(uint64) string { return "file emptied" }, func(dir string, count uint64) error {
		return cut(dir, count, func(int) int { return 0 })
	}},
	{"flip", func(count uint64) string { return fmt.Sprintf("a bit of entry %d flipped", count/2) }, func(dir string, count uint64) error {
		return eachCopy(dir, count/2, flip)
	}},
	{"flip-last", func(count uint64) string { return fmt.Sprintf("a bit of entry %d, the last, flipped", count) }, func(dir string, count uint64) error {
		return eachCopy(dir, count, flip)
	}},
}

// cut shortens the file that holds the entries.
func cut(dir string, count uint64, to func(written int) int) error {
	return eachCopy(dir, count/2, func(path string, p []byte, _ int) error {
		return os.Truncate(path, int64(to(len(bytes.TrimRight(p, "\x00")))))
	})
}

// flip changes a bit in the middle of an entry's data.
func flip(path string, p []byte, at int) error {
	p[at+entrySize/2] ^= 0x10
	return os.WriteFile(path, p, 0o600)
}

// eachCopy calls do for each place in each file where the data of an entry lies; a database may have old copies.
func eachCopy(dir string, index uint64, do func(path string, p []byte, at int) error) error {
	data, found := entry(index, 1).Data, 0
	err := filepath.Walk(dir, func(path string, st os.FileInfo, err error) error {
		if err != nil || !st.Mode().IsRegular() {
			return err
		}
		p, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for from := 0; ; {
			at := bytes.Index(p[from:], data)
			if at < 0 {
				return nil
			}
			found++
			if err := do(path, p, from+at); err != nil {
				return err
			}
			from += at + len(data)
		}
	})
	if err == nil && found == 0 {
		err = fmt.Errorf("entry %d is in no file (%d bytes of %x…)", index, len(data), binary.BigEndian.Uint32(data))
	}
	return err
}
