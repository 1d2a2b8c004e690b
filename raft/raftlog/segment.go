package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"
	"time"

	hraft "github.com/hashicorp/raft"

	"github.com/virtswarm/virtswarm/internal/disk"
)

// A segment file, named by the index of its first entry, is a header and then records without gaps:
//
//	header   "VSRL" | u32 version 1 | u64 index of the first entry | u32 CRC-32C of the 16 bytes before
//	record   u32 length of the body | u32 CRC-32C of the body | body
//	body     u64 index | u64 term | u8 type | i64 unix nanoseconds of the append at the leader |
//	         u32 length of the extensions | extensions | data
//
// All numbers are little-endian.
const (
	segmentMagic   = "VSRL"
	segmentVersion = 1
	segmentHeader  = 20
	recordHeader   = 8
	bodyHeader     = 29
	// maxBody bounds a record: a command is at most placement.MaxCommand, a configuration of the most hosts far less.
	maxBody = 8 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errTorn says that a segment's bytes stop being records somewhere.
var errTorn = errors.New("not a valid record")

// segment is one file of the log. The log's lock guards it.
type segment struct {
	path    string
	file    disk.File
	first   uint64  // index of the first entry
	offsets []int64 // of each record
	end     int64   // where the next record goes
}

// last is the index of the last entry, first-1 if there is none.
func (s *segment) last() uint64 { return s.first + uint64(len(s.offsets)) - 1 }

func segmentPath(dir string, first uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%020d.log", first))
}

func segmentHead(first uint64) []byte {
	h := make([]byte, 0, segmentHeader)
	h = append(h, segmentMagic...)
	h = binary.LittleEndian.AppendUint32(h, segmentVersion)
	h = binary.LittleEndian.AppendUint64(h, first)
	return binary.LittleEndian.AppendUint32(h, crc32.Checksum(h, castagnoli))
}

// appendRecord appends the record of an entry to p.
func appendRecord(p []byte, l *hraft.Log) ([]byte, error) {
	n := bodyHeader + len(l.Extensions) + len(l.Data)
	if n > maxBody {
		return nil, fmt.Errorf("append entry %d: %d bytes, at most %d", l.Index, n, maxBody)
	}
	start := len(p)
	p = append(p, make([]byte, recordHeader)...)
	p = binary.LittleEndian.AppendUint64(p, l.Index)
	p = binary.LittleEndian.AppendUint64(p, l.Term)
	p = append(p, byte(l.Type))
	var at int64
	if !l.AppendedAt.IsZero() {
		at = l.AppendedAt.UnixNano()
	}
	p = binary.LittleEndian.AppendUint64(p, uint64(at))
	p = binary.LittleEndian.AppendUint32(p, uint32(len(l.Extensions)))
	p = append(p, l.Extensions...)
	p = append(p, l.Data...)
	binary.LittleEndian.PutUint32(p[start:], uint32(n))
	binary.LittleEndian.PutUint32(p[start+4:], crc32.Checksum(p[start+recordHeader:], castagnoli))
	return p, nil
}

// decodeRecord reads the record at the beginning of p, which must be that of the entry with this index, and returns
// how long it is. The entry shares p's memory. Anything wrong is errTorn.
func decodeRecord(p []byte, index uint64, l *hraft.Log) (int, error) {
	if len(p) < recordHeader+bodyHeader {
		return 0, errTorn
	}
	n := binary.LittleEndian.Uint32(p)
	if n < bodyHeader || n > maxBody || int(n) > len(p)-recordHeader {
		return 0, errTorn
	}
	body := p[recordHeader : recordHeader+int(n)]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(p[4:]) {
		return 0, errTorn
	}
	ext := binary.LittleEndian.Uint32(body[25:])
	if binary.LittleEndian.Uint64(body) != index || int64(ext) > int64(len(body)-bodyHeader) {
		return 0, errTorn
	}
	*l = hraft.Log{
		Index:      index,
		Term:       binary.LittleEndian.Uint64(body[8:]),
		Type:       hraft.LogType(body[16]),
		Extensions: body[bodyHeader : bodyHeader+ext : bodyHeader+ext],
		Data:       body[bodyHeader+ext:],
	}
	if at := int64(binary.LittleEndian.Uint64(body[17:])); at != 0 {
		l.AppendedAt = time.Unix(0, at)
	}
	return recordHeader + int(n), nil
}

// scanSegment finds the records in the bytes of a segment file that begins with this entry: their offsets, where
// the last one ends, and errTorn if that is not the end of p.
func scanSegment(p []byte, first uint64) (offsets []int64, end int64, err error) {
	if len(p) < segmentHeader || string(p[:segmentHeader]) != string(segmentHead(first)) {
		return nil, 0, errTorn
	}
	at := segmentHeader
	var l hraft.Log
	for at < len(p) {
		n, err := decodeRecord(p[at:], first+uint64(len(offsets)), &l)
		if err != nil {
			return offsets, int64(at), err
		}
		offsets = append(offsets, int64(at))
		at += n
	}
	return offsets, int64(at), nil
}

// get reads one entry from the file and checks it.
func (s *segment) get(index uint64, l *hraft.Log) error {
	i := index - s.first
	from, to := s.offsets[i], s.end
	if int(i)+1 < len(s.offsets) {
		to = s.offsets[i+1]
	}
	p := make([]byte, to-from)
	if _, err := s.file.ReadAt(p, from); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read entry %d of %s: %w", index, s.path, err)
	}
	if _, err := decodeRecord(p, index, l); err != nil {
		return Damaged(s.path, "entry %d at byte %d does not match its checksum", index, from)
	}
	return nil
}
