package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/virtswarm/virtswarm/internal/content"
)

// Sizes of payloads in bytes.
const (
	helloSize    = 24
	maxHello     = 256 // what a later version may add, this one ignores
	openSize     = 4 + content.DigestSize + 4
	manifestSize = content.DigestSize
	requestSize  = 16
	drawSize     = 16
	grantSize    = 4
	grantFrame   = headerSize + grantSize
	reasonSize   = 2
	runSize      = 8
	peerSize     = len(PeerID{})
	// maxSnapshot is the longest answer to an Open.
	maxSnapshot = snapshotSize + MaxPeers*peerSize + 1 + content.MaxChunks/8
	// snapshotSize is that of its fixed part.
	snapshotSize = 8
)

// helloMagic is how a stream of this protocol begins (behind the header), so that a wrong caller is noticed at once.
const helloMagic = "vswp"

// featureFifth says that a side knows the fifth code of a priority.
const featureFifth uint64 = 1 << 0

// A hello is the first message of each side.
type hello struct {
	version  uint16 // the highest that the sender speaks; the lower of the two is spoken
	features uint64 // those that both have are used
	requests uint32 // that the sender lets wait at a time; 0 if it serves nothing
	files    uint32 // that the sender lets be open at a time
}

func (m hello) append(p []byte) []byte {
	p = header{length: helloSize, typ: frameHello}.append(p)
	p = append(p, helloMagic...)
	p = binary.LittleEndian.AppendUint16(p, m.version)
	p = append(p, 0, 0)
	p = binary.LittleEndian.AppendUint64(p, m.features)
	p = binary.LittleEndian.AppendUint32(p, m.requests)
	return binary.LittleEndian.AppendUint32(p, m.files)
}

func parseHello(p []byte) (hello, error) {
	if len(p) < helloSize || string(p[:4]) != helloMagic {
		return hello{}, errors.New("it is not one of virtswarm")
	}
	m := hello{
		version:  binary.LittleEndian.Uint16(p[4:]),
		features: binary.LittleEndian.Uint64(p[8:]),
		requests: binary.LittleEndian.Uint32(p[16:]),
		files:    binary.LittleEndian.Uint32(p[20:]),
	}
	if m.requests > maxRequests || m.files > maxFiles {
		return hello{}, fmt.Errorf("it offers %d requests and %d files, at most %d and %d are legal",
			m.requests, m.files, maxRequests, maxFiles)
	}
	return m, nil
}

// An open asks to follow a file, which is called by the handle (the sender's choice) from now on.
type open struct {
	handle  uint32
	file    content.Digest
	fetches bool // rather than only wants to hear
}

func (m open) append(p []byte, id uint32) []byte {
	p = header{length: openSize, typ: frameOpen, id: id}.append(p)
	p = binary.LittleEndian.AppendUint32(p, m.handle)
	p = append(p, m.file[:]...)
	purpose := uint32(0)
	if m.fetches {
		purpose = 1
	}
	return binary.LittleEndian.AppendUint32(p, purpose)
}

func parseOpen(p []byte) (open, error) {
	m := open{handle: binary.LittleEndian.Uint32(p), file: content.Digest(p[4:])}
	purpose := binary.LittleEndian.Uint32(p[openSize-4:])
	if purpose > 1 {
		return m, fmt.Errorf("a file is opened for 0 or 1, not %d", purpose)
	}
	m.fetches = purpose == 1
	return m, nil
}

// A request asks for the chunk at index of an open file; length is the one that it must have.
type request struct {
	handle, index, length uint32
	prio                  byte // its code
}

func (m request) append(p []byte, id uint32) []byte {
	p = header{length: requestSize, typ: frameRequest, id: id}.append(p)
	p = binary.LittleEndian.AppendUint32(p, m.handle)
	p = binary.LittleEndian.AppendUint32(p, m.index)
	p = binary.LittleEndian.AppendUint32(p, m.length)
	return append(p, m.prio, 0, 0, 0)
}

func parseRequest(p []byte) (request, error) {
	m := request{
		handle: binary.LittleEndian.Uint32(p),
		index:  binary.LittleEndian.Uint32(p[4:]),
		length: binary.LittleEndian.Uint32(p[8:]),
		prio:   p[12],
	}
	if m.length == 0 || m.length > content.MaxChunkSize {
		return m, fmt.Errorf("a chunk has 1 to %d bytes, not %d", content.MaxChunkSize, m.length)
	}
	return m, checkPriority(p[12:])
}

// A draw asks for any one chunk of an open file that the holder likes to give, of count from first on.
type draw struct {
	handle, first, count uint32
	prio                 byte // its code
}

func (m draw) append(p []byte, id uint32) []byte {
	p = header{length: drawSize, typ: frameDraw, id: id}.append(p)
	p = binary.LittleEndian.AppendUint32(p, m.handle)
	p = binary.LittleEndian.AppendUint32(p, m.first)
	p = binary.LittleEndian.AppendUint32(p, m.count)
	return append(p, m.prio, 0, 0, 0)
}

func parseDraw(p []byte) (draw, error) {
	m := draw{
		handle: binary.LittleEndian.Uint32(p),
		first:  binary.LittleEndian.Uint32(p[4:]),
		count:  binary.LittleEndian.Uint32(p[8:]),
		prio:   p[12],
	}
	if m.count == 0 || m.count > content.MaxChunks || m.first > content.MaxChunks {
		return m, fmt.Errorf("a file has no %d chunks from %d on", m.count, m.first)
	}
	return m, checkPriority(p[12:])
}

// checkPriority checks a priority and the three bytes behind it.
func checkPriority(p []byte) error {
	if priorityOf(p[0]) == 0 || p[1] != 0 || p[2] != 0 || p[3] != 0 {
		return fmt.Errorf("want the code of a priority, from 1 to %d, and zeros, not % x", MaxPriority, p[:4])
	}
	return nil
}

// putGrant writes a Grant frame, which says what chunk a draw has brought, into the first bytes of p.
func putGrant(p []byte, id uint32, index int) {
	header{length: grantSize, typ: frameGrant, id: id}.put(p)
	binary.LittleEndian.PutUint32(p[headerSize:], uint32(index))
}

// A snapshot answers an Open: it is the body of Data frames.
type snapshot struct {
	have  content.Bits
	peers []PeerID
}

func (m snapshot) encode() []byte {
	bits := m.have.Encode()
	p := make([]byte, 0, snapshotSize+len(m.peers)*peerSize+len(bits))
	p = binary.LittleEndian.AppendUint32(p, uint32(m.have.Len()))
	p = binary.LittleEndian.AppendUint16(p, uint16(len(m.peers)))
	p = append(p, 0, 0)
	for _, peer := range m.peers {
		p = append(p, peer[:]...)
	}
	return append(p, bits...)
}

// parseSnapshot reads the snapshot of a file of the given number of chunks.
func parseSnapshot(p []byte, chunks int) (snapshot, error) {
	if len(p) < snapshotSize {
		return snapshot{}, fmt.Errorf("a snapshot of %d bytes is too short", len(p))
	}
	if n := binary.LittleEndian.Uint32(p); int64(n) != int64(chunks) {
		return snapshot{}, fmt.Errorf("the file has %d chunks, not %d", chunks, n)
	}
	n := int(binary.LittleEndian.Uint16(p[4:]))
	if p[6] != 0 || p[7] != 0 || n > MaxPeers || len(p)-snapshotSize < n*peerSize {
		return snapshot{}, fmt.Errorf("a snapshot of %d bytes cannot name %d peers", len(p), n)
	}
	p = p[snapshotSize:]
	peers := parsePeers(p[:n*peerSize])
	have, err := content.DecodeBits(p[n*peerSize:], chunks)
	if err != nil {
		return snapshot{}, err
	}
	return snapshot{have: have, peers: peers}, nil
}

// appendHave moves up to MaxHave chunks from the set into a Have frame, which holds runs (first, count) in ascending
// order with a gap between each two. It reports whether some are left; an empty set appends nothing.
func appendHave(p []byte, id uint32, chunks content.Bits) (frame []byte, more bool) {
	start := len(p)
	p = header{typ: frameHave, id: id}.append(p)
	left := MaxHave
	first, ok := chunks.NextSet(0)
	for ok && left > 0 {
		end, gap := chunks.NextClear(first)
		if !gap {
			end = chunks.Len()
		}
		end = min(end, first+left)
		for i := first; i < end; i++ {
			chunks.Clear(i)
		}
		p = binary.LittleEndian.AppendUint32(p, uint32(first))
		p = binary.LittleEndian.AppendUint32(p, uint32(end-first))
		left -= end - first
		first, ok = chunks.NextSet(end)
	}
	length := len(p) - start - headerSize
	if length == 0 {
		return p[:start], false
	}
	header{length: length, typ: frameHave, id: id}.put(p[start:])
	return p, ok
}

// parseHave returns the chunks of a Have frame about a file of the given number of chunks, ascending, appended to into.
func parseHave(p []byte, chunks int, into []int) ([]int, error) {
	if len(p)%runSize != 0 {
		return nil, fmt.Errorf("%d bytes are not a whole number of runs", len(p))
	}
	next, total := int64(0), int64(0)
	for ; len(p) > 0; p = p[runSize:] {
		first, count := int64(binary.LittleEndian.Uint32(p)), int64(binary.LittleEndian.Uint32(p[4:]))
		total += count
		switch {
		case first < next || count == 0:
			return nil, fmt.Errorf("the run of %d chunks at %d is empty or not beyond the one before", count, first)
		case first+count > int64(chunks):
			return nil, fmt.Errorf("chunk %d of a file of %d", first+count-1, chunks)
		case total > MaxHave:
			return nil, fmt.Errorf("more than %d chunks", MaxHave)
		}
		for i := first; i < first+count; i++ {
			into = append(into, int(i))
		}
		next = first + count + 1
	}
	return into, nil
}

func appendPeers(p []byte, id uint32, peers []PeerID) []byte {
	p = header{length: len(peers) * peerSize, typ: framePeers, id: id}.append(p)
	for _, peer := range peers {
		p = append(p, peer[:]...)
	}
	return p
}

// parsePeers reads ids; the length of p is a multiple of theirs.
func parsePeers(p []byte) []PeerID {
	peers := make([]PeerID, len(p)/peerSize)
	for i := range peers {
		copy(peers[i][:], p[i*peerSize:])
	}
	return peers
}

// appendReason appends a Reject or Goodbye.
func appendReason(p []byte, typ frameType, id uint32, code Code, message string) []byte {
	if len(message) > MaxMessage {
		message = message[:MaxMessage]
	}
	message = strings.ToValidUTF8(message, "")
	p = header{length: reasonSize + len(message), typ: typ, id: id}.append(p)
	p = binary.LittleEndian.AppendUint16(p, uint16(code))
	return append(p, message...)
}

// parseReason reads a Reject or Goodbye. Its text goes to logs and terminals, so nothing in it may move a cursor or
// begin a line.
func parseReason(p []byte) (Code, string) {
	message := strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, string(p[reasonSize:]))
	return Code(binary.LittleEndian.Uint16(p)), message
}
