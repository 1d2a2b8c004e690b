package guest_test

import (
	"errors"
	"fmt"
	"runtime"
	"testing"

	"github.com/virtswarm/virtswarm/internal/guestlink"
)

// TestLargestManifest: a push of as many chunks as may be is not refused for what is held for it, also while its guest
// reads.
func TestLargestManifest(t *testing.T) {
	w := newWorld(t)
	w.publish("file", "all", randomBytes(100))
	link := w.session(webUUID)
	begin := func(purpose guestlink.Purpose, kind guestlink.Kind, req any) *guestlink.Conn {
		c := w.stream(link, purpose)
		if err := c.SendMessage(kind, 2, req); err != nil {
			t.Fatal(err)
		}
		return c
	}
	if f, err := begin(guestlink.ForPull, guestlink.Open, guestlink.OpenRequest{Name: "file"}).Receive(); err != nil || f.Kind != guestlink.Opened {
		t.Fatal(f.Kind, err)
	}
	c := begin(guestlink.ForPush, guestlink.Push, guestlink.PushRequest{Name: "x", Manifest: guestlink.MaxManifest})
	c.SendData(2, make([]byte, guestlink.MaxManifest))
	<-link.Done() // it is none, which ends the link
	if err := link.Err(); !errors.Is(err, &guestlink.Failure{Code: guestlink.CodeProtocol}) {
		t.Fatal(err)
	}
}

// TestEndedLinksCostNothing: what was held for a link is let go when the link ends, and not a while later: a guest can
// open and end hundreds a second.
func TestEndedLinksCostNothing(t *testing.T) {
	w := newWorld(t)
	runtime.GC()
	before := inUse()
	for range 200 {
		link := w.session(webUUID)
		for range 4 {
			x, err := link.Open(t.Context(), guestlink.ForPull)
			if err != nil {
				break // it has been ended
			}
			c := guestlink.NewConn(x)
			c.SendData(2, make([]byte, guestlink.MaxData)) // the host takes it in before it refuses it
		}
		<-link.Done()
		link.Close()
	}
	eventually(t, "the links are given back", func() error {
		if n := w.server.Links()[webUUID]; n > 0 {
			return fmt.Errorf("%d are taken", n)
		}
		return nil
	})
	runtime.GC()
	if after := inUse(); after > before+100*guestlink.MaxData/2 {
		t.Errorf("%d bytes are held for 200 links that have ended", after-before)
	}
}
