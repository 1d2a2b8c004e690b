package guest_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/hostd/guest"
	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/guestlink"
)

// tape takes down what is sent.
type tape struct {
	net.Conn
	bytes.Buffer
}

func (t *tape) Read([]byte) (int, error)         { return 0, io.EOF }
func (t *tape) Write(p []byte) (int, error)      { return t.Buffer.Write(p) }
func (t *tape) SetWriteDeadline(time.Time) error { return nil }

// say appends a frame to a script: its kind, the number of the request and the payload behind its length. A frame with the
// right checksum is made of it, as a fuzzer would never find one.
func say(script []byte, kind guestlink.Kind, id byte, payload []byte) []byte {
	return append(append(script, byte(kind), id, byte(len(payload)), byte(len(payload)>>8)), payload...)
}

// spoken is what a script says on a link, from Hello on; a script of which the first byte is odd is bytes as they are.
func spoken(script []byte) []byte {
	t := &tape{}
	c := guestlink.NewConn(t)
	_ = c.SendMessage(guestlink.Hello, 1, guestlink.HelloRequest{Version: guestlink.Version, Agent: "fuzz"})
	if len(script) > 0 && script[0]&1 == 1 {
		t.Write(script[1:])
		return t.Bytes()
	}
	for script = script[min(1, len(script)):]; len(script) >= 4; {
		kind, id := guestlink.Kind(script[0]), uint32(script[1])
		n := min(int(script[2])|int(script[3])<<8, len(script)-4)
		payload := script[4 : 4+n]
		script = script[4+n:]
		if kind == guestlink.Data {
			_ = c.SendData(id, payload)
		} else {
			_ = c.Send(kind, id, payload)
		}
	}
	return t.Bytes()
}

// FuzzConversation has a guest say anything after its greeting. The session must end when the guest ends it, and the memory
// that it took must not exceed what may be held for one.
func FuzzConversation(f *testing.F) {
	w := newWorld(f)
	file := w.publish("file", "all", randomBytes(200<<10))
	p := bytes.Repeat([]byte("a chunk of a guest's own file "), 100)
	m, err := content.NewManifest(int64(len(p)), content.MinChunkSize, []content.Digest{content.Sum(p)})
	if err != nil {
		f.Fatal(err)
	}
	push := say([]byte{0}, guestlink.Push, 2, []byte(`{"name":"mine","manifest":`+strconv.Itoa(len(m.Encode()))+`}`))
	push = say(say(say(push, guestlink.Data, 2, m.Encode()), guestlink.Data, 2, p), guestlink.Commit, 2, nil)
	open := say([]byte{0}, guestlink.Open, 2, []byte(`{"name":"file","id":"`+file.ID().String()+`"}`))
	f.Add(push)
	f.Add(say(open, guestlink.Read, 3, []byte(`{"first":0,"count":4}`)))
	f.Add(say(say([]byte{0}, guestlink.Watch, 2, []byte(`{}`)), guestlink.List, 3, []byte(`{"prefix":"f"}`)))
	f.Add(say(say([]byte{0}, guestlink.Ping, 2, []byte("ping")), guestlink.Beat, 0, nil))
	f.Add(say(say([]byte{0}, guestlink.Bell, 2, nil), guestlink.Bell, 3, nil))
	f.Add([]byte("\x01GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, script []byte) {
		var c net.Conn
		eventually(t, "the host listens", func() (err error) {
			c, err = net.Dial("unix", w.socket(webUUID))
			return err
		})
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		said := make(chan struct{})
		go func() {
			defer close(said)
			_, _ = c.Write(spoken(script)) // the host may have ended it before all is said
			c.(*net.UnixConn).CloseWrite()
		}()
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("the conversation does not end")
		}
		<-said
		eventually(t, "the link is given back", func() error {
			if w.server.Links()[webUUID] > 0 {
				return errors.New("it is taken")
			}
			return nil
		})
		if inUse() > guest.MaxHeld {
			if runtime.GC(); inUse() > guest.MaxHeld { // not only garbage
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
