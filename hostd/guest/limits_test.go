package guest_test

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/hostd/guest"
	"github.com/virtswarm/virtswarm/internal/guestlink"
)

// TestLimits: a guest that opens links without end is refused, and others are served.
func TestLimits(t *testing.T) {
	w := newWorld(t)
	w.publish("file", "all", randomBytes(100))
	var open []net.Conn
	for range guest.MaxLinks {
		open = append(open, w.raw(webUUID))
	}
	eventually(t, "all links are taken", func() error {
		if n := w.server.Links()[webUUID]; n != guest.MaxLinks {
			return fmt.Errorf("%d links", n)
		}
		return nil
	})
	for range 200 {
		c := w.raw(webUUID)
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.Copy(io.Discard, c); err != nil { // it is closed
			t.Fatal(err)
		}
	}
	if files, err := w.agent(dbUUID).List(t.Context(), ""); err != nil || len(files) != 1 {
		t.Errorf("another domain: %v, %v", files, err)
	}
	open[0].Close()
	if _, err := w.agent(webUUID).List(t.Context(), ""); err != nil {
		t.Errorf("one link fewer: %v", err)
	}
}

// TestNonsense: what is no conversation ends the link with a word about it, and nothing else.
func TestNonsense(t *testing.T) {
	w := newWorld(t)
	w.publish("file", "all", randomBytes(100))
	hello := func(c *guestlink.Conn) {
		c.SendMessage(guestlink.Hello, 1, guestlink.HelloRequest{Version: guestlink.Version})
		if f, err := c.Receive(); err != nil || f.Kind != guestlink.Hello {
			t.Fatal(f.Kind, err)
		}
	}
	for name, say := range map[string]func(c *guestlink.Conn){
		"garbage": func(c *guestlink.Conn) { c.Link().Write(randomBytes(4096)) },
		"http":    func(c *guestlink.Conn) { io.WriteString(c.Link(), "GET / HTTP/1.1\r\nHost: alpha\r\n\r\n") },
		"huge": func(c *guestlink.Conn) {
			c.Link().Write([]byte{1, 0, 0, 0, 1, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0})
		},
		"not hello":    func(c *guestlink.Conn) { c.Send(guestlink.Ping, 1, nil) },
		"old version":  func(c *guestlink.Conn) { c.SendMessage(guestlink.Hello, 1, guestlink.HelloRequest{Version: 99}) },
		"no JSON":      func(c *guestlink.Conn) { hello(c); c.Send(guestlink.List, 2, []byte("{")) },
		"big ping":     func(c *guestlink.Conn) { hello(c); c.Send(guestlink.Ping, 2, make([]byte, 65)) },
		"host's frame": func(c *guestlink.Conn) { hello(c); c.Send(guestlink.Published, 2, nil) },
		"bulk":         func(c *guestlink.Conn) { hello(c); c.SendData(2, make([]byte, 1<<20)) },
		"two watches": func(c *guestlink.Conn) {
			hello(c)
			c.SendMessage(guestlink.Watch, 2, guestlink.ListRequest{})
			c.SendMessage(guestlink.Watch, 3, guestlink.ListRequest{})
		},
		"past the end": func(c *guestlink.Conn) {
			hello(c)
			c.SendMessage(guestlink.Open, 2, guestlink.OpenRequest{Name: "file"})
			c.SendMessage(guestlink.Read, 3, guestlink.ReadRequest{First: 0, Count: 1 << 40})
		},
		"before the beginning": func(c *guestlink.Conn) {
			hello(c)
			c.SendMessage(guestlink.Open, 2, guestlink.OpenRequest{Name: "file"})
			c.SendMessage(guestlink.Read, 3, guestlink.ReadRequest{First: -1, Count: 2})
		},
		"manifest of nothing": func(c *guestlink.Conn) { hello(c); c.SendMessage(guestlink.Push, 2, guestlink.PushRequest{Name: "x"}) },
		"manifest of too much": func(c *guestlink.Conn) {
			hello(c)
			c.SendMessage(guestlink.Push, 2, guestlink.PushRequest{Name: "x", Manifest: 1 << 40})
		},
		"no manifest": func(c *guestlink.Conn) {
			hello(c)
			c.SendMessage(guestlink.Push, 2, guestlink.PushRequest{Name: "x", Manifest: 100})
			c.SendData(2, make([]byte, 100))
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := guestlink.NewConn(w.raw(webUUID))
			say(c)
			for {
				f, err := c.Receive()
				if err != nil {
					t.Fatalf("the link ended without a word: %v", err)
				}
				if f.Kind != guestlink.Failed {
					continue
				}
				var why guestlink.Failure
				if err := f.Decode(&why); err != nil || why.Code != guestlink.CodeProtocol && why.Code != guestlink.CodeVersion {
					t.Errorf("%s, %v", f.Payload, err)
				}
				break
			}
			if _, err := c.Receive(); err == nil {
				t.Error("the link goes on")
			}
		})
	}
	if files, err := w.agent(webUUID).List(t.Context(), ""); err != nil || len(files) != 1 {
		t.Errorf("afterwards: %v, %v", files, err)
	}
}
