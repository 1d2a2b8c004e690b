package guestlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// headerSize is that of a frame, in bytes: kind, three zeros, number, length and checksum.
const headerSize = 16

// Errors of a link and of its streams.
var (
	// ErrProtocol: what came is not a frame, or not one that may come now.
	ErrProtocol = errors.New("the other side broke the rules of the guest link")
	// ErrStalled: the other side neither says nor takes anything.
	ErrStalled = errors.New("the other side of the guest link makes no progress")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Frame is one message. Payload is valid until the next call of Receive.
type Frame struct {
	Kind    Kind
	ID      uint32 // of the request that it belongs to
	Payload []byte
}

// header is what a frame begins with.
type header struct {
	kind   Kind
	id     uint32
	length uint32
	sum    uint32 // checksum, as it came
	begun  uint32 // that of the first twelve bytes
}

// parseHeader reads the header of a frame, of which no length is believed that exceeds the limit of its kind.
func parseHeader(b *[headerSize]byte) (header, error) {
	h := header{
		kind: Kind(b[0]), id: binary.LittleEndian.Uint32(b[4:]), length: binary.LittleEndian.Uint32(b[8:]),
		sum: binary.LittleEndian.Uint32(b[12:]), begun: crc32.Checksum(b[:12], castagnoli),
	}
	if h.kind == 0 || h.kind > lastKind || b[1] != 0 || b[2] != 0 || b[3] != 0 || h.length > h.kind.limit() {
		return h, fmt.Errorf("%w: no frame begins with %x", ErrProtocol, *b)
	}
	return h, nil
}

// verify checks the frame against what of its payload the checksum covers.
func (h header) verify(covered []byte) error {
	if crc32.Update(h.begun, castagnoli, covered) != h.sum {
		return fmt.Errorf("%w: the checksum of a %s frame does not match", ErrProtocol, h.kind)
	}
	return nil
}

// appendHeader appends the header of a frame with n bytes of payload, of which the checksum covers those given.
func appendHeader(b []byte, kind Kind, id uint32, n int, covered []byte) []byte {
	b = append(b, byte(kind), 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, id)
	b = binary.LittleEndian.AppendUint32(b, uint32(n))
	sum := crc32.Update(crc32.Checksum(b[len(b)-12:], castagnoli), castagnoli, covered)
	return binary.LittleEndian.AppendUint32(b, sum)
}

// limit is the longest payload of a frame of this kind.
func (k Kind) limit() uint32 {
	switch k {
	case Data:
		return MaxData
	case Mux:
		return muxHeaderSize + MaxPiece
	}
	return MaxControl
}
