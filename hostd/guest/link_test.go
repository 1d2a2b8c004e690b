package guest_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/guestagent"
	"github.com/virtswarm/virtswarm/hostd/guest"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/guestlink"
)

// TestOneLink: an agent does all that it does at a time over one link.
func TestOneLink(t *testing.T) {
	w := newWorld(t)
	p := randomBytes(4 << 20)
	w.publish("site/big", "all", p)
	source := filepath.Join(w.dir, "source")
	if err := os.WriteFile(source, p[:1<<20], 0o600); err != nil {
		t.Fatal(err)
	}
	for name, link := range map[string]string{"socket": "unix://" + w.socket(webUUID), "shm": w.withMemory(webUUID, 1<<20)} {
		t.Run(name, func(t *testing.T) {
			agent := w.agent(webUUID)
			agent.Link = link
			before := w.metric("virtswarm_guest_links_total")
			ctx, cancel := context.WithCancel(t.Context())
			var all sync.WaitGroup
			synced := make(chan struct{}, 100)
			all.Go(func() { // which keeps the link to the end
				if err := agent.Sync(ctx, "site/", filepath.Join(w.dir, name), guestagent.SyncOptions{Event: func(guestagent.SyncEvent) { synced <- struct{}{} }}); err != nil {
					t.Error(err)
				}
			})
			<-synced
			var jobs sync.WaitGroup
			for n := range 4 {
				jobs.Go(func() {
					dest := filepath.Join(w.dir, fmt.Sprint(name, "-", n))
					if _, err := agent.Pull(ctx, "site/big", dest, guestagent.PullOptions{}); err != nil {
						t.Error(err)
						return
					}
					if got, err := os.ReadFile(dest); err != nil || !bytes.Equal(got, p) {
						t.Errorf("%s has other bytes, %v", dest, err)
					}
				})
				jobs.Go(func() {
					for range 20 {
						if files, err := agent.List(ctx, ""); err != nil || len(files) == 0 {
							t.Errorf("%v, %v", files, err)
						}
					}
				})
				jobs.Go(func() {
					if _, err := agent.Ping(ctx, 20, 0, func(int, time.Duration) {}); err != nil {
						t.Error(err)
					}
				})
			}
			jobs.Go(func() {
				if _, err := agent.Push(ctx, source, "from-"+name, nil); err != nil {
					t.Error(err)
				}
			})
			jobs.Wait()
			if n := w.metric("virtswarm_guest_links_total") - before; n != 1 {
				t.Errorf("it took %v links", n)
			}
			cancel()
			all.Wait()
		})
	}
	eventually(t, "the links are given back", func() error {
		if n := w.server.Links()[webUUID]; n > 0 {
			return fmt.Errorf("%d are taken", n)
		}
		return nil
	})
}

// TestUnreadPull: a guest that asks for a file and reads nothing of it still gets answers to what else it asks, on the
// same link, from the first byte on until the windows are full and after that.
func TestUnreadPull(t *testing.T) {
	w := newWorld(t)
	w.publish("big", "all", randomBytes(16<<20))
	link := w.session(dbUUID)
	for range 4 {
		c := w.stream(link, guestlink.ForPull)
		if err := c.SendMessage(guestlink.Open, 1, guestlink.OpenRequest{Name: "big"}); err != nil {
			t.Fatal(err)
		}
		if err := c.SendMessage(guestlink.Read, 2, guestlink.ReadRequest{Count: 16 << 20 / content.MinChunkSize}); err != nil {
			t.Fatal(err)
		}
	}
	asks := w.stream(link, guestlink.ForRequests)
	for full := float64(4 * (guestlink.GuestWindow - 1<<20)); ; {
		if err := asks.Send(guestlink.Ping, 1, []byte("?")); err != nil {
			t.Fatal(err)
		}
		if f, err := asks.Receive(); err != nil || f.Kind != guestlink.Pong {
			t.Fatal(f.Kind, err)
		}
		if w.metric("virtswarm_guest_sent_bytes_total") >= full {
			break
		}
	}
}

// TestCancelledPull: what a guest does not want any more is not read for it, and its turn is another's.
func TestCancelledPull(t *testing.T) {
	w := newWorld(t)
	w.publish("big", "all", randomBytes(16<<20))
	for range 3 * guest.MaxStreams { // many more than there may be at a time
		ctx, cancel := context.WithCancel(t.Context())
		agent := w.agent(dbUUID)
		_, err := agent.PullTo(ctx, "big", cancelling{cancel}, guestagent.PullOptions{})
		if err == nil {
			t.Fatal("it went on")
		}
	}
	if files, err := w.agent(dbUUID).List(t.Context(), ""); err != nil || len(files) != 1 {
		t.Errorf("afterwards: %v, %v", files, err)
	}
}

// cancelling cancels with the first byte.
type cancelling struct{ cancel func() }

func (c cancelling) Write(p []byte) (int, error) { c.cancel(); return len(p), nil }
