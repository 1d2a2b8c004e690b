package raft

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/go-hclog"
	hraft "github.com/hashicorp/raft"

	"github.com/virtswarm/virtswarm/internal/disk"
)

func FuzzVote(f *testing.F) {
	v := votes{7, map[string]uint64{"CurrentTerm": 3}, map[string]string{"LastVoteCand": "a@b:1"}}
	p, _ := v.encode()
	f.Add(p)
	f.Add([]byte("{}\nb3:00\n"))
	f.Fuzz(func(t *testing.T, p []byte) {
		var v votes
		if err := v.decode(p); err != nil {
			return
		}
		again, err := v.encode()
		if err != nil {
			t.Fatal(err)
		}
		var w votes
		if err := w.decode(again); err != nil {
			t.Fatalf("cannot read what was written: %v", err)
		}
	})
}

func FuzzSnapshotHead(f *testing.F) {
	f.Add([]byte(`{"raft_snapshot":1,"index":3,"term":1,"configuration":{"Servers":[{"Suffrage":0,"ID":"a","Address":"a@b:1"}]},"configuration_index":1}` + "\n"))
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, p []byte) {
		if _, body, err := decodeSnapHead(p); err == nil && (body <= 0 || body > int64(len(p))) {
			t.Fatalf("body at %d of %d", body, len(p))
		}
	})
}

// writeSnapshot makes a snapshot with some body.
func writeSnapshot(t *testing.T, s *snapshotStore, index uint64, body []byte) {
	t.Helper()
	conf := hraft.Configuration{Servers: []hraft.Server{{ID: "a", Address: "a@b:1"}}}
	sink, err := s.Create(1, index, 2, conf, index-1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sink.Write(body); err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
}

func mustOpenSnapshots(t *testing.T, dir string) *snapshotStore {
	t.Helper()
	s, err := openSnapshots(disk.OS{}, dir, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSnapshotsAreKeptNewestFirst(t *testing.T) {
	dir := t.TempDir()
	s := mustOpenSnapshots(t, dir)
	for i := uint64(5); i <= 1000; i *= 5 {
		writeSnapshot(t, s, i, fmt.Appendf(nil, "body %d", i))
	}
	cancelled, err := s.Create(1, 5000, 2, hraft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := cancelled.Cancel(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(1, 6000, 2, hraft.Configuration{}, 1, nil); err != nil { // never finished
		t.Fatal(err)
	}
	s = mustOpenSnapshots(t, dir)
	metas, err := s.List()
	if err != nil || len(metas) != keepSnapshots || metas[0].Index != 625 || metas[1].Index != 125 {
		t.Fatalf("list: %+v, %v", metas, err)
	}
	meta, r, err := s.Open(metas[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r)
	if err != nil || string(body) != "body 625" || meta.Size != int64(len(body)) || meta.ConfigurationIndex != 624 || len(meta.Configuration.Servers) != 1 {
		t.Fatalf("body %q, meta %+v, %v", body, meta, err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*.tmp"))
	if err != nil || len(left) != 0 {
		t.Fatalf("left behind: %v, %v", left, err)
	}
}

func TestSnapshotDamageIsNoticed(t *testing.T) {
	dir := t.TempDir()
	writeSnapshot(t, mustOpenSnapshots(t, dir), 9, []byte("the catalogue"))
	path := filepath.Join(dir, snapName(9, 2))
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	check := func(p []byte, what string) {
		t.Helper()
		if err := os.WriteFile(path, p, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openSnapshots(disk.OS{}, dir, hclog.NewNullLogger()); !errors.Is(err, ErrDamaged) {
			t.Fatalf("%s: %v, want ErrDamaged", what, err)
		}
	}
	for i := range whole {
		p := bytes.Clone(whole)
		p[i] ^= 4
		check(p, fmt.Sprintf("byte %d flipped", i))
		check(whole[:i], fmt.Sprintf("cut to %d bytes", i))
	}
}
