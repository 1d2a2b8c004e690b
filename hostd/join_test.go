package hostd

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/placement"
)

// A daemon that was killed while it made a cluster of its own, and is then told to join another, must not go on making
// its own if it is killed once more.
func TestJoinGivesUpAnUnfinishedFounding(t *testing.T) {
	config := func(name string) Config {
		dir := t.TempDir()
		return Config{
			Data: filepath.Join(dir, "data"), Listen: "127.0.0.1:0", Socket: filepath.Join(dir, "socket"), Name: name, Libvirt: LibvirtConfig{noLibvirt},
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	member, err := New(ctx, config("a"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- member.Run(running) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	for changed := member.node.Changed(); ; changed = member.node.Changed() {
		founded := false
		if member.node.View(func(s *placement.State) { _, founded = s.Host(member.self) }); founded {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatal("the first host never entered its catalogue")
		}
	}
	token, err := member.control.CreateToken(ctx, &v1.CreateTokenRequest{})
	if err != nil {
		t.Fatal(err)
	}

	cfg := config("b")
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cfg.Data, "founding"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Join, cfg.Token = member.advertise, token.GetToken()
	joined, err := New(ctx, cfg, Options{})
	if err != nil {
		t.Fatal(err)
	}
	joined.close()
	// Killed before Raft wrote anything, and started again.
	if err := os.RemoveAll(joined.raftDir()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(joined.joiningMark(), []byte(joined.self), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Join, cfg.Token = "", ""
	again, err := New(ctx, cfg, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer again.close()
	if again.founding || again.id.Cluster() != member.id.Cluster() {
		t.Errorf("founding %v in cluster %s, want a member of %s", again.founding, again.id.Cluster(), member.id.Cluster())
	}
}
