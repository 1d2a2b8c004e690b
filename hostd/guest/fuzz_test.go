package guest_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/hostd/guest"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/guestlink"
)

// say appends to a script a frame on one of four streams: which one, its kind, the number of the request and the
// payload behind its length. A frame with the right checksum is made of it, as a fuzzer would never find one.
func say(script []byte, stream byte, kind guestlink.Kind, id byte, payload []byte) []byte {
	return append(append(script, stream, byte(kind), id, byte(len(payload)), byte(len(payload)>>8)), payload...)
}

// speak says what is in a script. If its first byte is odd, the rest is bytes instead of a multiplexer's, as they are;
// else the next four bytes say what four streams are for.
func speak(link net.Conn, script []byte) {
	if len(script) > 0 && script[0]&1 == 1 {
		_, _ = link.Write(script[1:])
		return
	}
	s, err := guestlink.NewSession(link, guestlink.Config{Guest: true})
	if err != nil || len(script) < 5 {
		return
	}
	defer s.Close()
	var streams [4]*guestlink.Conn
	var first *guestlink.Stream
	for i := range streams {
		x, err := s.Open(context.Background(), guestlink.Purpose(script[1+i]))
		if err != nil {
			return
		}
		defer x.Close()
		if i == 0 {
			first = x
		}
		streams[i] = guestlink.NewConn(x)
	}
	for script = script[5:]; len(script) >= 5; {
		c, kind, id := streams[script[0]%4], guestlink.Kind(script[1]), uint32(script[2])
		n := min(int(script[3])|int(script[4])<<8, len(script)-5)
		payload := script[5 : 5+n]
		script = script[5+n:]
		if kind == guestlink.Data {
			_ = c.SendData(id, payload)
		} else {
			_ = c.Send(kind, id, payload)
		}
	}
	first.SetPatience(time.Second) // for one that is not read any more
	err = streams[0].Send(guestlink.Ping, 1, nil)
	for f := (guestlink.Frame{}); err == nil && f.Kind != guestlink.Pong; f, err = streams[0].Receive() {
	}
}

// FuzzConversation has a guest say anything after its greeting. The link must end when the guest ends it, and the
// memory that it took must not exceed what may be held for one.
func FuzzConversation(f *testing.F) {
	w := newWorld(f)
	file := w.publish("file", "all", randomBytes(200<<10))
	p := bytes.Repeat([]byte("a chunk of a guest's own file "), 100)
	m, err := content.NewManifest(int64(len(p)), content.MinChunkSize, []content.Digest{content.Sum(p)})
	if err != nil {
		f.Fatal(err)
	}
	head := []byte{0, byte(guestlink.ForRequests), byte(guestlink.ForPull), byte(guestlink.ForPush), byte(guestlink.ForBell)}
	watch := []byte{0, byte(guestlink.ForWatch), byte(guestlink.ForWatch), 0, 255}
	push := say(bytes.Clone(head), 2, guestlink.Push, 2, []byte(`{"name":"mine","manifest":`+strconv.Itoa(len(m.Encode()))+`}`))
	push = say(say(say(push, 2, guestlink.Data, 2, m.Encode()), 2, guestlink.Data, 2, p), 2, guestlink.Commit, 2, nil)
	open := say(bytes.Clone(head), 1, guestlink.Open, 2, []byte(`{"name":"file","id":"`+file.ID().String()+`"}`))
	f.Add(push)
	f.Add(say(open, 1, guestlink.Read, 3, []byte(`{"first":0,"count":4}`)))
	f.Add(say(say(watch, 0, guestlink.Watch, 2, []byte(`{}`)), 1, guestlink.Watch, 3, []byte(`{"prefix":"f"}`)))
	f.Add(say(say(bytes.Clone(head), 0, guestlink.Ping, 2, []byte("ping")), 0, guestlink.List, 0, []byte(`{}`)))
	f.Add(say(say(bytes.Clone(head), 3, guestlink.Bell, 2, nil), 3, guestlink.Bell, 3, nil))
	f.Add([]byte("\x01GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, script []byte) {
		var c net.Conn
		eventually(t, "the host listens", func() (err error) {
			c, err = net.Dial("unix", w.socket(webUUID))
			return err
		})
		defer c.Close()
		guard := time.AfterFunc(20*time.Second, func() { t.Error("the conversation does not end"); c.Close() })
		defer guard.Stop()
		if _, err := guestlink.Greet(c, "fuzz"); err != nil {
			t.Fatal(err)
		}
		speak(c, script)
		c.Close()
		eventually(t, "the link is given back", func() error {
			if w.server.Links()[webUUID] > 0 {
				return errors.New("it is taken")
			}
			return nil
		})
		if inUse() > guest.MaxHeld+guest.MaxStreams*guestlink.HostWindow {
			if runtime.GC(); inUse() > guest.MaxHeld+guest.MaxStreams*guestlink.HostWindow { // not only garbage
				t.Fatalf("%d bytes are in use", inUse())
			}
		}
	})
}

func inUse() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
