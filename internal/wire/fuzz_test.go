package wire

import (
	"bytes"
	"context"
	"io"
	"testing"
	"time"

	"github.com/virtswarm/virtswarm/internal/content"
)

// FuzzFrames gives a session anything to read. It must end, in bounded memory, and with it everything it started.
func FuzzFrames(f *testing.F) {
	file := newFile(1, 8, 1000)
	begin := hello{version: Version, requests: 4, files: 4}.append(nil)
	follow := open{file: file.id}.append(nil, 0)
	bye := appendReason(nil, frameGoodbye, 0, CodeDone, "")
	for _, frames := range [][]byte{
		bye,
		request{0, 1, 1000, 2}.append(nil, 1),
		header{typ: frameCancel, id: 1}.append(request{0, 1, 1000, 2}.append(nil, 1)),
		draw{0, 1, 5, 3}.append(nil, 1),
		header{typ: frameCancel, id: 1}.append(draw{0, 0, 8, 1}.append(nil, 1)),
		grant(0, 3),
		append(grant(0, 3), append(header{length: 8, typ: frameData, flags: flagLast}.append(nil), make([]byte, 8)...)...),
		append(header{length: manifestSize, typ: frameManifest, id: 2}.append(nil), file.id[:]...),
		header{typ: frameClose}.append(nil),
		header{typ: framePing, id: 3}.append(nil),
		append(header{length: 8, typ: frameData, id: 0}.append(nil), make([]byte, 8)...),
		appendReason(nil, frameReject, 0, CodeNotHeld, "gone"),
		append(header{length: 8, typ: frameHave}.append(nil), le(0, 3)...),
		appendPeers(nil, 0, []PeerID{{1}, {2}}),
	} {
		f.Add(bytes.Join([][]byte{begin, follow, frames, bye}, nil))
	}
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, p []byte) {
		s := NewSession(&script{Reader: bytes.NewReader(p)}, newHolder(file), Options{MaxInFlight: 4, MaxRequests: 4, MaxFiles: 4})
		asked := make(chan struct{})
		go func() {
			defer close(asked)
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			if _, _, err := s.Open(ctx, content.Digest{9}, 8, true); err == nil {
				s.Chunk(ctx, content.Digest{9}, 3, 8, 2, make([]byte, 8))
				s.Draw(ctx, content.Digest{9}, 1, 7, 2, func(int) ([]byte, bool) { return make([]byte, 8), true })
			}
			s.Manifest(ctx, content.Digest{9})
		}()
		if err := s.Run(context.Background()); err == nil && s.Err() == nil {
			t.Error("Run has returned without a reason")
		}
		<-asked
	})
}

// grant is a Grant frame.
func grant(id uint32, index int) []byte {
	p := make([]byte, grantFrame)
	putGrant(p, id, index)
	return p
}

// script is a stream that has a fixed text to read and takes whatever is written.
type script struct{ io.Reader }

func (*script) Write(p []byte) (int, error) { return len(p), nil }
func (*script) Close() error                { return nil }

// FuzzMessages gives anything to the decoder of each message. What it accepts must be what the encoder writes.
func FuzzMessages(f *testing.F) {
	some := content.NewBits(100)
	some.SetRange(3, 9)
	some.Set(50)
	have, _ := appendHave(nil, 7, some.Clone())
	for _, frame := range [][]byte{
		hello{version: 1, requests: 2, files: 3}.append(nil),
		open{handle: 5, file: content.Digest{1, 2}}.append(nil, 6),
		request{1, 2, 3, 2}.append(nil, 4),
		draw{1, 2, 3, 4}.append(nil, 5),
		have,
		appendPeers(nil, 7, []PeerID{{1}, {2}}),
		appendReason(nil, frameReject, 8, CodeBusy, "später"),
		appendReason(nil, frameGoodbye, 0, CodeDone, "\x1b[2J\n\xff"),
		append([]byte{0, 0, 0, 0, byte(frameData), 1, 0, 0, 9, 0, 0, 0}, snapshot{have: some, peers: []PeerID{{3}}}.encode()...),
	} {
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) < headerSize {
			return
		}
		h, err := parseHeader((*[headerSize]byte)(frame))
		p := frame[headerSize:]
		if err != nil || h.typ != frameData && h.length != len(p) {
			return
		}
		var again []byte
		switch h.typ {
		case frameHello:
			m, err := parseHello(p)
			if err != nil || len(p) != helloSize || p[6] != 0 || p[7] != 0 {
				return // what comes later may be anything
			}
			again = m.append(nil)
		case frameOpen:
			m, err := parseOpen(p)
			if err != nil {
				return
			}
			again = m.append(nil, h.id)
		case frameRequest:
			m, err := parseRequest(p)
			if err != nil {
				return
			}
			again = m.append(nil, h.id)
		case frameDraw:
			m, err := parseDraw(p)
			if err != nil {
				return
			}
			again = m.append(nil, h.id)
		case frameHave:
			chunks, err := parseHave(p, 1000, nil)
			if err != nil {
				return
			}
			set := content.NewBits(1000)
			for _, i := range chunks {
				set.Set(i)
			}
			again, _ = appendHave(nil, h.id, set)
		case framePeers:
			if len(p)%peerSize != 0 {
				return
			}
			again = appendPeers(nil, h.id, parsePeers(p))
		case frameReject, frameGoodbye:
			code, message := parseReason(p)
			once := appendReason(nil, h.typ, h.id, code, message)
			if code2, message2 := parseReason(once[headerSize:]); code2 != code || message2 != message && len(message) <= MaxMessage {
				t.Errorf("%q became %q", message, message2)
			}
			return
		case frameData:
			m, err := parseSnapshot(p, 100)
			if err != nil {
				return
			}
			again = append(frame[:headerSize:headerSize], m.encode()...)
		default:
			return
		}
		if !bytes.Equal(again, frame) {
			t.Errorf("%v: % x became % x", h, frame, again)
		}
	})
}
