package content

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
)

// The encoding of a manifest, version 1; see docs/formats.md.
const (
	manifestMagic  = "VSM1"
	manifestHeader = 16 // magic, log2 of the chunk size, three zero bytes, size
	maxRunHeader   = 4  // minimal uvarint of at most 2*MaxChunks+1

	// MaxManifestSize bounds an encoded manifest in bytes: a reader may refuse more before it reads it. Holes
	// and data alternate at worst, so there are no more run headers than digests, plus one.
	MaxManifestSize = manifestHeader + MaxChunks*DigestSize + (MaxChunks+1)*maxRunHeader
)

// encodeManifest writes the canonical encoding of what countChunks has accepted.
func encodeManifest(size int64, chunkSize int, chunks []Digest) []byte {
	p := make([]byte, 0, encodedSize(chunks))
	p = append(p, manifestMagic...)
	p = append(p, byte(bits.TrailingZeros(uint(chunkSize))), 0, 0, 0)
	p = binary.LittleEndian.AppendUint64(p, uint64(size))
	for i := 0; i < len(chunks); {
		hole, end := chunks[i].IsZero(), nextRun(chunks, i)
		head := uint64(end-i) << 1
		if hole {
			head |= 1
		}
		p = binary.AppendUvarint(p, head)
		if !hole {
			for _, d := range chunks[i:end] {
				p = append(p, d[:]...)
			}
		}
		i = end
	}
	return p
}

// encodedSize returns a close upper bound of the encoding's length, so that it is allocated once and fits.
func encodedSize(chunks []Digest) int {
	n := manifestHeader
	for i := 0; i < len(chunks); {
		end := nextRun(chunks, i)
		n += maxRunHeader
		if !chunks[i].IsZero() {
			n += (end - i) * DigestSize
		}
		i = end
	}
	return n
}

// nextRun returns the first chunk after i that is not of i's kind.
func nextRun(chunks []Digest, i int) int {
	end := i + 1
	for end < len(chunks) && chunks[end].IsZero() == chunks[i].IsZero() {
		end++
	}
	return end
}

// DecodeManifest reads an encoded manifest. It accepts exactly what Encode writes; anything else is an
// ErrBadManifest that says what is wrong. The manifest keeps p, which the caller must leave alone from then on.
func DecodeManifest(p []byte) (*Manifest, error) {
	m, err := decodeHeader(p)
	if err != nil {
		return nil, err
	}
	if err := m.decodeRuns(); err != nil {
		return nil, err
	}
	if err := m.refuseZeroChunks(); err != nil {
		return nil, err
	}
	m.runs = slices.Clip(m.runs)
	m.id = Sum(p)
	return m, nil
}

func decodeHeader(p []byte) (*Manifest, error) {
	switch {
	case len(p) > MaxManifestSize:
		return nil, fmt.Errorf("%w: %d bytes, more than %d", ErrBadManifest, len(p), MaxManifestSize)
	case len(p) < manifestHeader:
		return nil, fmt.Errorf("%w: header cut short at %d bytes", ErrBadManifest, len(p))
	case string(p[:4]) != manifestMagic:
		return nil, fmt.Errorf("%w: begins with %q, not %q", ErrBadManifest, p[:4], manifestMagic)
	case p[4] > 62:
		return nil, fmt.Errorf("%w: chunk size 2^%d", ErrBadManifest, p[4])
	case p[5]|p[6]|p[7] != 0:
		return nil, fmt.Errorf("%w: reserved bytes are not zero", ErrBadManifest)
	}
	size, chunkSize := int64(binary.LittleEndian.Uint64(p[8:])), 1<<p[4]
	n, err := countChunks(size, chunkSize)
	if err != nil {
		return nil, err
	}
	return &Manifest{size: size, chunkSize: chunkSize, chunks: n, enc: p}, nil
}

// decodeRuns reads the runs up to the last byte and counts what they hold.
func (m *Manifest) decodeRuns() error {
	at, first := manifestHeader, 0
	for first < m.chunks {
		head, n := uvarint(m.enc[at:])
		if n == 0 {
			return fmt.Errorf("%w: bad run length at byte %d", ErrBadManifest, at)
		}
		at += n
		count, hole := head>>1, head&1 == 1
		if count == 0 || count > uint64(m.chunks-first) {
			return fmt.Errorf("%w: run of %d at chunk %d of %d", ErrBadManifest, count, first, m.chunks)
		}
		if k := len(m.runs); k > 0 && hole == (m.runs[k-1].at == 0) {
			return fmt.Errorf("%w: two runs of a kind meet at chunk %d", ErrBadManifest, first)
		}
		r := run{first: uint32(first)}
		if !hole {
			r.at = uint32(at)
			if uint64(len(m.enc)-at) < count*DigestSize {
				return fmt.Errorf("%w: digests cut short at byte %d", ErrBadManifest, len(m.enc))
			}
			at += int(count) * DigestSize
			m.data += int(count)
		}
		m.runs = append(m.runs, r)
		first += int(count)
	}
	if at != len(m.enc) {
		return fmt.Errorf("%w: %d bytes after the last run", ErrBadManifest, len(m.enc)-at)
	}
	m.dataBytes = int64(m.data) * int64(m.chunkSize)
	if last := len(m.runs) - 1; last >= 0 && m.runs[last].at != 0 {
		m.dataBytes += int64(m.chunkLen(m.chunks-1) - m.chunkSize)
	}
	return nil
}

// refuseZeroChunks refuses data runs that name a chunk of zeros: by the zero digest, or by the digest of zeros.
func (m *Manifest) refuseZeroChunks() error {
	zero := zeroDigest(m.chunkSize)
	for i, d := range m.Data {
		if i == m.chunks-1 {
			zero = zeroDigest(m.chunkLen(i))
		}
		if d.IsZero() || d == zero {
			return fmt.Errorf("%w: chunk %d is all zeros but not a hole", ErrBadManifest, i)
		}
	}
	return nil
}

// uvarint is binary.Uvarint for minimal encodings only; n is 0 if there is none.
func uvarint(p []byte) (v uint64, n int) {
	v, n = binary.Uvarint(p)
	if n <= 0 || n > 1 && p[n-1] == 0 {
		return 0, 0
	}
	return v, n
}

// zeros is what a hole looks like, a page at a time.
var zeros [4096]byte

// IsZero reports whether p is nothing but zeros. It looks at data only as far as its first page usually.
func IsZero(p []byte) bool {
	for len(p) > len(zeros) {
		if !bytes.Equal(p[:len(zeros)], zeros[:]) {
			return false
		}
		p = p[len(zeros):]
	}
	return bytes.Equal(p, zeros[:len(p)])
}
