package content

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrBadBits is returned for bytes that are not an encoded set of the length asked for.
var ErrBadBits = errors.New("not a set of chunks")

// The two forms of an encoded set; see docs/formats.md.
const (
	bitsRuns = 0 // lengths of alternating runs, absent first; the last run is implied
	bitsRaw  = 1 // one bit an index
)

// MaxBitsSize returns the largest length in bytes of an encoded set of n indexes.
func MaxBitsSize(n int) int { return 1 + (n+7)/8 }

// Encode returns the set in the shorter of its two forms, in runs if they are equally long. It has at most
// MaxBitsSize(Len()) bytes; the length of the set is not part of it.
func (b Bits) Encode() []byte {
	limit := MaxBitsSize(b.n)
	p := append(make([]byte, 0, min(limit, 64)), bitsRuns)
	for at, present := 0, false; ; present = !present {
		find := b.NextSet
		if present {
			find = b.NextClear
		}
		end, ok := find(at)
		if !ok {
			return p
		}
		p = binary.AppendUvarint(p, uint64(end-at))
		if len(p) > limit {
			return b.encodeRaw()
		}
		at = end
	}
}

func (b Bits) encodeRaw() []byte {
	p := append(make([]byte, 0, 1+8*len(b.words)), bitsRaw)
	for _, w := range b.words {
		p = binary.LittleEndian.AppendUint64(p, w)
	}
	return p[:MaxBitsSize(b.n)]
}

// DecodeBits reads an encoded set of n indexes, n from a source that is trusted to be sane (a manifest). It
// accepts exactly what Encode writes; anything else is an ErrBadBits.
func DecodeBits(p []byte, n int) (Bits, error) {
	if n < 0 || n > MaxChunks {
		return Bits{}, fmt.Errorf("%w: length %d", ErrBadBits, n)
	}
	if len(p) == 0 || len(p) > MaxBitsSize(n) {
		return Bits{}, fmt.Errorf("%w: %d bytes for %d indexes", ErrBadBits, len(p), n)
	}
	b := NewBits(n)
	var err error
	switch p[0] {
	case bitsRuns:
		err = b.decodeRuns(p[1:])
	case bitsRaw:
		err = b.decodeRaw(p[1:])
	default:
		err = fmt.Errorf("%w: form %d", ErrBadBits, p[0])
	}
	if err != nil {
		return Bits{}, err
	}
	// The cheapest sure way to hold decoder and encoder together.
	if !bytes.Equal(b.Encode(), p) {
		return Bits{}, fmt.Errorf("%w: not in its shortest form", ErrBadBits)
	}
	return b, nil
}

func (b Bits) decodeRuns(p []byte) error {
	at, present := 0, false
	for len(p) > 0 {
		v, n := uvarint(p)
		if n == 0 || v > uint64(b.n-at) {
			return fmt.Errorf("%w: bad run length at index %d of %d", ErrBadBits, at, b.n)
		}
		end := at + int(v)
		if present {
			b.SetRange(at, end)
		}
		at, present, p = end, !present, p[n:]
	}
	if present {
		b.SetRange(at, b.n)
	}
	return nil
}

func (b Bits) decodeRaw(p []byte) error {
	if len(p) != (b.n+7)/8 {
		return fmt.Errorf("%w: %d bytes for %d indexes", ErrBadBits, len(p), b.n)
	}
	var word [8]byte
	for i := range b.words {
		k := copy(word[:], p[8*i:])
		clear(word[k:])
		b.words[i] = binary.LittleEndian.Uint64(word[:])
	}
	if r := b.n & 63; r != 0 && b.words[len(b.words)-1]>>r != 0 {
		return fmt.Errorf("%w: members beyond its length %d", ErrBadBits, b.n)
	}
	return nil
}
