package guest_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/virtswarm/virtswarm/internal/guestlink"
)

// TestLargestManifest: a push of as many chunks as may be is not refused for what is held for it, also while its guest reads.
func TestLargestManifest(t *testing.T) {
	w := newWorld(t)
	w.publish("file", "all", randomBytes(100))
	begin := func(kind guestlink.Kind, req any) *guestlink.Conn {
		c := guestlink.NewConn(w.raw(webUUID))
		c.SendMessage(guestlink.Hello, 1, guestlink.HelloRequest{Version: guestlink.Version})
		if f, err := c.Receive(); err != nil || f.Kind != guestlink.Hello {
			t.Fatal(f.Kind, err)
		}
		if err := c.SendMessage(kind, 2, req); err != nil {
			t.Fatal(err)
		}
		return c
	}
	if f, err := begin(guestlink.Open, guestlink.OpenRequest{Name: "file"}).Receive(); err != nil || f.Kind != guestlink.Opened {
		t.Fatal(f.Kind, err)
	}
	c := begin(guestlink.Push, guestlink.PushRequest{Name: "x", Manifest: guestlink.MaxManifest})
	c.SendData(2, make([]byte, guestlink.MaxManifest))
	f, err := c.Receive()
	var why guestlink.Failure
	if err != nil || f.Kind != guestlink.Failed || f.Decode(&why) != nil || why.Code != guestlink.CodeProtocol { // it is none
		t.Fatalf("%v %s, %v", f.Kind, f.Payload, err)
	}
}

// TestEndedLinksCostNothing: what was held for a link is let go when the link ends, and not a while later: a guest can open and
// end hundreds a second.
func TestEndedLinksCostNothing(t *testing.T) {
	w := newWorld(t)
	runtime.GC()
	before := inUse()
	for range 200 {
		c := guestlink.NewConn(w.raw(webUUID))
		c.SendMessage(guestlink.Hello, 1, guestlink.HelloRequest{Version: guestlink.Version})
		c.SendData(2, make([]byte, guestlink.MaxData)) // the host takes it in before it refuses it
		for err := error(nil); err == nil; _, err = c.Receive() {
		}
		c.Close()
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
