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

// saidLast is the host's last word on a link.
func saidLast(t *testing.T, c net.Conn) guestlink.Code {
	t.Helper()
	conn := guestlink.NewConn(c)
	for {
		f, err := conn.Receive()
		if err != nil {
			t.Fatalf("the link ended without a word: %v", err)
		}
		if f.Kind != guestlink.Failed {
			continue
		}
		var why guestlink.Failure
		if err := f.Decode(&why); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Receive(); err == nil {
			t.Error("the link goes on")
		}
		return why.Code
	}
}

// TestNoGreeting: what does not begin as a guest link ends it with a word about it, and nothing else. A guest of
// another version is told so in a frame that all versions have.
func TestNoGreeting(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		say  func(c net.Conn)
		want guestlink.Code
	}{
		"garbage": {func(c net.Conn) { c.Write(randomBytes(4096)) }, guestlink.CodeProtocol},
		"http":    {func(c net.Conn) { io.WriteString(c, "GET / HTTP/1.1\r\nHost: alpha\r\n\r\n") }, guestlink.CodeProtocol},
		"huge": {func(c net.Conn) {
			c.Write([]byte{1, 0, 0, 0, 1, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0})
		}, guestlink.CodeProtocol},
		"not hello": {func(c net.Conn) { guestlink.NewConn(c).Send(guestlink.Ping, 1, nil) }, guestlink.CodeProtocol},
		"version 1": {func(c net.Conn) {
			guestlink.NewConn(c).SendMessage(guestlink.Hello, 1, map[string]any{"version": 1, "agent": "v1.0"})
		}, guestlink.CodeVersion},
		"a later version": {func(c net.Conn) {
			guestlink.NewConn(c).SendMessage(guestlink.Hello, 1, guestlink.HelloRequest{Version: 99})
		}, guestlink.CodeVersion},
		"no multiplexer": {func(c net.Conn) {
			if _, err := guestlink.Greet(c, "test"); err != nil {
				t.Error(err)
			}
			c.Write(randomBytes(100))
		}, guestlink.CodeProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			link := w.raw(webUUID)
			c.say(link)
			if code := saidLast(t, link); code != c.want {
				t.Errorf("the last word is %q, want %q", code, c.want)
			}
		})
	}
}

// TestNonsense: what is no conversation on a stream ends the link with a word about it, and nothing else.
func TestNonsense(t *testing.T) {
	w := newWorld(t)
	w.publish("file", "all", randomBytes(100))
	for name, c := range map[string]struct {
		purpose guestlink.Purpose
		say     func(c *guestlink.Conn)
	}{
		"no JSON":      {guestlink.ForRequests, func(c *guestlink.Conn) { c.Send(guestlink.List, 2, []byte("{")) }},
		"big ping":     {guestlink.ForRequests, func(c *guestlink.Conn) { c.Send(guestlink.Ping, 2, make([]byte, 65)) }},
		"host's frame": {guestlink.ForRequests, func(c *guestlink.Conn) { c.Send(guestlink.Published, 2, nil) }},
		"greeting":     {guestlink.ForRequests, func(c *guestlink.Conn) { c.Send(guestlink.Hello, 2, nil) }},
		"beat":         {guestlink.ForRequests, func(c *guestlink.Conn) { c.Send(guestlink.Beat, 2, nil) }},
		"bulk":         {guestlink.ForPush, func(c *guestlink.Conn) { c.SendData(2, make([]byte, 1<<20)) }},
		"ping to pull": {guestlink.ForPull, func(c *guestlink.Conn) { c.Send(guestlink.Ping, 2, nil) }},
		"past the end": {guestlink.ForPull, func(c *guestlink.Conn) {
			c.SendMessage(guestlink.Open, 2, guestlink.OpenRequest{Name: "file"})
			c.SendMessage(guestlink.Read, 3, guestlink.ReadRequest{First: 0, Count: 1 << 40})
		}},
		"before the beginning": {guestlink.ForPull, func(c *guestlink.Conn) {
			c.SendMessage(guestlink.Open, 2, guestlink.OpenRequest{Name: "file"})
			c.SendMessage(guestlink.Read, 3, guestlink.ReadRequest{First: -1, Count: 2})
		}},
		"manifest of nothing": {guestlink.ForPush, func(c *guestlink.Conn) { c.SendMessage(guestlink.Push, 2, guestlink.PushRequest{Name: "x"}) }},
		"manifest of too much": {guestlink.ForPush, func(c *guestlink.Conn) {
			c.SendMessage(guestlink.Push, 2, guestlink.PushRequest{Name: "x", Manifest: 1 << 40})
		}},
		"no manifest": {guestlink.ForPush, func(c *guestlink.Conn) {
			c.SendMessage(guestlink.Push, 2, guestlink.PushRequest{Name: "x", Manifest: 100})
			c.SendData(2, make([]byte, 100))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			link := w.session(webUUID)
			c.say(w.stream(link, c.purpose))
			<-link.Done()
			wantCode(t, link.Err(), guestlink.CodeProtocol)
		})
	}
	t.Run("two watches", func(t *testing.T) {
		link := w.session(webUUID)
		for range 2 {
			w.stream(link, guestlink.ForWatch).SendMessage(guestlink.Watch, 2, guestlink.ListRequest{})
		}
		<-link.Done()
		wantCode(t, link.Err(), guestlink.CodeProtocol)
	})
	if files, err := w.agent(webUUID).List(t.Context(), ""); err != nil || len(files) != 1 {
		t.Errorf("afterwards: %v, %v", files, err)
	}
}

// TestUnknownStream: what this host has no streams for, yet, costs nothing but the stream.
func TestUnknownStream(t *testing.T) {
	w := newWorld(t)
	link := w.session(webUUID)
	f, err := w.stream(link, 200).Receive()
	var why guestlink.Failure
	if err != nil || f.Kind != guestlink.Failed || f.Decode(&why) != nil || why.Code != guestlink.CodeUnknownStream {
		t.Errorf("%v %s, %v", f.Kind, f.Payload, err)
	}
	c := w.stream(link, guestlink.ForRequests)
	if err := c.Send(guestlink.Ping, 1, []byte("?")); err != nil {
		t.Fatal(err)
	}
	if f, err := c.Receive(); err != nil || f.Kind != guestlink.Pong {
		t.Errorf("afterwards: %v, %v", f.Kind, err)
	}
}

// TestStreamsOfADomain: a domain has no more streams than it may, however many links it opens for them, and another has
// its.
func TestStreamsOfADomain(t *testing.T) {
	w := newWorld(t)
	var links []*guestlink.Session
	for range guest.MaxStreams / guestlink.MaxStreams {
		link := w.session(webUUID)
		links = append(links, link)
		for range guestlink.MaxStreams {
			c := w.stream(link, guestlink.ForRequests)
			if err := c.Send(guestlink.Ping, 1, nil); err != nil {
				t.Fatal(err)
			}
			if f, err := c.Receive(); err != nil || f.Kind != guestlink.Pong {
				t.Fatal(f.Kind, err)
			}
		}
	}
	more := w.session(webUUID)
	w.stream(more, guestlink.ForRequests)
	<-more.Done()
	wantCode(t, more.Err(), guestlink.CodeBusy)
	if _, err := w.agent(dbUUID).List(t.Context(), ""); err != nil {
		t.Errorf("another domain: %v", err)
	}
	links[0].Close()
	if _, err := w.agent(webUUID).List(t.Context(), ""); err != nil { // which is patient
		t.Errorf("streams were given back: %v", err)
	}
}
