package raft

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/disk/disktest"
)

const keyCandidate = "LastVoteCand"

// mustOpenVotes opens the vote file in dir and closes it when the test ends.
func mustOpenVotes(t *testing.T, f disk.FS, dir string) *voteStore {
	t.Helper()
	v, _, err := openVotes(f, filepath.Join(dir, "vote"))
	if err != nil {
		t.Fatalf("open votes: %v", err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

func vote(t *testing.T, v *voteStore, term uint64) {
	t.Helper()
	if err := errors.Join(v.SetUint64([]byte(keyTerm), term), v.Set([]byte(keyCandidate), candidateOf(term))); err != nil {
		t.Fatal(err)
	}
}

func candidateOf(term uint64) []byte { return fmt.Appendf(nil, "somebody%d@x:1", term) }

func TestVoteIsKeptAndDamageNoticed(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "vote")
	v, voted, err := openVotes(disk.OS{}, path)
	if err != nil || voted {
		t.Fatalf("open of nothing: voted %v, %v", voted, err)
	}
	for i, now := range []int64{100, 100, 7, 500} { // the clock stands still, is set back, and goes on
		want := []uint64{100, 101, 102, 500}[i]
		if life, before, err := v.begin(time.Unix(now, 0)); life != want || before != []uint64{0, 100, 101, 102}[i] || err != nil {
			t.Fatalf("life %d: %d, %v", i, life, err)
		}
	}
	if v, voted, err = openVotes(disk.OS{}, path); err != nil || voted {
		t.Fatalf("a host that has only begun: voted %v, %v", voted, err)
	}
	vote(t, v, 7)
	if v, voted, err = openVotes(disk.OS{}, path); err != nil || !voted {
		t.Fatalf("open: voted %v, %v", voted, err)
	}
	holds := func(v *voteStore, what string) {
		t.Helper()
		n, _ := v.GetUint64([]byte(keyTerm))
		p, _ := v.Get([]byte(keyCandidate))
		life, _ := v.GetUint64([]byte(keyLife))
		if n != 7 || !bytes.Equal(p, candidateOf(7)) || life != 500 {
			t.Fatalf("%s: term %d, vote %q, life %d", what, n, p, life)
		}
	}
	holds(v, "opened")
	if n, err := v.GetUint64([]byte("unset")); n != 0 || err != nil {
		t.Errorf("unset number: %d, %v", n, err)
	}
	whole, err := os.ReadFile(path)
	if err != nil || len(whole) != 2*voteSlot {
		t.Fatalf("the file has %d bytes, %v", len(whole), err)
	}
	flipped := func(where ...int) (*voteStore, error) {
		p := bytes.Clone(whole)
		for _, i := range where {
			p[i] ^= 1
		}
		if err := os.WriteFile(path, p, 0o600); err != nil {
			t.Fatal(err)
		}
		v, _, err := openVotes(disk.OS{}, path)
		return v, err
	}
	text := bytes.IndexByte(whole, 0)
	for i := range text {
		for _, at := range []int{i, voteSlot + i} {
			v, err := flipped(at)
			if err != nil {
				t.Fatalf("byte %d flipped: %v", at, err)
			}
			holds(v, fmt.Sprint("byte flipped: ", at))
			v.Close()
			if mended, _ := os.ReadFile(path); !bytes.Equal(mended, whole) {
				t.Fatalf("byte %d flipped: it is not mended", at)
			}
		}
		if _, err := flipped(i, voteSlot+text-1-i); !errors.Is(err, ErrDamaged) {
			t.Fatalf("byte %d of both flipped: %v, want ErrDamaged", i, err)
		}
	}
}

// TestVoteSurvivesEveryCrash kills the process, cuts the power, tears the write or fills the disk at every step of what
// a store writes, from its making on. What was acknowledged is there after it; of what was not, all or nothing.
func TestVoteSurvivesEveryCrash(t *testing.T) {
	type fate struct {
		err   error
		power bool
	}
	for what, f := range map[string]fate{
		"killed": {err: disktest.ErrKilled}, "power lost": {disktest.ErrKilled, true}, "torn": {err: disktest.ErrTorn},
		"torn, then power lost": {disktest.ErrTorn, true}, "full": {err: disktest.NoSpace()}, "full, then power lost": {disktest.NoSpace(), true},
	} {
		t.Run(what, func(t *testing.T) {
			for seed := range uint64(8) {
				for at := 1; ; at++ {
					if !crashVote(t, f.err, f.power, seed, at) {
						break
					}
				}
			}
		})
	}
}

// crashVote has the at-th change fail, and says whether there are so many.
func crashVote(t *testing.T, fail error, power bool, seed uint64, at int) bool {
	dir := t.TempDir()
	fault, err := disktest.NewFault(disk.OS{}, filepath.Join(dir, "attic"), seed)
	if err != nil {
		t.Fatal(err)
	}
	var acked, tried uint64
	fault.FailAt(at, fail)
	work := func(v *voteStore, terms uint64) {
		for range terms {
			tried++
			if v.SetUint64([]byte(keyTerm), tried) == nil {
				acked = tried
			}
		}
	}
	v := mustOpenVotes(t, fault, dir)
	work(v, 4) // an error is met by trying the next, as the next election does
	began := fault.Ops()
	if power {
		err = fault.PowerOff()
	}
	if err != nil {
		t.Fatal(err)
	}
	v, _, err = openVotes(disk.OS{}, filepath.Join(dir, "vote"))
	if err != nil {
		t.Fatalf("%v at step %d, seed %d: %v", fail, at, seed, err)
	}
	defer v.Close()
	term, _ := v.GetUint64([]byte(keyTerm))
	if term < acked || term > tried {
		t.Fatalf("%v at step %d, seed %d: term %d, acknowledged %d, tried %d", fail, at, seed, term, acked, tried)
	}
	return at <= began
}

// TestVoteIsMendedAtEveryStep opens a file of which one slot is spoiled, and crashes while that is mended.
func TestVoteIsMendedAtEveryStep(t *testing.T) {
	for slot := range 2 {
		for at := 1; at <= 3; at++ {
			dir := t.TempDir()
			path := filepath.Join(dir, "vote")
			vote(t, mustOpenVotes(t, disk.OS{}, dir), 5)
			p, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			p[slot*voteSlot] ^= 1
			if err := os.WriteFile(path, p, 0o600); err != nil {
				t.Fatal(err)
			}
			fault, err := disktest.NewFault(disk.OS{}, filepath.Join(dir, "attic"), uint64(at))
			if err != nil {
				t.Fatal(err)
			}
			fault.KillAt(at)
			if v, _, err := openVotes(fault, path); err == nil {
				v.Close()
			} else if !errors.Is(err, disktest.ErrKilled) || errors.Is(err, ErrDamaged) {
				t.Fatalf("slot %d, step %d: %v", slot, at, err)
			}
			if err := fault.PowerOff(); err != nil {
				t.Fatal(err)
			}
			if term, _ := mustOpenVotes(t, disk.OS{}, dir).GetUint64([]byte(keyTerm)); term != 5 {
				t.Fatalf("slot %d, step %d: term %d", slot, at, term)
			}
		}
	}
}

// TestVoteNeedsNoRoom votes on a disk on which not a page is free.
func TestVoteNeedsNoRoom(t *testing.T) {
	files := disktest.NewMemory(0)
	if err := files.MkdirAll("/raft", 0o700); err != nil {
		t.Fatal(err)
	}
	v := mustOpenVotes(t, files, "/raft")
	if _, _, err := v.begin(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	free, total, err := files.Space("/")
	if err != nil {
		t.Fatal(err)
	}
	files.SetLimit(total - free)
	if err := disk.WriteFile(files, "/raft/other", []byte("x"), 0o600); !errors.Is(err, disk.ErrNoSpace) {
		t.Fatalf("the disk is not full: %v", err)
	}
	for term := range uint64(100) {
		vote(t, v, term+1)
	}
	if n, _ := mustOpenVotes(t, files, "/raft").GetUint64([]byte(keyTerm)); n != 100 {
		t.Errorf("term %d", n)
	}
}
