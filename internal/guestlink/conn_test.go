package guestlink_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/virtswarm/virtswarm/internal/guestlink"
	"github.com/virtswarm/virtswarm/internal/link/linktest"
)

// frame is the bytes of one, as docs/guestlink.md has it.
func frame(kind guestlink.Kind, id uint32, payload []byte) []byte {
	b := []byte{byte(kind), 0, 0, 0}
	b = binary.LittleEndian.AppendUint32(b, id)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := crc32.Checksum(b, table)
	if kind != guestlink.Data {
		sum = crc32.Update(sum, table, payload)
	}
	return append(binary.LittleEndian.AppendUint32(b, sum), payload...)
}

// script is a link on which bytes come and end.
func script(p []byte) net.Conn {
	a, b := linktest.Pipe()
	go func() {
		_, _ = b.Write(p)
		b.(interface{ CloseWrite() error }).CloseWrite()
		_, _ = io.Copy(io.Discard, b)
		b.Close()
	}()
	return a
}

func TestFrames(t *testing.T) {
	a, b := linktest.Pipe()
	from, to := guestlink.NewConn(a), guestlink.NewConn(b)
	defer from.Close()
	defer to.Close()
	bulk := bytes.Repeat([]byte("bulk"), guestlink.MaxData/2) // two frames
	control := bytes.Repeat([]byte("c"), guestlink.MaxControl)
	sent := make(chan error, 1)
	go func() {
		sent <- errors.Join(from.Send(guestlink.Ping, 1, nil), from.Send(guestlink.Ping, 1<<32-1, control),
			from.SendMessage(guestlink.Open, 3, guestlink.OpenRequest{Name: "a/b"}), from.SendData(4, bulk), from.SendData(5, nil),
			from.Send(guestlink.End, 6, nil))
	}()
	want := func(kind guestlink.Kind, id uint32, buf, payload []byte) guestlink.Frame {
		t.Helper()
		f, err := to.ReceiveInto(buf)
		if err != nil || f.Kind != kind || f.ID != id || payload != nil && !bytes.Equal(f.Payload, payload) {
			t.Fatalf("%s frame of request %d with %d bytes, %v; want %s of %d", f.Kind, f.ID, len(f.Payload), err, kind, id)
		}
		return f
	}
	want(guestlink.Ping, 1, nil, []byte{})
	want(guestlink.Ping, 1<<32-1, nil, control)
	var req guestlink.OpenRequest
	if f := want(guestlink.Open, 3, nil, nil); f.Decode(&req) != nil || req.Name != "a/b" {
		t.Errorf("%s", f.Payload)
	}
	buf := make([]byte, guestlink.MaxData)
	if f := want(guestlink.Data, 4, buf, bulk[:guestlink.MaxData]); &f.Payload[0] != &buf[0] {
		t.Error("bulk is not where it was to be")
	}
	if f := want(guestlink.Data, 4, buf[:10], bulk[guestlink.MaxData:]); &f.Payload[0] == &buf[0] {
		t.Error("bulk is where it does not fit")
	}
	want(guestlink.End, 6, nil, nil)
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if err := from.Send(guestlink.Ping, 1, make([]byte, guestlink.MaxControl+1)); !errors.Is(err, guestlink.ErrProtocol) {
		t.Errorf("a payload that is too long is sent: %v", err)
	}
	if err := from.Send(guestlink.Data, 1, nil); !errors.Is(err, guestlink.ErrProtocol) {
		t.Errorf("bulk is sent as a control frame: %v", err)
	}
	from.Close()
	if _, err := to.Receive(); err != io.EOF {
		t.Errorf("the end between two frames: %v", err)
	}
}

// TestChecksum flips every bit of a control frame, and of the header of bulk: none is taken for what was sent.
func TestChecksum(t *testing.T) {
	for kind, covered := range map[guestlink.Kind]int{guestlink.List: 0, guestlink.Data: 16} {
		good := frame(kind, 7, []byte(`{"prefix":"a"}`))
		if f, err := guestlink.NewConn(script(good)).Receive(); err != nil || f.ID != 7 {
			t.Fatalf("%s: %v, %v", kind, f, err)
		}
		if covered == 0 {
			covered = len(good)
		}
		for bit := range 8 * covered {
			bad := bytes.Clone(good)
			bad[bit/8] ^= 1 << (bit % 8)
			c := guestlink.NewConn(script(bad))
			f, err := c.Receive()
			if err == nil || !errors.Is(err, guestlink.ErrProtocol) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s with bit %d flipped: %v, %v", kind, bit, f, err)
			}
			c.Close()
		}
	}
}

// TestLimitsOfFrames: a length is believed only within the limit of its kind, and nothing is allocated for another.
func TestLimitsOfFrames(t *testing.T) {
	for name, p := range map[string][]byte{
		"control":      frame(guestlink.List, 1, make([]byte, guestlink.MaxControl+1)),
		"bulk":         frame(guestlink.Data, 1, make([]byte, guestlink.MaxData+1)),
		"no kind":      frame(0, 1, nil),
		"unknown kind": frame(255, 1, nil),
		"multiplexer":  frame(guestlink.Mux, 1, make([]byte, 12)),
		"all ones":     bytes.Repeat([]byte{0xff}, 16),
	} {
		c := guestlink.NewConn(script(p))
		if f, err := c.Receive(); !errors.Is(err, guestlink.ErrProtocol) {
			t.Errorf("%s: %v, %v", name, f.Kind, err)
		}
		c.Close()
	}
	c := guestlink.NewConn(script(frame(guestlink.List, 1, []byte("cut"))[:18]))
	defer c.Close()
	if _, err := c.Receive(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a frame that is cut off: %v", err)
	}
}

// TestStall: a bare link on which nothing is said, or taken, is given up after StallTimeout.
func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := linktest.Pipe()
		silent, c := guestlink.NewConn(a), guestlink.NewConn(b)
		defer silent.Close()
		defer c.Close()
		begun := time.Now()
		if _, err := c.Receive(); !errors.Is(err, guestlink.ErrStalled) || time.Since(begun) != guestlink.StallTimeout {
			t.Errorf("nothing is said: %v after %v", err, time.Since(begun))
		}
		begun = time.Now()
		if err := c.SendData(1, make([]byte, 1<<20)); !errors.Is(err, guestlink.ErrStalled) || time.Since(begun) != guestlink.StallTimeout {
			t.Errorf("nothing is taken: %v after %v", err, time.Since(begun))
		}
	})
}

// FuzzReceive gives a conversation anything to read: it is frames within their limits, and then an end.
func FuzzReceive(f *testing.F) {
	f.Add(frame(guestlink.Hello, 1, []byte(`{"version":1}`)))
	f.Add(bytes.Join([][]byte{frame(guestlink.Push, 2, []byte(`{"name":"x","manifest":9}`)), frame(guestlink.Data, 2, []byte("123456789")), frame(guestlink.Commit, 2, nil)}, nil))
	f.Add(frame(guestlink.Data, 1, make([]byte, guestlink.MaxData))[:100])
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, p []byte) {
		c := guestlink.NewConn(&reader{Reader: bytes.NewReader(p)})
		buf := make([]byte, 100)
		var again []byte
		for {
			f, err := c.ReceiveInto(buf)
			if err != nil {
				if !errors.Is(err, guestlink.ErrProtocol) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Fatalf("an unnamed error: %v", err)
				}
				break
			}
			limit := guestlink.MaxControl
			if f.Kind == guestlink.Data {
				limit = guestlink.MaxData
			}
			if len(f.Payload) > limit || cap(f.Payload) > guestlink.MaxData {
				t.Fatalf("%d bytes of %s, in %d", len(f.Payload), f.Kind, cap(f.Payload))
			}
			again = append(again, frame(f.Kind, f.ID, f.Payload)...)
			var v guestlink.OpenRequest
			_ = f.Decode(&v)
		}
		if !bytes.HasPrefix(p, again) { // one encoding for a frame, and none other is taken
			t.Fatalf("the frames of %x are %x", p, again)
		}
	})
}

// reader is a link from which bytes can be read.
type reader struct {
	io.Reader
	net.Conn
}

func (r *reader) Read(p []byte) (int, error)      { return r.Reader.Read(p) }
func (r *reader) SetReadDeadline(time.Time) error { return nil }
