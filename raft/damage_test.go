package raft

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	hraft "github.com/hashicorp/raft"

	"github.com/virtswarm/virtswarm/internal/disk/disktest"
	"github.com/virtswarm/virtswarm/placement"
)

// TestDamageIsNoticedAtStart spoils each kind of file of a host that has been stopped.
func TestDamageIsNoticedAtStart(t *testing.T) {
	small := func(cfg *Config) {
		cfg.SnapshotThreshold, cfg.SnapshotInterval, cfg.TrailingLogs = 20, time.Second, 5
	}
	bubble(t, func(t *testing.T, c *cluster) {
		c.found(small)
		c.node(1).log.SetSegmentSize(2000) // so that whole segments go
		for i := range 60 {
			c.apply(1, file(fmt.Sprint("f", i), 1))
		}
		c.eventually("a snapshot", func() bool { return c.node(1).Status().LastSnapshot > 40 })
		c.stop(1)
		good := c.hostDir(1)
		pristine := filepath.Join(c.dir, "pristine")
		if err := os.CopyFS(pristine, os.DirFS(good)); err != nil {
			t.Fatal(err)
		}
		glob := func(pattern string) string {
			found, err := filepath.Glob(filepath.Join(good, pattern))
			if err != nil || len(found) == 0 {
				t.Fatalf("no %s: %v", pattern, err)
			}
			return found[len(found)-1]
		}
		for what, spoil := range map[string]func() (path string, err error){
			"log entry flipped":  func() (string, error) { p := glob("log/*.log"); return p, flip(p, 0.5) },
			"log end flipped":    func() (string, error) { p := glob("log/*.log"); return p, flip(p, 1) },
			"log cut short":      func() (string, error) { p := glob("log/*.log"); return p, cutShort(p) },
			"log gone":           func() (string, error) { p := glob("log/*.log"); return filepath.Dir(p), os.Remove(p) },
			"snapshot flipped":   func() (string, error) { p := glob("snapshots/*.snap"); return p, flip(p, 0.5) },
			"snapshot cut short": func() (string, error) { p := glob("snapshots/*.snap"); return p, cutShort(p) },
			"snapshot head":      func() (string, error) { p := glob("snapshots/*.snap"); return p, flip(p, 0.01) },
			"all snapshots gone": func() (string, error) {
				return filepath.Join(good, "log"), os.RemoveAll(filepath.Join(good, "snapshots"))
			},
			"both votes flipped":  func() (string, error) { p := glob("vote"); return p, errors.Join(flip(p, 0.001), flip(p, 0.501)) },
			"vote cut short":      func() (string, error) { p := glob("vote"); return p, os.Truncate(p, 20) },
			"vote gone":           func() (string, error) { p := glob("vote"); return p, os.Remove(p) },
			"stray file as a log": func() (string, error) { p := filepath.Join(good, "log/x.log"); return p, os.WriteFile(p, nil, 0o600) },
		} {
			path, err := spoil()
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			node, err := c.tryStart(1, small)
			if err == nil {
				_ = node.Close()
			}
			if !errors.Is(err, ErrDamaged) || !strings.Contains(fmt.Sprint(err), path) || !strings.Contains(fmt.Sprint(err), "join again") {
				t.Errorf("%s: open says %v, want ErrDamaged with %s and what to do", what, err, path)
			}
			if err := os.RemoveAll(good); err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(good, os.DirFS(pristine)); err != nil {
				t.Fatal(err)
			}
		}
		// Of two votes one is enough.
		if err := flip(glob("vote"), 0.01); err != nil {
			t.Fatal(err)
		}
		// The mark only helps to notice the rest.
		if err := flip(glob("log/mark"), 0.5); err != nil {
			t.Fatal(err)
		}
		c.start(1, small)
		c.apply(1, file("after all", 1))
		if !c.node(1).has("f0") || !c.node(1).has("f59") {
			t.Error("files are missing")
		}
	})
}

// flip changes a byte at a fraction of the file.
func flip(path string, where float64) error {
	p, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	p[int(where*float64(len(p)-1))] ^= 1
	return os.WriteFile(path, p, 0o600)
}

func cutShort(path string) error {
	p, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, p[:len(p)*2/3], 0o600)
}

// TestSnapshotThatOvertookTheLog crashes between a snapshot from the leader and the removal of the log before it.
func TestSnapshotThatOvertookTheLog(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.found()
		c.apply(1, file("in the log", 1))
		c.stop(1)
		store := mustOpenSnapshots(t, filepath.Join(c.hostDir(1), "snapshots"))
		state := placement.New()
		if _, err := state.Apply(100, placement.Command{InitCluster: &placement.InitCluster{ID: "test", Host: c.describe(1), Now: 1}}); err != nil {
			t.Fatal(err)
		}
		if _, err := state.Apply(101, file("in the snapshot", 1)); err != nil {
			t.Fatal(err)
		}
		var body bytes.Buffer
		if _, err := state.Freeze().WriteTo(&body); err != nil {
			t.Fatal(err)
		}
		self := hraft.Server{ID: hraft.ServerID(hostID(1)), Address: serverAddress(hostID(1), "host1:1")}
		sink, err := store.Create(1, 101, 1, hraft.Configuration{Servers: []hraft.Server{self}}, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := sink.Write(body.Bytes()); err != nil {
			t.Fatal(err)
		}
		if err := sink.Close(); err != nil {
			t.Fatal(err)
		}
		c.start(1)
		c.apply(1, file("after", 1))
		if !c.node(1).has("in the snapshot") || c.node(1).has("in the log") {
			t.Error("the catalogue is not that of the snapshot")
		}
		c.stop(1)
		c.start(1)
		if !c.node(1).has("after") {
			t.Error("the log that follows the snapshot is not replayed")
		}
	})
}

func TestEntryFromTheFutureStopsTheHost(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.found()
		c.apply(1, file("before", 1))
		node := c.node(1)
		if err := node.raft.Load().Apply([]byte(`{"v":99,"time_travel":{"to":"1985"}}`), time.Second).Error(); err != nil {
			t.Fatal(err)
		}
		c.eventually("the host fails", func() bool { return node.Err() != nil })
		if !errors.Is(node.Err(), ErrStuck) || !strings.Contains(node.Err().Error(), "newer version") {
			t.Errorf("it failed with %v", node.Err())
		}
		if err := node.raft.Load().Snapshot().Error(); err == nil {
			t.Error("a snapshot was taken without the entry that was not understood")
		}
		if !node.has("before") {
			t.Error("what was understood is gone")
		}
		c.stop(1)
		if _, err := c.tryStart(1); !errors.Is(err, ErrStuck) {
			t.Errorf("started again: %v, want ErrStuck", err)
		}
	})
}

func TestConfigIsChecked(t *testing.T) {
	for what, cfg := range map[string]Config{
		"nothing":    {},
		"bad id":     {ID: "me", Dir: "d", Advertise: "a:1", Forwarder: forwarder{}, Stream: &memStream{}},
		"no stream":  {ID: hostID(1), Dir: "d", Advertise: "a:1", Forwarder: forwarder{}},
		"no address": {ID: hostID(1), Dir: "d", Forwarder: forwarder{}, Stream: &memStream{}},
	} {
		if _, err := Open(cfg); err == nil {
			t.Errorf("%s: opened", what)
		}
	}
}

func TestFullDiskIsAnErrorAndPasses(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.grow(3)
		full := c.leader()
		c.hosts[hostID(full)].fault.FailAt(1, errors.New("disk full (injected)"))
		c.apply(full, file("all the same", full)) // another host leads, or this one again
		for n := 1; n <= 3; n++ {
			c.eventually(fmt.Sprint("host ", n, " has it"), func() bool { return c.node(n).has("all the same") })
		}
	})
}

// A leader that was cut off has entries that the cluster never agreed on. It gives them up when it is back, and at that
// moment its disk is full.
func TestFullDiskWhileEntriesAreGivenUp(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.grow(3)
		cut := c.leader()
		c.fabric.split(1, hostID(cut))
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		defer cancel()
		if _, err := c.node(cut).Apply(ctx, file("given up", cut)); err == nil {
			t.Fatal("a leader that is cut off carried out a command")
		}
		c.apply(c.leader(cut), file("agreed on", cut))
		full, shortened := true, false
		c.hosts[hostID(cut)].fault.OnOp(func(op disktest.Op) error {
			if !strings.HasSuffix(op.Path, ".log") {
				return nil
			}
			shortened = shortened || op.Name == "truncate"
			if full && shortened && op.Name == "write" {
				return disktest.NoSpace()
			}
			return nil
		})
		c.fabric.split(0, hostID(cut))
		c.eventually("the host gives up", func() bool { return c.node(cut).Err() != nil })
		if err := c.node(cut).Err(); !errors.Is(err, ErrBroken) || !shortened {
			t.Fatalf("it failed with %v; entries given up: %v", err, shortened)
		}
		c.kill(cut)
		c.start(cut) // as systemd does
		c.eventually("it has what was agreed on", func() bool { return c.node(cut).has("agreed on") && !c.node(cut).has("given up") })
	})
}
