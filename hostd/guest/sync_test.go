package guest_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/guestagent"
	"github.com/virtswarm/virtswarm/placement"
)

func TestSync(t *testing.T) {
	w := newWorld(t)
	v1, v2, other := randomBytes(200<<10), randomBytes(300<<10), randomBytes(10)
	w.publish("site/index", "tag:web", v1)
	w.publish("site/sub/page", "tag:web", other)
	w.publish("site/hidden", "none", other)
	w.publish("elsewhere", "all", other)
	dir := filepath.Join(w.dir, "www")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "mine"), other, 0o600); err != nil {
		t.Fatal(err)
	}
	events := make(chan guestagent.SyncEvent, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- w.agent(webUUID).Sync(ctx, "site/", dir, guestagent.SyncOptions{Event: func(e guestagent.SyncEvent) { events <- e }})
	}()
	next := func() guestagent.SyncEvent {
		t.Helper()
		select {
		case e := <-events:
			return e
		case <-time.After(20 * time.Second):
			t.Fatal("nothing happens")
		}
		panic("unreachable")
	}
	got := map[string]bool{next().Path: true, next().Path: true}
	if !got["index"] || !got["sub/page"] {
		t.Fatalf("synchronised %v", got)
	}
	wantFile(t, filepath.Join(dir, "index"), v1)
	wantFile(t, filepath.Join(dir, "sub/page"), other)
	w.publish("site/index", "tag:web", v2)
	if e := next(); e.Path != "index" || e.Error != "" {
		t.Fatalf("%+v", e)
	}
	wantFile(t, filepath.Join(dir, "index"), v2)
	w.do(placement.Command{RemoveFile: &placement.RemoveFile{Name: "site/sub/page"}})
	if e := next(); e.Path != "sub/page" || !e.Removed || e.Error != "" {
		t.Fatalf("%+v", e)
	}
	if _, err := os.Stat(filepath.Join(dir, "sub")); err == nil {
		t.Error("an empty directory is left")
	}
	// A name that is taken by a file of the guest's is not overwritten.
	w.publish("site/mine", "tag:web", v1)
	if e := next(); e.Path != "mine" || e.Error == "" {
		t.Fatalf("%+v", e)
	}
	wantFile(t, filepath.Join(dir, "mine"), other)
	// The domain loses its tag: it is given nothing any more.
	w.setDomains(func(list []placement.Domain) []placement.Domain {
		list[0].Tags = nil
		return list
	})
	for e := next(); e.Path != "index"; e = next() {
	}
	if _, err := os.Stat(filepath.Join(dir, "index")); err == nil {
		t.Error("a file stays that the domain may not have any more")
	}
	wantFile(t, filepath.Join(dir, "mine"), other)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
