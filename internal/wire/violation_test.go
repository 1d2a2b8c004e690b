package wire

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/virtswarm/virtswarm/internal/content"
)

// TestViolations makes the other side break each rule once. File 0 is followed in both directions; chunk 7 is asked
// for by the session under test as request 0.
func TestViolations(t *testing.T) {
	file := newFile(1, 8, content.MinChunkSize)
	id := file.id[:]
	request := func(p *rawPeer, id, handle, index, length uint32) {
		p.send(frameRequest, 0, id, le(handle, index, length, 1)...)
	}
	draw := func(p *rawPeer, id, handle, first, count uint32) {
		p.send(frameDraw, 0, id, le(handle, first, count, 4)...)
	}
	for name, test := range map[string]struct {
		frame  string
		broken func(p *rawPeer)
	}{
		"no such type":        {"frame", func(p *rawPeer) { p.send(99, 0, 0) }},
		"http":                {"frame", func(p *rawPeer) { p.say([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")) }},
		"flag":                {"Ping", func(p *rawPeer) { p.send(framePing, 1, 0) }},
		"unknown flag":        {"Data", func(p *rawPeer) { p.send(frameData, 2, 0) }},
		"reserved":            {"Ping", func(p *rawPeer) { p.say([]byte{0, 0, 0, 0, byte(framePing), 0, 1, 0, 0, 0, 0, 0}) }},
		"long payload":        {"Data", func(p *rawPeer) { p.say(header{typ: frameData, length: PartSize + 1}.append(nil)) }},
		"huge payload":        {"Have", func(p *rawPeer) { p.say([]byte{255, 255, 255, 255, byte(frameHave), 0, 0, 0, 0, 0, 0, 0}) }},
		"payload of a ping":   {"Ping", func(p *rawPeer) { p.send(framePing, 0, 0, 1) }},
		"second hello":        {"Hello", func(p *rawPeer) { p.say(hello{version: 1}.append(nil)) }},
		"pong unasked":        {"Pong", func(p *rawPeer) { p.send(framePong, 0, 5) }},
		"request id":          {"Request 256", func(p *rawPeer) { request(p, 256, 0, 0, 100) }},
		"request twice":       {"Request 3", func(p *rawPeer) { request(p, 3, 0, 5, 100); request(p, 3, 0, 5, 100) }},
		"request no handle":   {"Request 1", func(p *rawPeer) { request(p, 1, 9, 0, 100) }},
		"request chunk":       {"Request 1", func(p *rawPeer) { request(p, 1, 0, 8, 100) }},
		"request nothing":     {"Request 1", func(p *rawPeer) { request(p, 1, 0, 0, 0) }},
		"request length":      {"Request 1", func(p *rawPeer) { request(p, 1, 0, 0, content.MaxChunkSize+1) }},
		"request after close": {"Request 1", func(p *rawPeer) { p.send(frameClose, 0, 0); request(p, 1, 0, 0, 100) }},
		"request no priority": {"Request 1", func(p *rawPeer) { p.send(frameRequest, 0, 1, le(0, 0, 100, 0)...) }},
		"request priority":    {"Request 1", func(p *rawPeer) { p.send(frameRequest, 0, 1, le(0, 0, 100, 6)...) }},
		"request reserved":    {"Request 1", func(p *rawPeer) { p.send(frameRequest, 0, 1, le(0, 0, 100, 0x101)...) }},
		"draw twice":          {"Draw 3", func(p *rawPeer) { request(p, 3, 0, 5, 100); draw(p, 3, 0, 0, 8) }},
		"draw no handle":      {"Draw 1", func(p *rawPeer) { draw(p, 1, 9, 0, 8) }},
		"draw nothing":        {"Draw 1", func(p *rawPeer) { draw(p, 1, 0, 0, 0) }},
		"draw beyond":         {"Draw 1", func(p *rawPeer) { draw(p, 1, 0, 1, 8) }},
		"draw huge":           {"Draw 1", func(p *rawPeer) { draw(p, 1, 0, 1, 0xffffffff) }},
		"draw priority":       {"Draw 1", func(p *rawPeer) { p.send(frameDraw, 0, 1, le(0, 0, 8, 9)...) }},
		"draw reserved":       {"Draw 1", func(p *rawPeer) { p.send(frameDraw, 0, 1, le(0, 0, 8, 0x1000001)...) }},
		"grant of a request":  {"Grant 0", func(p *rawPeer) { p.send(frameGrant, 0, 0, le(7)...) }},
		"grant unasked":       {"Grant 4", func(p *rawPeer) { p.send(frameGrant, 0, 4, le(7)...) }},
		"manifest twice":      {"Manifest 3", func(p *rawPeer) { request(p, 3, 0, 5, 100); p.send(frameManifest, 0, 3, id...) }},
		"cancel id":           {"Cancel 256", func(p *rawPeer) { p.send(frameCancel, 0, 256) }},
		"open handle":         {"Open 1", func(p *rawPeer) { p.send(frameOpen, 0, 1, append(le(1024), make([]byte, 36)...)...) }},
		"open handle twice":   {"Open 1", func(p *rawPeer) { p.send(frameOpen, 0, 1, append(le(0), make([]byte, 36)...)...) }},
		"open file twice":     {"Open 1", func(p *rawPeer) { p.send(frameOpen, 0, 1, append(append(le(1), id...), 1, 0, 0, 0)...) }},
		"open purpose":        {"Open 1", func(p *rawPeer) { p.send(frameOpen, 0, 1, append(append(le(1), make([]byte, 32)...), 2, 0, 0, 0)...) }},
		"close twice":         {"Close 0", func(p *rawPeer) { p.send(frameClose, 0, 0); p.send(frameClose, 0, 0) }},
		"close unopened":      {"Close 7", func(p *rawPeer) { p.send(frameClose, 0, 7) }},
		"data unasked":        {"Data 4", func(p *rawPeer) { p.send(frameData, flagLast, 4, 1) }},
		"data no such id":     {"Data 9999", func(p *rawPeer) { p.send(frameData, flagLast, 9999, 1) }},
		"data too much":       {"Data 0", func(p *rawPeer) { p.send(frameData, 0, 0, make([]byte, content.MinChunkSize+1)...) }},
		"data too little":     {"Data 0", func(p *rawPeer) { p.send(frameData, flagLast, 0, make([]byte, 10)...) }},
		"data empty part":     {"Data 0", func(p *rawPeer) { p.send(frameData, 0, 0) }},
		"data twice": {"Data 0", func(p *rawPeer) {
			p.send(frameData, flagLast, 0, make([]byte, content.MinChunkSize)...)
			p.send(frameData, flagLast, 0, make([]byte, content.MinChunkSize)...)
		}},
		"reject unasked":   {"Reject 4", func(p *rawPeer) { p.send(frameReject, 0, 4, 0, 0) }},
		"reject too long":  {"Reject 0", func(p *rawPeer) { p.send(frameReject, 0, 0, make([]byte, MaxMessage+3)...) }},
		"have no handle":   {"Have 1", func(p *rawPeer) { p.send(frameHave, 0, 1, le(0, 1)...) }},
		"have beyond":      {"Have 0", func(p *rawPeer) { p.send(frameHave, 0, 0, le(7, 2)...) }},
		"have huge":        {"Have 0", func(p *rawPeer) { p.send(frameHave, 0, 0, le(0, 0xffffffff)...) }},
		"have nothing":     {"Have 0", func(p *rawPeer) { p.send(frameHave, 0, 0, le(0, 0)...) }},
		"have half a run":  {"Have 0", func(p *rawPeer) { p.send(frameHave, 0, 0, append(le(0, 1), 1)...) }},
		"have out of step": {"Have 0", func(p *rawPeer) { p.send(frameHave, 0, 0, le(3, 1, 0, 1)...) }},
		"have touching":    {"Have 0", func(p *rawPeer) { p.send(frameHave, 0, 0, le(0, 1, 1, 1)...) }},
		"peers half":       {"Peers 0", func(p *rawPeer) { p.send(framePeers, 0, 0, make([]byte, 17)...) }},
		"peers too many":   {"Peers 0", func(p *rawPeer) { p.send(framePeers, 0, 0, make([]byte, 65*16)...) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHolder(file)
				h.onReadChunk = func(ctx context.Context, i int) error {
					if i == 5 {
						<-ctx.Done()
					}
					return ctx.Err()
				}
				p := newRaw(t, h, Options{})
				p.hello()
				p.open(content.Digest{1})
				p.follow(file.id)
				chunk := make(chan error, 1)
				go func() { // not by the caller: the session may end while it waits
					chunk <- p.s.Chunk(context.Background(), content.Digest{1}, 7, content.MinChunkSize, 2, make([]byte, content.MinChunkSize))
				}()
				p.expect(frameRequest)
				test.broken(p)
				p.violated(test.frame)
				if err := <-chunk; err != nil && !errors.Is(err, ErrEnded) {
					t.Error(err)
				}
				if got := <-h.closed; got != file.id {
					t.Errorf("closed %v", got)
				}
			})
		})
	}
}

func TestBadHello(t *testing.T) {
	good := hello{version: 1, requests: 1, files: 1}.append(nil)
	edit := func(at int, b ...byte) []byte {
		p := slices.Clone(good)
		copy(p[headerSize+at:], b)
		return p
	}
	for name, test := range map[string]struct {
		say  []byte
		code Code
	}{
		"not hello":    {header{typ: framePing}.append(nil), CodeProtocol},
		"magic":        {edit(0, 'V'), CodeProtocol},
		"version 0":    {edit(4, 0), CodeVersion},
		"requests":     {edit(16, 1, 16), CodeProtocol},
		"files":        {edit(20, 1, 0, 1), CodeProtocol},
		"too short":    {header{typ: frameHello, length: 4}.append(nil), CodeProtocol},
		"random bytes": {bytes.Repeat([]byte{0xa7}, 64), CodeProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newRaw(t, nil, Options{})
				p.say(test.say)
				if code, message := p.goodbye(); code != test.code || message == "" {
					t.Errorf("goodbye: %v, %q", code, message)
				}
				if err := <-p.ended; err == nil {
					t.Error("it ended in peace")
				}
			})
		})
	}
}

// TestLaterHello: a later version may say more; what this one does not know it ignores.
func TestLaterHello(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newRaw(t, newHolder(), Options{})
		h := hello{version: 7, features: ^uint64(0), requests: 1, files: 1}.append(nil)
		binary.LittleEndian.PutUint32(h, maxHello)
		p.say(append(h, make([]byte, maxHello-helloSize)...))
		p.expect(frameHello)
		p.send(framePing, 0, 77)
		if f := p.expect(framePong); f.id != 77 {
			t.Errorf("%v", f.header)
		}
		p.conn.Close()
		if err := <-p.ended; err == nil {
			t.Error("it ended in peace without a Goodbye")
		}
	})
}
