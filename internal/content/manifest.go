package content

import (
	"errors"
	"fmt"
	"math/bits"
	"sort"
)

// Limits of a content. They hold for every manifest, made here or decoded.
const (
	MinChunkSize     = 64 << 10  // below this, a digest costs more than it saves
	MaxChunkSize     = 16 << 20  // above this, one chunk is a stall for whoever waits for another
	DefaultChunkSize = 256 << 10 // a request large enough for the network, small enough for a page fault
	MaxChunks        = 1 << 22   // bounds an encoded manifest to about 128 MiB, a content to 64 TiB
	ShardSize        = 64 << 20  // bytes in a shard; a multiple of every chunk size
	preferredChunks  = 1 << 20   // ChunkSizeFor keeps below: a manifest of at most 32 MiB
)

// Errors of manifests.
var (
	ErrBadManifest = errors.New("not a manifest")
	ErrMismatch    = errors.New("chunk does not match its digest")
)

// Manifest says what a content consists of: its size, its chunk size and the digest of each chunk. A chunk of
// nothing but zeros is a hole; it has the zero Digest. A Manifest is immutable and safe for concurrent use.
//
// It keeps the encoded form and little beside it, so its memory is 32 bytes a data chunk and 8 bytes a run,
// however large the holes are.
type Manifest struct {
	size      int64
	chunkSize int
	chunks    int
	data      int // chunks that are not holes
	dataBytes int64
	enc       []byte // the canonical encoding; digests are read from it in place
	runs      []run
	id        Digest
}

// run is a maximal sequence of chunks that are all data or all holes.
type run struct {
	first uint32 // index of its first chunk
	at    uint32 // where its first digest stands in enc; 0 for holes
}

// NewManifest makes a manifest of a content of size bytes, cut into chunks of chunkSize bytes (a power of two
// within the limits), the last one possibly shorter. There must be one digest for each chunk, the zero Digest
// for a hole and never the digest of an all-zero chunk: those are holes.
func NewManifest(size int64, chunkSize int, chunks []Digest) (*Manifest, error) {
	n, err := countChunks(size, chunkSize)
	if err != nil {
		return nil, err
	}
	if len(chunks) != n {
		return nil, fmt.Errorf("%w: %d digests for %d chunks", ErrBadManifest, len(chunks), n)
	}
	return DecodeManifest(encodeManifest(size, chunkSize, chunks))
}

// countChunks returns how many chunks a content has, or why there is no such content.
func countChunks(size int64, chunkSize int) (int, error) {
	if chunkSize < MinChunkSize || chunkSize > MaxChunkSize || bits.OnesCount(uint(chunkSize)) != 1 {
		return 0, fmt.Errorf("%w: chunk size %d is not a power of two from %d to %d", ErrBadManifest, chunkSize, MinChunkSize, MaxChunkSize)
	}
	if size < 0 || size > int64(chunkSize)*MaxChunks {
		return 0, fmt.Errorf("%w: size %d with chunks of %d bytes is not within 0 to %d", ErrBadManifest, size, chunkSize, int64(chunkSize)*MaxChunks)
	}
	return int((size + int64(chunkSize) - 1) / int64(chunkSize)), nil
}

// ChunkSizeFor returns the chunk size that a content of size bytes is cut by unless somebody asks otherwise: the
// default, doubled until there are no more than 2^20 chunks (files up to 256 GiB keep the default).
func ChunkSizeFor(size int64) int {
	c := DefaultChunkSize
	for c < MaxChunkSize && (size-1)/int64(c) >= preferredChunks {
		c *= 2
	}
	return c
}

// Size returns the length of the content in bytes.
func (m *Manifest) Size() int64 { return m.size }

// ChunkSize returns the length in bytes of every chunk but the last.
func (m *Manifest) ChunkSize() int { return m.chunkSize }

// Chunks returns the number of chunks, holes included.
func (m *Manifest) Chunks() int { return m.chunks }

// DataChunks returns the number of chunks that are not holes.
func (m *Manifest) DataChunks() int { return m.data }

// DataBytes returns the length of all chunks that are not holes.
func (m *Manifest) DataBytes() int64 { return m.dataBytes }

// ID returns the digest of the encoded manifest, which names the content.
func (m *Manifest) ID() Digest { return m.id }

// Encode returns the canonical encoding. The caller must not change it.
func (m *Manifest) Encode() []byte { return m.enc }

// Offset returns where chunk i begins in the content.
func (m *Manifest) Offset(i int) int64 { return int64(i) * int64(m.chunkSize) }

// ChunkLen returns the length of chunk i in bytes. It panics if there is no such chunk.
func (m *Manifest) ChunkLen(i int) int {
	m.check(i)
	return m.chunkLen(i)
}

func (m *Manifest) chunkLen(i int) int {
	return int(min(int64(m.chunkSize), m.size-m.Offset(i)))
}

// Digest returns the digest of chunk i, the zero Digest for a hole. It panics if there is no such chunk.
func (m *Manifest) Digest(i int) Digest {
	m.check(i)
	r := m.runs[m.runOf(i)]
	if r.at == 0 {
		return Digest{}
	}
	return m.digestAt(r, i)
}

// IsHole reports whether chunk i is all zeros. It panics if there is no such chunk.
func (m *Manifest) IsHole(i int) bool {
	m.check(i)
	return m.runs[m.runOf(i)].at == 0
}

// Data calls yield with each data chunk and its digest, in order, until it returns false. It takes no more
// than reading the digests takes, unlike asking for each by index.
func (m *Manifest) Data(yield func(i int, d Digest) bool) {
	for k, r := range m.runs {
		if r.at == 0 {
			continue
		}
		for i := int(r.first); i < m.runEnd(k); i++ {
			if !yield(i, m.digestAt(r, i)) {
				return
			}
		}
	}
}

// Holes returns the set of chunks that are holes.
func (m *Manifest) Holes() Bits {
	b := NewBits(m.chunks)
	for k, r := range m.runs {
		if r.at == 0 {
			b.SetRange(int(r.first), m.runEnd(k))
		}
	}
	return b
}

// Verify reports whether p is chunk i: nil, or an ErrMismatch. A hole is matched by zeros. It does not allocate
// unless it fails; it panics if there is no such chunk.
func (m *Manifest) Verify(i int, p []byte) error {
	want := m.Digest(i)
	ok := len(p) == m.chunkLen(i)
	switch {
	case !ok:
	case want.IsZero():
		ok = IsZero(p)
	default:
		ok = Sum(p) == want
	}
	if !ok {
		return fmt.Errorf("verify chunk %d of %s: %w", i, m.id.Short(), ErrMismatch)
	}
	return nil
}

// Shards returns the number of shards.
func (m *Manifest) Shards() int {
	per := ShardSize / m.chunkSize
	return (m.chunks + per - 1) / per
}

// ShardOf returns the shard that chunk i belongs to.
func (m *Manifest) ShardOf(i int) int {
	m.check(i)
	return i / (ShardSize / m.chunkSize)
}

// ShardChunks returns the chunks of shard s: lo up to, not including, hi. It panics if there is no such shard.
func (m *Manifest) ShardChunks(s int) (lo, hi int) {
	if s < 0 || s >= m.Shards() {
		panic(fmt.Sprintf("content: shard %d of %d", s, m.Shards()))
	}
	per := ShardSize / m.chunkSize
	return s * per, min((s+1)*per, m.chunks)
}

func (m *Manifest) check(i int) {
	if i < 0 || i >= m.chunks {
		panic(fmt.Sprintf("content: chunk %d of %d", i, m.chunks))
	}
}

// runOf returns the run that holds chunk i.
func (m *Manifest) runOf(i int) int {
	if len(m.runs) == 1 {
		return 0
	}
	return sort.Search(len(m.runs), func(k int) bool { return int(m.runs[k].first) > i }) - 1
}

// runEnd returns the chunk after the last one of run k.
func (m *Manifest) runEnd(k int) int {
	if k+1 < len(m.runs) {
		return int(m.runs[k+1].first)
	}
	return m.chunks
}

func (m *Manifest) digestAt(r run, i int) Digest {
	at := int(r.at) + (i-int(r.first))*DigestSize
	return Digest(m.enc[at : at+DigestSize])
}
