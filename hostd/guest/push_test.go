package guest_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtswarm/virtswarm/guestagent"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/guestlink"
)

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
	c := w.stream(w.session(webUUID), guestlink.ForPush)
	receive := func(kind guestlink.Kind) guestlink.Frame {
		t.Helper()
		f, err := c.Receive()
		if err != nil || f.Kind != kind {
			t.Fatalf("%v %s, %v; want %v", f.Kind, f.Payload, err, kind)
		}
		return f
	}
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
