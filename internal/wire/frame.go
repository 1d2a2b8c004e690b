package wire

import (
	"encoding/binary"
	"fmt"
)

// headerSize is the length of a frame's header in bytes:
//
//	0                4      5       6          8          12
//	+----------------+------+-------+----------+----------+----------
//	| payload length | type | flags | reserved | id       | payload
//	+----------------+------+-------+----------+----------+----------
//	  u32              u8     u8      u16 = 0    u32         0..MaxPayload
//
// All numbers of the protocol are little-endian.
const headerSize = 12

type frameType uint8

// The id of a frame is that of a request (r), an open file (f), a ping (p), or 0.
const (
	frameHello    frameType = 1  // 0  first frame of each side
	frameOpen     frameType = 2  // r  answered by the snapshot as Data, or Reject
	frameClose    frameType = 3  // f
	frameManifest frameType = 4  // r  answered by Data or Reject
	frameRequest  frameType = 5  // r  a chunk; answered by Data or Reject
	frameData     frameType = 6  // r  part of an answer
	frameReject   frameType = 7  // r  the end of an answer
	frameCancel   frameType = 8  // r  the answer is not needed; it comes all the same, short if possible
	frameHave     frameType = 9  // f
	framePeers    frameType = 10 // f
	framePing     frameType = 11 // p
	framePong     frameType = 12 // p  answers all pings up to p
	frameGoodbye  frameType = 13 // 0  last frame of a side
	frameDraw     frameType = 14 // r  a chunk of the holder's choice; answered by Grant and Data, or Reject
	frameGrant    frameType = 15 // r  which chunk the Data that follow are
)

// flagLast marks the last part of an answer; no other frame has flags.
const flagLast = 1

// frames says of each type its name and the shortest and longest payload in bytes.
var frames = [...]struct {
	name     string
	min, max int
}{
	frameHello:    {"Hello", helloSize, maxHello},
	frameOpen:     {"Open", openSize, openSize},
	frameClose:    {"Close", 0, 0},
	frameManifest: {"Manifest", manifestSize, manifestSize},
	frameRequest:  {"Request", requestSize, requestSize},
	frameData:     {"Data", 0, PartSize},
	frameReject:   {"Reject", reasonSize, reasonSize + MaxMessage},
	frameCancel:   {"Cancel", 0, 0},
	frameHave:     {"Have", runSize, runSize * MaxHave},
	framePeers:    {"Peers", peerSize, peerSize * MaxPeers},
	framePing:     {"Ping", 0, 0},
	framePong:     {"Pong", 0, 0},
	frameGoodbye:  {"Goodbye", reasonSize, reasonSize + MaxMessage},
	frameDraw:     {"Draw", drawSize, drawSize},
	frameGrant:    {"Grant", grantSize, grantSize},
}

// A header is the decoded form of a frame's first 12 bytes.
type header struct {
	length int
	typ    frameType
	flags  uint8
	id     uint32
}

func (h header) known() bool { return int(h.typ) < len(frames) && frames[h.typ].name != "" }

// String names the frame in errors.
func (h header) String() string {
	name := "frame"
	if h.known() {
		name = frames[h.typ].name
	}
	return fmt.Sprintf("%s %d (%d bytes)", name, h.id, h.length)
}

// violation returns the error of a frame that breaks a rule.
func (h header) violation(format string, args ...any) error {
	return &ProtocolError{Frame: h.String(), What: fmt.Sprintf(format, args...)}
}

// put writes the header into the first 12 bytes of p.
func (h header) put(p []byte) {
	binary.LittleEndian.PutUint32(p, uint32(h.length))
	p[4], p[5], p[6], p[7] = byte(h.typ), h.flags, 0, 0
	binary.LittleEndian.PutUint32(p[8:], h.id)
}

// append appends the header of a frame without flags to p.
func (h header) append(p []byte) []byte {
	p = append(p, make([]byte, headerSize)...)
	h.put(p[len(p)-headerSize:])
	return p
}

// parseHeader decodes and checks all that can be checked without knowing the session. A length that it returns is one
// that a frame of the type may have.
func parseHeader(p *[headerSize]byte) (header, error) {
	length := binary.LittleEndian.Uint32(p[:])
	h := header{
		length: int(min(length, 1<<30)), // keeps its meaning, and is an int everywhere
		typ:    frameType(p[4]),
		flags:  p[5],
		id:     binary.LittleEndian.Uint32(p[8:]),
	}
	switch {
	case !h.known():
		return h, h.violation("there is no frame type %d", h.typ)
	case h.length < frames[h.typ].min || h.length > frames[h.typ].max:
		return h, h.violation("want %d to %d bytes", frames[h.typ].min, frames[h.typ].max)
	case p[6] != 0 || p[7] != 0:
		return h, h.violation("reserved bytes are not zero")
	case h.id != 0 && (h.typ == frameHello || h.typ == frameGoodbye):
		return h, h.violation("want id 0")
	case h.flags&^flagLast != 0 || h.flags != 0 && h.typ != frameData:
		return h, h.violation("unknown flags %#x", h.flags)
	}
	return h, nil
}
