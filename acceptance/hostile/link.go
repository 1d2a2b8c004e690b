package main

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"strings"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/guestlink"
)

// The attacks on the conversation.

// header is one of a frame, with a checksum that is right for no payload, and for bulk.
func header(kind guestlink.Kind, length uint32) []byte {
	h := []byte{byte(kind), 0, 0, 0}
	h = binary.LittleEndian.AppendUint32(h, 2)
	h = binary.LittleEndian.AppendUint32(h, length)
	return binary.LittleEndian.AppendUint32(h, crc32.Checksum(h, crc32.MakeTable(crc32.Castagnoli)))
}

// frames sends garbage: before a greeting bytes, after it frames with random payloads.
func (x *attacker) frames() error {
	for x.on() {
		c, err := x.dial()
		if err != nil {
			return err
		}
		_, _ = c.Link().Write(noise(16 + rand.IntN(64<<10)))
		if _, err := x.last(c, false); err != nil {
			return err
		}
		if c, err = x.greet(); err != nil {
			return err
		}
		for range 100 {
			kind, payload := guestlink.Kind(rand.IntN(32)), noise(rand.IntN(200))
			if kind == guestlink.Data {
				err = c.SendData(rand.Uint32(), payload)
			} else {
				err = c.Send(kind, rand.Uint32(), payload)
			}
			if err != nil {
				break // it has been ended
			}
		}
		if _, err := x.last(c, false); err != nil {
			return err
		}
	}
	return nil
}

// lengths promises more than may be, or asks for it.
func (x *attacker) lengths() error {
	says := []func(c *guestlink.Conn) error{
		func(c *guestlink.Conn) error { return raw(c, header(guestlink.Ping, 1<<32-1)) },
		func(c *guestlink.Conn) error { return raw(c, header(guestlink.Data, 1<<31)) },
		func(c *guestlink.Conn) error { return raw(c, header(guestlink.Push, guestlink.MaxControl+1)) },
		func(c *guestlink.Conn) error { return c.Send(guestlink.Ping, 2, noise(guestlink.MaxPing+1)) },
		func(c *guestlink.Conn) error {
			return c.SendMessage(guestlink.Push, 2, guestlink.PushRequest{Name: "x", Manifest: 1 << 40})
		},
		func(c *guestlink.Conn) error {
			return c.SendMessage(guestlink.Push, 2, guestlink.PushRequest{Name: "x", Manifest: -1 << 40})
		},
		func(c *guestlink.Conn) error { // nothing of the manifest comes
			err := c.SendMessage(guestlink.Push, 2, guestlink.PushRequest{Name: "x", Manifest: guestlink.MaxManifest})
			return raw2(err, c, header(guestlink.Data, 0))
		},
		func(c *guestlink.Conn) error { // all of it comes, and is none
			err := c.SendMessage(guestlink.Push, 2, guestlink.PushRequest{Name: "x", Manifest: 4 << 20})
			if err == nil {
				err = c.SendData(2, noise(4<<20))
			}
			return err
		},
		func(c *guestlink.Conn) error { // and reads past the end, before the beginning, and too much
			read := guestlink.ReadRequest{First: rand.IntN(3) - 1, Count: 1 << 40}
			err := c.SendMessage(guestlink.Open, 2, guestlink.OpenRequest{Name: x.own})
			if err == nil {
				err = c.SendMessage(guestlink.Read, 3, read)
			}
			return err
		},
		func(c *guestlink.Conn) error {
			return c.SendMessage(guestlink.List, 2, guestlink.ListRequest{Prefix: strings.Repeat("x", guestlink.MaxControl-100)})
		},
		func(c *guestlink.Conn) error {
			return c.SendMessage(guestlink.Open, 2, guestlink.OpenRequest{Name: strings.Repeat("\x00", 10_000)})
		},
	}
	for i := 0; x.on() || i < len(says); i++ {
		c, err := x.greet()
		if err != nil {
			return err
		}
		if says[i%len(says)](c) == nil {
			_ = c.Send(guestlink.Published, 9, nil) // ends what is no violation by itself
		}
		if _, err := x.last(c, true); err != nil {
			return err
		}
	}
	return nil
}

func raw(c *guestlink.Conn, p []byte) error {
	_, err := c.Link().Write(p)
	return err
}

func raw2(err error, c *guestlink.Conn, p []byte) error {
	if err != nil {
		return err
	}
	return raw(c, p)
}

// slow asks for all of a large file on several links, and takes nothing of it.
func (x *attacker) slow() error {
	var links []*guestlink.Conn
	defer func() {
		for _, c := range links {
			c.Close()
		}
	}()
	for range 3 {
		c, err := x.greet()
		if err != nil {
			return err
		}
		links = append(links, c)
		if err := c.SendMessage(guestlink.Open, 2, guestlink.OpenRequest{Name: x.own}); err != nil {
			return err
		}
		for i := range uint32(20) {
			if err := c.SendMessage(guestlink.Read, 3+i, guestlink.ReadRequest{First: 0, Count: 16}); err != nil {
				return err
			}
		}
	}
	x.rest()
	return nil
}

// secrets asks for what is another's: by its name, by its digest under names of its own, and in lists.
func (x *attacker) secrets() error {
	for ok := true; ok; ok = x.on() {
		c, err := x.greet()
		if err != nil {
			return err
		}
		if err := c.SendMessage(guestlink.List, 2, guestlink.ListRequest{}); err != nil {
			return err
		}
		for {
			f, err := c.Receive()
			if err != nil {
				return err
			}
			if strings.Contains(string(f.Payload), x.secret) || strings.Contains(string(f.Payload), x.digest.String()) {
				return fmt.Errorf("another's file is in the list: %s", f.Payload)
			}
			if f.Kind == guestlink.End {
				break
			}
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
		c.Close()
	}
	return nil
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
	c, err := x.greet()
	if err != nil {
		return err
	}
	err = c.SendMessage(guestlink.Push, 2, guestlink.PushRequest{Name: p.name, Manifest: len(m.Encode())})
	if err == nil {
		_ = p.send(c, m) // it may be refused before all of it is sent
	}
	if p.want == "" { // it is broken off
		x.codes["broken off"]++
		return c.Close()
	}
	code, err := x.last(c, true) // the set of the chunks that the host wants
	if err == nil && code != p.want && code != "" && code != guestlink.CodeBusy {
		err = fmt.Errorf("the push of %q, %d bytes, ends with %q, not %q", p.name, p.bytes, code, p.want)
	}
	return err
}
