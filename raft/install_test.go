package raft

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	hraft "github.com/hashicorp/raft"

	"github.com/virtswarm/virtswarm/internal/disk/disktest"
	"github.com/virtswarm/virtswarm/placement"
	"github.com/virtswarm/virtswarm/raft/raftlog"
)

// follower is hashicorp/raft over this package's stores, which a test leads by hand.
type follower struct {
	t      *testing.T
	node   *Node
	raft   *hraft.Raft
	leader *hraft.InmemTransport
	peer   hraft.ServerAddress
}

const followerID, leaderID = "f", "l"

func newFollower(t *testing.T) *follower {
	t.Helper()
	files := disktest.NewMemory(0)
	n := &Node{cfg: Config{FS: files, Dir: "/raft"}, logger: hclog.NewNullLogger(), machine: newMachine(), ready: make(chan struct{}), failed: make(chan struct{})}
	s, err := n.openStores()
	if err != nil {
		t.Fatal(err)
	}
	addr, transport := hraft.NewInmemTransport("follower")
	_, leader := hraft.NewInmemTransport("leader")
	leader.Connect(addr, transport)
	conf := n.raftConfig()
	conf.LocalID, conf.MaxAppendEntries, conf.TrailingLogs = followerID, maxAppendEntries, 5
	conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = time.Hour, time.Hour, time.Hour
	conf.CommitTimeout, conf.SnapshotInterval, conf.SnapshotThreshold = time.Second, time.Hour, 1<<20
	n.log.OnBroken(n.fail)
	n.follow(s)
	cache, err := hraft.NewLogCache(8, n.log)
	if err != nil {
		t.Fatal(err)
	}
	r, err := hraft.NewRaft(conf, n.machine, cache, s.votes, s.snapshots, transport)
	if err != nil {
		t.Fatal(err)
	}
	n.raft.Store(r)
	close(n.ready)
	t.Cleanup(func() {
		if err := errors.Join(r.Shutdown().Error(), n.log.Close(), n.votes.Close()); err != nil {
			t.Error(err)
		}
	})
	return &follower{t: t, node: n, raft: r, leader: leader, peer: addr}
}

func header() hraft.RPCHeader {
	return hraft.RPCHeader{ProtocolVersion: hraft.ProtocolVersionMax, ID: []byte(leaderID), Addr: []byte("leader")}
}

// entry is one of a term that changes nothing but the index.
func entry(t *testing.T, index, term uint64) *hraft.Log {
	t.Helper()
	data, err := placement.EncodeCommand(placement.Command{InitCluster: &placement.InitCluster{ID: "test", Host: placement.Host{
		ID: "00000000000000000000000000000001", Name: "a", Addr: "a:1", Weight: 100,
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return &hraft.Log{Index: index, Term: term, Type: hraft.LogCommand, Data: data}
}

// append sends entries of a term behind an entry of another one, and says whether they were taken.
func (f *follower) append(prev, prevTerm, last, term, commit uint64) bool {
	f.t.Helper()
	req := &hraft.AppendEntriesRequest{RPCHeader: header(), Term: term, PrevLogEntry: prev, PrevLogTerm: prevTerm, LeaderCommitIndex: commit}
	for i := prev + 1; i <= last; i++ {
		req.Entries = append(req.Entries, entry(f.t, i, term))
	}
	var resp hraft.AppendEntriesResponse
	if err := f.leader.AppendEntries(followerID, f.peer, req, &resp); err != nil {
		f.t.Fatal(err)
	}
	return resp.Success
}

// install sends a snapshot.
func (f *follower) install(index, term uint64) bool {
	f.t.Helper()
	state := placement.New()
	for i := uint64(1); i <= index; i++ {
		c, err := placement.DecodeCommand(entry(f.t, i, term).Data)
		if err != nil {
			f.t.Fatal(err)
		}
		state.Apply(i, c)
	}
	var body bytes.Buffer
	if _, err := state.Freeze().WriteTo(&body); err != nil {
		f.t.Fatal(err)
	}
	members := hraft.Configuration{Servers: []hraft.Server{{ID: followerID, Address: f.peer}, {ID: leaderID, Address: "leader"}}}
	req := &hraft.InstallSnapshotRequest{
		RPCHeader: header(), SnapshotVersion: hraft.SnapshotVersionMax, Term: term, Leader: []byte("leader"), LastLogIndex: index, LastLogTerm: term,
		Configuration: hraft.EncodeConfiguration(members), ConfigurationIndex: 1, Size: int64(body.Len()),
	}
	var resp hraft.InstallSnapshotResponse
	if err := f.leader.InstallSnapshot(followerID, f.peer, req, &resp, &body); err != nil {
		f.t.Fatal(err)
	}
	return resp.Success
}

// asLed runs a test with a follower that holds the entries 1 to 20 of term 1, the first 10 of them committed.
func asLed(t *testing.T, do func(t *testing.T, f *follower)) {
	synctest.Test(t, func(t *testing.T) {
		f := newFollower(t)
		if !f.append(0, 0, 20, 1, 10) {
			t.Fatal("the first entries were not taken")
		}
		do(t, f)
	})
}

// The answer to entries that a follower has stored is lost, and the leader sends a snapshot that ends before the
// follower's last entry; the next leader goes on behind that.
func TestSnapshotBeforeTheEndOfTheLog(t *testing.T) {
	asLed(t, func(t *testing.T, f *follower) {
		if !f.install(15, 1) {
			t.Fatal("the snapshot was not taken")
		}
		if first, last := f.node.log.Bounds(); first != 15 || last != 20 {
			t.Errorf("the log has entries %d to %d, want what is behind the snapshot", first, last)
		}
		if !f.append(20, 1, 22, 2, 22) {
			t.Error("the entries of the next leader were not taken")
		}
		synctest.Wait()
		if at := f.node.AppliedIndex(); at != 22 || f.node.Err() != nil {
			t.Errorf("the catalogue is at %d, want 22: %v", at, f.node.Err())
		}
	})
}

// A snapshot that ends behind the follower's last entry replaces the whole log.
func TestSnapshotBehindTheEndOfTheLog(t *testing.T) {
	asLed(t, func(t *testing.T, f *follower) {
		if !f.install(25, 2) || !f.append(25, 2, 27, 2, 27) {
			t.Fatal("the snapshot, or what follows it, was not taken")
		}
		synctest.Wait()
		if first, last := f.node.log.Bounds(); first != 26 || last != 27 || f.node.AppliedIndex() != 27 {
			t.Errorf("the log has entries %d to %d, the catalogue is at %d", first, last, f.node.AppliedIndex())
		}
	})
}

// The follower has another history behind the place where the snapshot ends, as a leader that was cut off has. Raft
// cannot be told that it is gone: the host must start again, and gives no vote before.
func TestSnapshotOfAnotherHistory(t *testing.T) {
	asLed(t, func(t *testing.T, f *follower) {
		f.install(15, 2)
		if err := f.node.Err(); !errors.Is(err, ErrOvertaken) || !errors.Is(err, ErrBroken) {
			t.Errorf("the host goes on: %v", err)
		}
		if err := f.node.votes.SetUint64([]byte(keyVoteTerm), 3); !errors.Is(err, ErrOvertaken) {
			t.Errorf("it gives a vote: %v", err)
		}
	})
}

// A snapshot that is older than the catalogue does not take it back.
func TestSnapshotOlderThanTheCatalogue(t *testing.T) {
	asLed(t, func(t *testing.T, f *follower) {
		if !f.append(20, 1, 22, 1, 22) || !f.install(15, 1) {
			t.Fatal("the entries, or the snapshot, were not taken")
		}
		synctest.Wait()
		if at := f.node.AppliedIndex(); at != 22 {
			t.Errorf("the catalogue is at %d, and was at 22", at)
		}
		if !f.append(22, 1, 24, 2, 24) {
			t.Error("the entries of the next leader were not taken")
		}
		synctest.Wait()
		if at := f.node.AppliedIndex(); at != 24 || f.node.Err() != nil {
			t.Errorf("the catalogue is at %d, want 24: %v", at, f.node.Err())
		}
	})
}

// A crash comes between the installation of a snapshot of another history and the end of the log that it replaces.
func TestLogOfAnotherHistoryIsGoneAfterAStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := disktest.NewMemory(0)
		log, err := raftlog.Open(files, "/raft/log", hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		for i := uint64(1); i <= 20; i++ {
			if err := log.StoreLog(entry(t, i, 1)); err != nil {
				t.Fatal(err)
			}
		}
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
		for _, term := range []uint64{1, 2} {
			n := &Node{cfg: Config{FS: files, Dir: "/raft"}, logger: hclog.NewNullLogger(), machine: newMachine()}
			snapshots, err := openSnapshots(files, "/raft/snapshots", n.logger)
			if err != nil {
				t.Fatal(err)
			}
			var body bytes.Buffer
			state := placement.New()
			if _, err := state.Freeze().WriteTo(&body); err != nil {
				t.Fatal(err)
			}
			sink, err := snapshots.Create(1, 15, term, hraft.Configuration{}, 1, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := sink.Write(body.Bytes()); err != nil {
				t.Fatal(err)
			}
			if err := sink.Close(); err != nil {
				t.Fatal(err)
			}
			if n.log, err = raftlog.Open(files, "/raft/log", n.logger); err != nil {
				t.Fatal(err)
			}
			if err := n.replay(stores{snapshots: snapshots}, 0); err != nil {
				t.Fatal(err)
			}
			want := map[uint64]string{1: "1 to 20", 2: "0 to 0"}[term]
			if first, last := n.log.Bounds(); fmt.Sprintf("%d to %d", first, last) != want {
				t.Errorf("with a snapshot of term %d the log has %d to %d, want %s", term, first, last, want)
			}
			if err := n.log.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
