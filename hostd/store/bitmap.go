package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/disk"
)

// A bitmap file has two slots. Each write goes to the slot that does not hold the newest sound set, so that
// a torn write leaves the other one, and needs no new blocks, so that a full disk cannot stop it.
const (
	slotMagic  = "VSB1"
	slotHeader = 48   // magic, length of the set, generation, file id
	slotGrain  = 4096 // slots begin at multiples, so that no block holds parts of both
)

// errBadSlot is wrapped by what is wrong with a slot.
var errBadSlot = errors.New("not a bitmap slot")

// slotSize returns the length of one slot for n chunks: the largest encoded set fits.
func slotSize(n int) int {
	size := slotHeader + content.MaxBitsSize(n) + content.DigestSize
	return (size + slotGrain - 1) / slotGrain * slotGrain
}

// encodeSlot returns a slot without its padding.
func encodeSlot(id content.Digest, gen uint64, b content.Bits) []byte {
	set := b.Encode()
	p := make([]byte, 0, slotHeader+len(set)+content.DigestSize)
	p = append(p, slotMagic...)
	p = binary.LittleEndian.AppendUint32(p, uint32(len(set)))
	p = binary.LittleEndian.AppendUint64(p, gen)
	p = append(p, id[:]...)
	p = append(p, set...)
	sum := content.Sum(p)
	return append(p, sum[:]...)
}

// decodeSlot reads a slot, padding and all, of the file with this id and n chunks.
func decodeSlot(p []byte, id content.Digest, n int) (gen uint64, b content.Bits, err error) {
	if len(p) < slotHeader+content.DigestSize || string(p[:4]) != slotMagic {
		return 0, content.Bits{}, fmt.Errorf("%w: no header", errBadSlot)
	}
	size := uint64(binary.LittleEndian.Uint32(p[4:]))
	if size > uint64(len(p)-slotHeader-content.DigestSize) {
		return 0, content.Bits{}, fmt.Errorf("%w: a set of %d bytes in a slot of %d", errBadSlot, size, len(p))
	}
	end := slotHeader + int(size)
	if content.Sum(p[:end]) != content.Digest(p[end:end+content.DigestSize]) {
		return 0, content.Bits{}, fmt.Errorf("%w: checksum differs", errBadSlot)
	}
	if content.Digest(p[16:slotHeader]) != id {
		return 0, content.Bits{}, fmt.Errorf("%w: it is of file %x", errBadSlot, p[16:22])
	}
	b, err = content.DecodeBits(p[slotHeader:end], n)
	if err != nil {
		return 0, content.Bits{}, fmt.Errorf("%w: %w", errBadSlot, err)
	}
	return binary.LittleEndian.Uint64(p[8:]), b, nil
}

// bitmap is the bitmap file of one file in the store. Only one goroutine at a time may use it.
type bitmap struct {
	path   string
	id     content.Digest
	chunks int
	gen    uint64 // of the newest sound slot
	slot   int    // where that is, 0 or 1
}

// create writes a new bitmap file with both slots sound, and syncs it.
func (m *bitmap) create(f disk.FS, b content.Bits) (err error) {
	w, err := f.OpenFile(m.path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, filePerm)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	size := slotSize(m.chunks)
	both := make([]byte, 2*size)
	copy(both, encodeSlot(m.id, 1, b))
	copy(both[size:], encodeSlot(m.id, 2, b))
	if _, err := w.WriteAt(both, 0); err != nil {
		return err
	}
	m.gen, m.slot = 2, 1
	return w.Sync()
}

// write makes b the durable set. After an error it is b or the one before.
func (m *bitmap) write(f disk.FS, b content.Bits) (err error) {
	w, err := f.OpenFile(m.path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	slot := 1 - m.slot
	if _, err := w.WriteAt(encodeSlot(m.id, m.gen+1, b), int64(slot*slotSize(m.chunks))); err != nil {
		return err
	}
	if err := w.Sync(); err != nil {
		return err
	}
	m.gen, m.slot = m.gen+1, slot
	return nil
}

// read returns the newest sound set and how many slots were not sound; if both are not, the set is empty.
func (m *bitmap) read(f disk.FS) (b content.Bits, bad int, err error) {
	r, err := f.OpenFile(m.path, os.O_RDONLY, 0)
	if err != nil {
		return content.Bits{}, 0, err
	}
	defer r.Close()
	size := slotSize(m.chunks)
	p := make([]byte, 2*size)
	if _, err := r.ReadAt(p, 0); err != nil && !errors.Is(err, io.EOF) {
		return content.Bits{}, 0, err
	}
	b = content.NewBits(m.chunks)
	m.gen, m.slot = 0, 1
	for slot := range 2 {
		gen, set, err := decodeSlot(p[slot*size:(slot+1)*size], m.id, m.chunks)
		switch {
		case err != nil:
			bad++
		case gen > m.gen:
			m.gen, m.slot, b = gen, slot, set
		}
	}
	return b, bad, nil
}
