package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/guestlink"
)

// The attacks on the conversation.

// header is one of a frame, with a checksum that is right for no payload, and for bulk.
func header(kind guestlink.Kind, id, length uint32) []byte {
	h := []byte{byte(kind), 0, 0, 0}
	h = binary.LittleEndian.AppendUint32(h, id)
	h = binary.LittleEndian.AppendUint32(h, length)
	return binary.LittleEndian.AppendUint32(h, crc32.Checksum(h, castagnoli))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// frames sends garbage: before a greeting bytes, after it headers of a multiplexer that are no good, and on streams
// frames with random payloads.
func (x *attacker) frames() error {
	for x.on() {
		c, err := x.dial()
		if err != nil {
			return err
		}
		_, _ = c.Write(noise(16 + rand.IntN(64<<10)))
		if err := x.lastOf(c); err != nil {
			return err
		}
		if c, err = x.greet(); err != nil {
			return err
		}
		x.muxes(c)
		if err := x.lastOf(c); err != nil {
			return err
		}
		s, err := x.session()
		if err != nil {
			return err
		}
		stream, err := s.Open(context.Background(), guestlink.Purpose(rand.IntN(6)))
		for n := 0; err == nil && n < 100; n++ {
			c := guestlink.NewConn(stream)
			switch kind, payload := guestlink.Kind(rand.IntN(32)), noise(rand.IntN(200)); kind {
			case guestlink.Mux: // which a stream's conversation does not send
			case guestlink.Data:
				err = c.SendData(rand.Uint32(), payload)
			default:
				err = c.Send(kind, rand.Uint32(), payload)
			}
		}
		if _, err := x.ended(s); err != nil {
			return err
		}
	}
	return nil
}

// muxes sends headers of the multiplexer with right checksums and numbers: streams that are opened and closed as nobody
// would, windows that grow without bound, types and flags that there are none of.
func (x *attacker) muxes(c net.Conn) {
	for n := range uint32(1000) {
		mux := []byte{0, byte(rand.IntN(3)), 0, byte(rand.IntN(32))}
		mux = binary.BigEndian.AppendUint32(mux, uint32(rand.IntN(40)))
		length := uint32(rand.IntN(300))
		if rand.IntN(10) == 0 {
			length = rand.Uint32()
		}
		mux = binary.BigEndian.AppendUint32(mux, length)
		body := 0
		if mux[1] == 0 {
			body = int(min(length, guestlink.MaxPiece))
		}
		h := []byte{byte(guestlink.Mux), 0, 0, 0}
		h = binary.LittleEndian.AppendUint32(h, n)
		h = binary.LittleEndian.AppendUint32(h, uint32(len(mux)+body))
		h = binary.LittleEndian.AppendUint32(h, crc32.Update(crc32.Checksum(h, castagnoli), castagnoli, mux))
		if _, err := c.Write(append(append(h, mux...), noise(body)...)); err != nil {
			return // it has been ended
		}
	}
}

// streams opens more streams than there may be, fills the window of each and reads nothing, closes none; and opens and
// closes them as fast as it can.
func (x *attacker) streams() error {
	for ok := true; ok; ok = x.on() {
		s, err := x.session()
		if err != nil {
			return err
		}
		var filling sync.WaitGroup
		for range guestlink.MaxStreams {
			stream, err := s.Open(context.Background(), guestlink.ForPush)
			if err != nil {
				break
			}
			filling.Go(func() {
				c := guestlink.NewConn(stream)
				_ = c.SendMessage(guestlink.Push, 2, guestlink.PushRequest{Name: "x", Manifest: guestlink.MaxManifest})
				_ = c.SendData(2, make([]byte, 2*guestlink.HostWindow))
			})
			x.codes["streams"]++
		}
		filling.Wait()
		s.Close()
		if s, err = x.session(); err != nil {
			return err
		}
		for range 1000 {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			stream, err := s.Open(ctx, guestlink.ForRequests)
			cancel()
			if err != nil {
				break
			}
			stream.Close()
			x.codes["streams"]++
		}
		s.Close()
	}
	return nil
}

// lengths promises more than may be, or asks for it.
func (x *attacker) lengths() error {
	for _, h := range [][]byte{
		header(guestlink.Mux, 0, 1<<32-1), header(guestlink.Mux, 0, 3), header(guestlink.Data, 0, 1<<31),
		header(guestlink.Beat, 1, 0), header(guestlink.Failed, 0, guestlink.MaxControl+1),
	} {
		c, err := x.greet()
		if err != nil {
			return err
		}
		_, _ = c.Write(append(h, noise(64)...))
		if err := x.lastOf(c); err != nil {
			return err
		}
	}
	says := []func(c *guestlink.Conn, raw io.Writer) error{
		func(_ *guestlink.Conn, raw io.Writer) error { return write(raw, header(guestlink.Ping, 2, 1<<32-1)) },
		func(_ *guestlink.Conn, raw io.Writer) error { return write(raw, header(guestlink.Data, 2, 1<<31)) },
		func(_ *guestlink.Conn, raw io.Writer) error {
			return write(raw, header(guestlink.Push, 2, guestlink.MaxControl+1))
		},
		func(c *guestlink.Conn, raw io.Writer) error {
			return c.Send(guestlink.Ping, 2, noise(guestlink.MaxPing+1))
		},
		func(c *guestlink.Conn, raw io.Writer) error {
			return c.SendMessage(guestlink.Push, 2, guestlink.PushRequest{Name: "x", Manifest: 1 << 40})
		},
		func(c *guestlink.Conn, raw io.Writer) error {
			return c.SendMessage(guestlink.Push, 2, guestlink.PushRequest{Name: "x", Manifest: -1 << 40})
		},
		func(c *guestlink.Conn, raw io.Writer) error { // nothing of the manifest comes
			err := c.SendMessage(guestlink.Push, 2, guestlink.PushRequest{Name: "x", Manifest: guestlink.MaxManifest})
			if err == nil {
				err = write(raw, header(guestlink.Data, 2, 0))
			}
			return err
		},
		func(c *guestlink.Conn, raw io.Writer) error { // all of it comes, and is none
			err := c.SendMessage(guestlink.Push, 2, guestlink.PushRequest{Name: "x", Manifest: 4 << 20})
			if err == nil {
				err = c.SendData(2, noise(4<<20))
			}
			return err
		},
		func(c *guestlink.Conn, raw io.Writer) error { // and reads past the end, before the beginning, and too much
			read := guestlink.ReadRequest{First: rand.IntN(3) - 1, Count: 1 << 40}
			err := c.SendMessage(guestlink.Open, 2, guestlink.OpenRequest{Name: x.own})
			if err == nil {
				err = c.SendMessage(guestlink.Read, 3, read)
			}
			return err
		},
		func(c *guestlink.Conn, raw io.Writer) error {
			return c.SendMessage(guestlink.List, 2, guestlink.ListRequest{Prefix: strings.Repeat("x", guestlink.MaxControl-100)})
		},
		func(c *guestlink.Conn, raw io.Writer) error {
			return c.SendMessage(guestlink.Open, 2, guestlink.OpenRequest{Name: strings.Repeat("\x00", 10_000)})
		},
	}
	for i := 0; x.on() || i < len(says); i++ {
		s, err := x.session()
		if err != nil {
			return err
		}
		// What is no violation by itself is ended by a frame that is; what a stream is for does not matter to a length.
		purposes := []guestlink.Purpose{guestlink.ForRequests, guestlink.ForPull, guestlink.ForPush}
		stream, err := s.Open(context.Background(), purposes[i/len(says)%len(purposes)])
		if err != nil {
			return err
		}
		if c := guestlink.NewConn(stream); says[i%len(says)](c, stream) == nil {
			_ = c.Send(guestlink.Published, 9, nil)
		}
		if _, err := x.ended(s); err != nil {
			return err
		}
	}
	return nil
}

func write(w io.Writer, p []byte) error {
	_, err := w.Write(p)
	return err
}

// slow asks for all of a large file on several streams of several links, and takes nothing of it.
func (x *attacker) slow() error {
	var links []*guestlink.Session
	defer func() {
		for _, s := range links {
			s.Close()
		}
	}()
	for range 3 {
		s, err := x.session()
		if err != nil {
			return err
		}
		links = append(links, s)
		for range 8 {
			c, err := x.talk(s, guestlink.ForPull)
			if err != nil {
				return err
			}
			if err := c.SendMessage(guestlink.Open, 2, guestlink.OpenRequest{Name: x.own}); err != nil {
				return err
			}
			for i := range uint32(20) {
				if err := c.SendMessage(guestlink.Read, 3+i, guestlink.ReadRequest{First: 0, Count: 16}); err != nil {
					return err
				}
			}
		}
	}
	x.rest()
	return nil
}

// secrets asks for what is another's: by its name, by its digest under names of its own, and in lists.
func (x *attacker) secrets() error {
	for ok := true; ok; ok = x.on() {
		s, err := x.session()
		if err != nil {
			return err
		}
		if err := x.listed(s); err != nil {
			return err
		}
		c, err := x.talk(s, guestlink.ForPull)
		if err != nil {
			return err
		}
		for i, req := range []guestlink.OpenRequest{
			{Name: x.secret}, {Name: x.secret, ID: x.digest}, {Name: x.own, ID: x.digest}, {ID: x.digest},
			{Name: x.digest.String()}, {Name: "./" + x.secret}, {Name: x.own + "/../" + x.secret},
		} {
			if err := c.SendMessage(guestlink.Open, uint32(3+i), req); err != nil {
				return err
			}
			var why guestlink.Failure
			f, err := c.Receive()
			if err != nil || f.Kind != guestlink.Failed || f.Decode(&why) != nil || why.Code != guestlink.CodeNotFound {
				return fmt.Errorf("another's file by %+v: %s frame %.200s, %v", req, f.Kind, f.Payload, err)
			}
			x.codes[string(why.Code)]++
		}
		s.Close()
	}
	return nil
}

// listed looks for the secret in a list.
func (x *attacker) listed(s *guestlink.Session) error {
	c, err := x.talk(s, guestlink.ForRequests)
	if err == nil {
		err = c.SendMessage(guestlink.List, 2, guestlink.ListRequest{})
	}
	for err == nil {
		var f guestlink.Frame
		if f, err = c.Receive(); err != nil || f.Kind == guestlink.End {
			break
		}
		if strings.Contains(string(f.Payload), x.secret) || strings.Contains(string(f.Payload), x.digest.String()) {
			err = fmt.Errorf("another's file is in the list: %s", f.Payload)
		}
	}
	return err
}

// push is a file that is pushed wrongly, and the word that it must end with; "" is any, but for success.
type push struct {
	name  string
	bytes int64
	want  guestlink.Code
	send  func(c *guestlink.Conn, m *content.Manifest) error
}

// pushes breaks off in every part of a push, sends other bytes than it said, and pushes what and where it may not.
func (x *attacker) pushes() error {
	manifest := func(c *guestlink.Conn, m *content.Manifest) error { return c.SendData(2, m.Encode()) }
	nothing := func(*guestlink.Conn, *content.Manifest) error { return nil }
	cases := []push{
		{"a", 1 << 20, "", nothing},
		{"a", 1 << 20, "", func(c *guestlink.Conn, m *content.Manifest) error { return c.SendData(2, m.Encode()[:40]) }},
		{"a", 1 << 20, "", manifest},
		{"a", 1 << 20, "", func(c *guestlink.Conn, m *content.Manifest) error {
			if err := manifest(c, m); err != nil {
				return err
			}
			return c.SendData(2, noise(content.MinChunkSize/2))
		}},
		{"a", 1 << 20, guestlink.CodeProtocol, func(c *guestlink.Conn, m *content.Manifest) error { // and nothing of the chunks
			if err := manifest(c, m); err != nil {
				return err
			}
			return c.Send(guestlink.Commit, 2, nil)
		}},
		{"a", 1 << 20, guestlink.CodeCorrupt, func(c *guestlink.Conn, m *content.Manifest) error {
			if err := manifest(c, m); err != nil {
				return err
			}
			return c.SendData(2, noise(1<<20))
		}},
		{"a", 1 << 40, guestlink.CodeQuota, manifest},
		{"../a", 1 << 20, guestlink.CodeDenied, manifest},
		{"a/../../" + x.secret, 1 << 20, guestlink.CodeDenied, manifest},
		{"", 1 << 20, guestlink.CodeDenied, manifest},
	}
	for i := 0; x.on() || i < len(cases); i++ {
		if err := x.push(cases[i%len(cases)]); err != nil {
			return err
		}
	}
	return nil
}

func (x *attacker) push(p push) error {
	size := content.ChunkSizeFor(p.bytes)
	digests := make([]content.Digest, (p.bytes+int64(size)-1)/int64(size))
	digests[0] = content.Digest(noise(content.DigestSize))
	m, err := content.NewManifest(p.bytes, size, digests)
	if err != nil {
		return err
	}
	s, err := x.session()
	if err != nil {
		return err
	}
	defer s.Close()
	c, err := x.talk(s, guestlink.ForPush)
	if err != nil {
		return err
	}
	err = c.SendMessage(guestlink.Push, 2, guestlink.PushRequest{Name: p.name, Manifest: len(m.Encode())})
	if err == nil {
		_ = p.send(c, m) // it may be refused before all of it is sent
	}
	if p.want == "" { // it is broken off
		x.codes["broken off"]++
		return nil
	}
	code := guestlink.Code("")
	for err = nil; err == nil && code == ""; {
		var f guestlink.Frame
		if f, err = c.Receive(); err == nil && f.Kind == guestlink.Failed { // after the set of the chunks that the host wants
			var why guestlink.Failure
			err = f.Decode(&why)
			code = why.Code
			x.codes[string(code)]++
		}
	}
	if code == "" {
		if code, err = x.ended(s); err != nil {
			return err
		}
	}
	if code != p.want && code != "" && code != guestlink.CodeBusy {
		return fmt.Errorf("the push of %q, %d bytes, ends with %q, not %q", p.name, p.bytes, code, p.want)
	}
	return nil
}
