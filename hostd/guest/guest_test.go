package guest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/guestagent"
	"github.com/virtswarm/virtswarm/hostd/guest"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/guestlink"
	"github.com/virtswarm/virtswarm/placement"
)

// TestSeesOnlyItsFiles: what a guest may not read is not there for it, neither in a list nor by name or digest.
func TestSeesOnlyItsFiles(t *testing.T) {
	w := newWorld(t)
	secret := w.publish("secret", dbUUID, randomBytes(1000))
	for name, guests := range map[string]string{"a/all": "all", "a/web": "tag:web", "a/none": "none", "a/glob": "db-*", "b/uuid": webUUID} {
		w.publish(name, guests, randomBytes(1000))
	}
	for uuid, want := range map[string]string{webUUID: "[a/all a/web b/uuid]", dbUUID: "[a/all a/glob secret]"} {
		files, err := w.agent(uuid).List(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		names := []string{}
		for _, f := range files {
			names = append(names, f.Name)
		}
		if got := fmt.Sprint(names); got != want {
			t.Errorf("%s sees %s, want %s", uuid, got, want)
		}
	}
	dest := filepath.Join(w.dir, "out")
	var told [2]string
	for i, name := range []string{"secret", "nothing"} {
		_, err := w.agent(webUUID).Pull(t.Context(), name, dest, guestagent.PullOptions{})
		wantCode(t, err, guestlink.CodeNotFound)
		told[i] = string(bytes.ReplaceAll([]byte(err.Error()), []byte(name), []byte("…")))
	}
	if told[0] != told[1] {
		t.Errorf("what there is for others and what there is not at all differ: %q, %q", told[0], told[1])
	}
	_, err := w.agent(webUUID).Pull(t.Context(), "secret", dest, guestagent.PullOptions{ID: secret.ID()})
	wantCode(t, err, guestlink.CodeNotFound)
	_, err = w.agent(webUUID).Pull(t.Context(), "a/all", dest, guestagent.PullOptions{ID: secret.ID()})
	wantCode(t, err, guestlink.CodeNotFound)
	if _, err := os.Stat(dest); err == nil {
		t.Error("something was left")
	}
}

func TestPull(t *testing.T) {
	w := newWorld(t)
	for size := range map[int]bool{0: true, 1: true, content.MinChunkSize: true, 3<<20 + 17: true} {
		p := randomBytes(size)
		if size > 1<<20 {
			p = sparse(size)
		}
		name := fmt.Sprint("file-", size)
		f := w.publish(name, "all", p)
		dest := filepath.Join(w.dir, name)
		r, err := w.agent(dbUUID).Pull(t.Context(), name, dest, guestagent.PullOptions{})
		if err != nil {
			t.Fatal(err)
		}
		wantFile(t, dest, p)
		if m := f.Manifest(); r.Fetched != m.DataBytes() || r.Size != int64(size) || r.ID != m.ID() {
			t.Errorf("%d bytes: %+v", size, r)
		}
		var out bytes.Buffer
		if _, err := w.agent(dbUUID).PullTo(t.Context(), name, &out, guestagent.PullOptions{}); err != nil || !bytes.Equal(out.Bytes(), p) {
			t.Errorf("%d bytes to a pipe: %d, %v", size, out.Len(), err)
		}
		if _, err := w.agent(dbUUID).Pull(t.Context(), name, dest, guestagent.PullOptions{}); !errors.Is(err, guestagent.ErrExists) {
			t.Errorf("onto a file: %v", err)
		}
	}
	left, _ := filepath.Glob(filepath.Join(w.dir, ".*.part"))
	if len(left) > 0 {
		t.Errorf("parts are left: %v", left)
	}
}

// cutter passes a unix socket on, and cuts each connection after some bytes.
func cutter(t *testing.T, to string, after func(n int) int64) (socket string, links *atomic.Int64) {
	t.Helper()
	socket, links = filepath.Join(t.TempDir(), "cut"), &atomic.Int64{}
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			n := int(links.Add(1))
			go func() {
				defer c.Close()
				host, err := net.Dial("unix", to)
				if err != nil {
					return
				}
				defer host.Close()
				go io.Copy(host, c)
				io.CopyN(c, host, after(n))
			}()
		}
	}()
	return socket, links
}

// TestPullGoesOn: a link that breaks again and again costs what was under way, and no verified chunk is fetched twice.
func TestPullGoesOn(t *testing.T) {
	w := newWorld(t)
	p := sparse(6 << 20)
	data := w.publish("big", "all", p).Manifest().DataBytes()
	w.raw(dbUUID)
	socket, links := cutter(t, w.socket(dbUUID), func(int) int64 { return 1 << 20 })
	agent := w.agent(dbUUID)
	agent.Link = "unix://" + socket
	dest := filepath.Join(w.dir, "big")
	r, err := agent.Pull(t.Context(), "big", dest, guestagent.PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	wantFile(t, dest, p)
	if r.Links < 5 || int(links.Load()) != r.Links || r.Fetched != data {
		t.Errorf("%+v over %d links, want every byte of %d once", r, links.Load(), data)
	}
	var out bytes.Buffer
	if r, err = agent.PullTo(t.Context(), "big", &out, guestagent.PullOptions{}); err != nil || !bytes.Equal(out.Bytes(), p) || r.Links < 5 {
		t.Errorf("to a pipe: %d bytes, %+v, %v", out.Len(), r, err)
	}
}

// TestPullResumes: another process goes on where one was interrupted, and trusts nothing that it finds.
func TestPullResumes(t *testing.T) {
	w := newWorld(t)
	p := sparse(6 << 20)
	f := w.publish("big", "all", p)
	w.raw(dbUUID)
	socket, _ := cutter(t, w.socket(dbUUID), func(int) int64 { return 3 << 20 })
	once := w.agent(dbUUID)
	once.Link, once.Patience = "unix://"+socket, -1
	dest := filepath.Join(w.dir, "big")
	first, err := once.Pull(t.Context(), "big", dest, guestagent.PullOptions{})
	if err == nil || first.Fetched == 0 {
		t.Fatalf("%+v, %v", first, err)
	}
	parts, _ := filepath.Glob(filepath.Join(w.dir, ".big.*.part"))
	if len(parts) != 1 {
		t.Fatalf("parts: %v", parts)
	}
	part, err := os.OpenFile(parts[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	// A chunk that was damaged since, and a hole that somebody filled.
	for _, at := range []int64{f.Manifest().Offset(5), 0} {
		if _, err := part.WriteAt([]byte("damage"), at); err != nil {
			t.Fatal(err)
		}
	}
	part.Close()
	second, err := w.agent(dbUUID).Pull(t.Context(), "big", dest, guestagent.PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	wantFile(t, dest, p)
	if second.Resumed != first.Fetched-int64(f.Manifest().ChunkLen(5)) || second.Resumed+second.Fetched != second.Data {
		t.Errorf("first %+v, second %+v", first, second)
	}
}

// TestDaemonRestarts: a pull goes on over a restart of the host's daemon.
func TestDaemonRestarts(t *testing.T) {
	w := newWorld(t)
	p := randomBytes(8 << 20)
	w.publish("big", "all", p)
	dest := filepath.Join(w.dir, "big")
	restarted := make(chan struct{})
	var once atomic.Bool
	r, err := w.agent(dbUUID).Pull(t.Context(), "big", dest, guestagent.PullOptions{Progress: func(done, _ int64) {
		if done > 2<<20 && once.CompareAndSwap(false, true) {
			w.stop()
			w.start()
			close(restarted)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	<-restarted
	wantFile(t, dest, p)
	if r.Links != 2 || r.Fetched != r.Data {
		t.Errorf("%+v", r)
	}
}

// TestDomainLeaves: the links of a domain that leaves end, and those of one that comes are taken.
func TestDomainLeaves(t *testing.T) {
	w := newWorld(t)
	w.publish("file", "all", randomBytes(100))
	if _, err := w.agent(webUUID).Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := guestlink.NewConn(w.raw(webUUID))
	if err := c.SendMessage(guestlink.Hello, 1, guestlink.HelloRequest{Version: guestlink.Version}); err != nil {
		t.Fatal(err)
	}
	if f, err := c.Receive(); err != nil || f.Kind != guestlink.Hello {
		t.Fatal(f, err)
	}
	var web placement.Domain
	w.setDomains(func(list []placement.Domain) []placement.Domain {
		web = list[0]
		return list[1:]
	})
	f, err := c.Receive()
	var why guestlink.Failure
	if err != nil || f.Kind != guestlink.Failed || f.Decode(&why) != nil || why.Code != guestlink.CodeGone {
		t.Fatalf("%v %s, %v", f.Kind, f.Payload, err)
	}
	if _, err := c.Receive(); err == nil {
		t.Error("the link goes on")
	}
	short := w.agent(webUUID)
	short.Patience = -1
	eventually(t, "nobody listens for a domain that is not here", func() error {
		if _, err := short.Status(t.Context()); !errors.Is(err, guestagent.ErrNoLink) {
			return fmt.Errorf("it is told: %w", err)
		}
		return nil
	})
	w.setDomains(func(list []placement.Domain) []placement.Domain { return append(list, web) })
	if s, err := w.agent(webUUID).Status(t.Context()); err != nil || s.Domain != "web-1" || s.PushPrefix != "guests/"+webUUID+"/" {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestPush(t *testing.T) {
	w := newWorld(t)
	p := sparse(3 << 20)
	source := filepath.Join(w.dir, "source.img")
	if err := os.WriteFile(source, p, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := w.agent(webUUID).Push(t.Context(), source, "out/app.img", nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Name != "guests/"+webUUID+"/out/app.img" || r.Copies != 1 || r.Size != int64(len(p)) {
		t.Errorf("%+v", r)
	}
	dest := filepath.Join(w.dir, "back.img")
	if _, err := w.agent(webUUID).Pull(t.Context(), r.Name, dest, guestagent.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	wantFile(t, dest, p)
	if files, err := w.agent(dbUUID).List(t.Context(), ""); err != nil || len(files) != 0 {
		t.Errorf("another domain sees %v, %v", files, err)
	}
	_, err = w.agent(dbUUID).Push(t.Context(), source, "x", nil)
	wantCode(t, err, guestlink.CodeDenied)
	_, err = w.agent(webUUID).Push(t.Context(), source, "../"+dbUUID+"/x", nil)
	wantCode(t, err, guestlink.CodeDenied)
	_, err = w.agent(webUUID).Push(t.Context(), filepath.Dir(source), "x", nil)
	if !errors.Is(err, guestagent.ErrNotRegular) {
		t.Errorf("a directory: %v", err)
	}
	// 8 MiB is the quota: with another version of the same name it fits, as another file twice it does not.
	for _, name := range []string{"out/app.img", "second"} {
		if _, err := w.agent(webUUID).Push(t.Context(), source, name, nil); err != nil {
			t.Fatal(name, err)
		}
	}
	_, err = w.agent(webUUID).Push(t.Context(), source, "third", nil)
	wantCode(t, err, guestlink.CodeQuota)
	if err := os.Truncate(source, 9<<20); err != nil {
		t.Fatal(err)
	}
	_, err = w.agent(webUUID).Push(t.Context(), source, "huge", nil)
	wantCode(t, err, guestlink.CodeQuota)
}

// TestPushGoesOn: what was sent is not sent again over the next link.
func TestPushGoesOn(t *testing.T) {
	w := newWorld(t)
	p := randomBytes(6 << 20)
	source := filepath.Join(w.dir, "source.img")
	if err := os.WriteFile(source, p, 0o600); err != nil {
		t.Fatal(err)
	}
	cut := make(chan struct{})
	ln, err := net.Listen("unix", filepath.Join(w.dir, "cut"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	w.raw(webUUID)
	go func() { // cuts the second link (the first asks whether it may) after 3 MiB of the guest's
		for n := 1; ; n++ {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				host, err := net.Dial("unix", w.socket(webUUID))
				if err != nil {
					return
				}
				defer host.Close()
				go io.Copy(c, host)
				if n != 2 {
					io.Copy(host, c)
					return
				}
				io.CopyN(host, c, 3<<20)
				close(cut)
			}()
		}
	}()
	agent := w.agent(webUUID)
	agent.Link = "unix://" + ln.Addr().String()
	r, err := agent.Push(t.Context(), source, "app", nil)
	if err != nil {
		t.Fatal(err)
	}
	<-cut
	if r.Links < 2 || r.Sent > int64(len(p))+1<<20 {
		t.Errorf("%+v, want about %d bytes sent in all", r, len(p))
	}
}

// TestDigestIsNoKey: who knows only the digests of another's file does not come to its bytes.
func TestDigestIsNoKey(t *testing.T) {
	w := newWorld(t)
	m := w.publish("secret", dbUUID, randomBytes(300<<10)).Manifest()
	c := guestlink.NewConn(w.raw(webUUID))
	receive := func(kind guestlink.Kind) guestlink.Frame {
		t.Helper()
		f, err := c.Receive()
		if err != nil || f.Kind != kind {
			t.Fatalf("%v %s, %v; want %v", f.Kind, f.Payload, err, kind)
		}
		return f
	}
	c.SendMessage(guestlink.Hello, 1, guestlink.HelloRequest{Version: guestlink.Version})
	receive(guestlink.Hello)
	c.SendMessage(guestlink.Push, 2, guestlink.PushRequest{Name: "mine", Manifest: len(m.Encode())})
	c.SendData(2, m.Encode())
	receive(guestlink.Wanted)
	want, err := content.DecodeBits(bytes.Clone(receive(guestlink.Data).Payload), m.Chunks())
	if err != nil || want.Count() != m.DataChunks() {
		t.Fatalf("the host wants %d of %d chunks (%v): it tells which it has", want.Count(), m.DataChunks(), err)
	}
	for i := range m.Chunks() {
		c.SendData(2, make([]byte, m.ChunkLen(i)))
	}
	c.Send(guestlink.Commit, 2, nil)
	var why guestlink.Failure
	if f := receive(guestlink.Failed); f.Decode(&why) != nil || why.Code != guestlink.CodeCorrupt {
		t.Fatalf("%s", f.Payload)
	}
	if files, err := w.agent(webUUID).List(t.Context(), ""); err != nil || len(files) != 0 {
		t.Errorf("it has %v, %v", files, err)
	}
}

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
