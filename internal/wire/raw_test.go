package wire

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/virtswarm/virtswarm/internal/content"
)

// rawPeer is the other side of a session under test, and speaks frame by frame what the test makes it say.
type rawPeer struct {
	t      *testing.T
	s      *Session
	conn   net.Conn
	frames chan rawFrame // what the session has said; closed at the end
	ended  chan error    // what Run has returned
}

type rawFrame struct {
	header
	payload []byte
}

// newRaw starts a session and reads all that it says. It has not said Hello yet.
func newRaw(t *testing.T, h Handler, o Options) *rawPeer {
	p := newMute(t, h, o)
	go p.read()
	return p
}

// newMute starts a session whose other side does not read.
func newMute(t *testing.T, h Handler, o Options) *rawPeer {
	a, b := net.Pipe()
	p := &rawPeer{t: t, s: NewSession(a, h, o), conn: b, frames: make(chan rawFrame, 10000), ended: make(chan error, 1)}
	go func() { p.ended <- p.s.Run(context.Background()) }()
	t.Cleanup(func() { b.Close() })
	return p
}

func (p *rawPeer) read() {
	defer close(p.frames)
	for {
		f, err := readRaw(p.conn)
		if err != nil {
			return
		}
		p.frames <- f
	}
}

func readRaw(r io.Reader) (rawFrame, error) {
	var head [headerSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return rawFrame{}, err
	}
	h, err := parseHeader(&head)
	if err != nil {
		return rawFrame{}, err
	}
	f := rawFrame{header: h, payload: make([]byte, h.length)}
	_, err = io.ReadFull(r, f.payload)
	return f, err
}

// say writes bytes; the session may have closed already.
func (p *rawPeer) say(b []byte) { p.conn.Write(b) }

func (p *rawPeer) send(typ frameType, flags uint8, id uint32, payload ...byte) {
	h := header{length: len(payload), typ: typ, flags: flags, id: id}
	b := make([]byte, headerSize, headerSize+len(payload))
	h.put(b)
	p.say(append(b, payload...))
}

func (p *rawPeer) hello() {
	p.say(hello{version: Version, requests: 16, files: 16}.append(nil))
	p.expect(frameHello)
}

// expect returns the next frame, which must be of the type.
func (p *rawPeer) expect(typ frameType) rawFrame {
	p.t.Helper()
	f, ok := <-p.frames
	if !ok {
		p.t.Fatalf("want %s, but the stream has ended: %v", frames[typ].name, p.s.Err())
	}
	if f.typ != typ {
		p.t.Fatalf("want %s, got %v", frames[typ].name, f.header)
	}
	return f
}

// open makes the session under test follow a file of 8 chunks that this peer holds, by handle 0.
func (p *rawPeer) open(file content.Digest) {
	p.t.Helper()
	opened := make(chan error)
	go func() {
		_, _, err := p.s.Open(context.Background(), file, 8, true)
		opened <- err
	}()
	f := p.expect(frameOpen)
	p.send(frameData, flagLast, f.id, snapshot{have: content.NewBits(8)}.encode()...)
	if err := <-opened; err != nil {
		p.t.Fatal(err)
	}
}

// follow makes this peer follow a file at the session under test, by handle 0.
func (p *rawPeer) follow(file content.Digest) {
	p.t.Helper()
	p.say(open{file: file}.append(nil, 0))
	p.expect(frameData)
}

// goodbye waits for the end and returns what the session has said last.
func (p *rawPeer) goodbye() (Code, string) {
	p.t.Helper()
	var last rawFrame
	for f := range p.frames {
		last = f
		if f.typ == frameGoodbye {
			p.conn.Close()
		}
	}
	if last.typ != frameGoodbye {
		p.t.Fatalf("the last frame is %v", last.header)
	}
	return parseReason(last.payload)
}

// violated checks that the session ends for a violation of the frame.
func (p *rawPeer) violated(frame string) {
	p.t.Helper()
	code, message := p.goodbye()
	var violation *ProtocolError
	err := <-p.ended
	if !errors.As(err, &violation) || violation.Frame[:min(len(frame), len(violation.Frame))] != frame {
		p.t.Errorf("want a violation by %s, got %v", frame, err)
	}
	if code != CodeProtocol || message == "" {
		p.t.Errorf("goodbye: %v, %q", code, message)
	}
}

func le(numbers ...uint32) (p []byte) {
	for _, n := range numbers {
		p = binary.LittleEndian.AppendUint32(p, n)
	}
	return p
}
