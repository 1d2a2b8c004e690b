package content

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// genDigests draws chunk digests with holes in runs of all lengths.
func genDigests(t *rapid.T, n int) []Digest {
	ds := make([]Digest, n)
	for i := 0; i < n; {
		end := min(n, i+rapid.IntRange(1, 9).Draw(t, "run"))
		hole := rapid.Bool().Draw(t, "hole")
		for ; i < end; i++ {
			if !hole {
				ds[i] = Sum(binary.LittleEndian.AppendUint32(nil, rapid.Uint32().Draw(t, "digest")))
			}
		}
	}
	return ds
}

func genChunkSize(t *rapid.T) int {
	return MinChunkSize << rapid.IntRange(0, 8).Draw(t, "chunk size")
}

func TestManifestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		chunkSize := genChunkSize(t)
		n := rapid.IntRange(0, 300).Draw(t, "chunks")
		size := int64(n) * int64(chunkSize)
		if n > 0 {
			size -= int64(rapid.IntRange(0, chunkSize-1).Draw(t, "short of"))
		}
		ds := genDigests(t, n)
		m, err := NewManifest(size, chunkSize, ds)
		if err != nil {
			t.Fatal(err)
		}
		again, err := DecodeManifest(slices.Clone(m.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		if again.ID() != m.ID() || again.ID() != Sum(m.Encode()) || !bytes.Equal(again.Encode(), m.Encode()) {
			t.Fatal("the manifest has changed on the way")
		}
		checkManifest(t, again, size, chunkSize, ds)
	})
}

// checkManifest compares all that a manifest tells with what it was made of.
func checkManifest(t *rapid.T, m *Manifest, size int64, chunkSize int, ds []Digest) {
	if m.Size() != size || m.ChunkSize() != chunkSize || m.Chunks() != len(ds) {
		t.Fatalf("size %d in %d chunks of %d", m.Size(), m.Chunks(), m.ChunkSize())
	}
	var sum, data int64
	var found []int
	for i, d := range m.Data {
		if d != ds[i] {
			t.Fatalf("Data: chunk %d is %s", i, d.Short())
		}
		found = append(found, i)
	}
	holes := m.Holes()
	for i, d := range ds {
		if m.Digest(i) != d || m.IsHole(i) != d.IsZero() || holes.Has(i) != d.IsZero() || slices.Contains(found, i) == d.IsZero() {
			t.Fatalf("chunk %d: %s, want %s", i, m.Digest(i).Short(), d.Short())
		}
		if m.Offset(i) != sum {
			t.Fatalf("chunk %d begins at %d, want %d", i, m.Offset(i), sum)
		}
		sum += int64(m.ChunkLen(i))
		if !d.IsZero() {
			data += int64(m.ChunkLen(i))
		}
	}
	if sum != size || m.DataBytes() != data || m.DataChunks() != len(found) {
		t.Fatalf("chunks sum up to %d, data to %d in %d, want %d, %d in %d", sum, m.DataBytes(), m.DataChunks(), size, data, len(found))
	}
	next := 0
	for s := range m.Shards() {
		lo, hi := m.ShardChunks(s)
		if lo != next || hi <= lo || m.ShardOf(lo) != s || m.ShardOf(hi-1) != s || m.Offset(lo) != int64(s)*ShardSize {
			t.Fatalf("shard %d is %d to %d", s, lo, hi)
		}
		next = hi
	}
	if next != len(ds) {
		t.Fatalf("shards end at %d", next)
	}
}

// TestManifestGolden holds the format itself still: other programs and other versions depend on these bytes.
func TestManifestGolden(t *testing.T) {
	d := Sum([]byte("x"))
	m, err := NewManifest(3*MinChunkSize+1, MinChunkSize, []Digest{{}, {}, d, d})
	if err != nil {
		t.Fatal(err)
	}
	want := "56534d31" + "10" + "000000" + "0100030000000000" + // header
		"05" + // two holes
		"04" + hex.EncodeToString(d[:]) + hex.EncodeToString(d[:]) // two digests
	if got := hex.EncodeToString(m.Encode()); got != want {
		t.Errorf("encoded as\n%s, want\n%s", got, want)
	}
}

func TestManifestRefusals(t *testing.T) {
	d := Sum([]byte("x"))
	good := encodeManifest(3*MinChunkSize, MinChunkSize, []Digest{d, {}, d})
	if _, err := DecodeManifest(good); err != nil {
		t.Fatal(err)
	}
	edit := func(f func(p []byte) []byte) []byte { return f(slices.Clone(good)) }
	header := func(logChunk byte, size uint64, rest ...byte) []byte {
		p := append([]byte(manifestMagic), logChunk, 0, 0, 0)
		return append(binary.LittleEndian.AppendUint64(p, size), rest...)
	}
	zeroAt := func(i int) []byte {
		ds := []Digest{d, d, d}
		ds[i] = sumZeros(MinChunkSize)
		return encodeManifest(3*MinChunkSize, MinChunkSize, ds)
	}
	for name, p := range map[string][]byte{
		"nothing":             nil,
		"magic":               edit(func(p []byte) []byte { p[0] ^= 1; return p }),
		"reserved":            edit(func(p []byte) []byte { p[6] = 1; return p }),
		"cut in the header":   good[:15],
		"cut in a digest":     good[:len(good)-1],
		"cut at a run":        good[:manifestHeader+1+DigestSize],
		"trailing byte":       append(slices.Clone(good), 0),
		"chunk too small":     header(15, 0),
		"chunk too large":     header(25, 0),
		"chunk size 2^255":    header(255, 0),
		"too many chunks":     header(16, MaxChunks*MinChunkSize+1),
		"negative size":       header(16, 1<<63),
		"empty run":           header(16, 1, 1),
		"long uvarint":        header(16, 1, 0x83, 0),
		"endless uvarint":     header(16, 1, bytes.Repeat([]byte{0xff}, 12)...),
		"run too long":        header(16, 1, 5),
		"run of 2^62":         header(16, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f),
		"two runs of holes":   header(16, 2*MinChunkSize, 3, 3),
		"two runs of data":    header(16, 2*MinChunkSize, slices.Concat([]byte{2}, d[:], []byte{2}, d[:])...),
		"zero digest as data": header(16, 1, append([]byte{2}, make([]byte, DigestSize)...)...),
		"zeros as data":       zeroAt(0),
		"zeros as last data":  zeroAt(2),
		"zeros in short tail": func() []byte { z := sumZeros(5); return header(16, 5, append([]byte{2}, z[:]...)...) }(),
	} {
		if _, err := DecodeManifest(p); !errors.Is(err, ErrBadManifest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := NewManifest(MinChunkSize, MinChunkSize, nil); !errors.Is(err, ErrBadManifest) {
		t.Errorf("digests missing: %v", err)
	}
	if _, err := NewManifest(-1, MinChunkSize, nil); !errors.Is(err, ErrBadManifest) {
		t.Errorf("negative size: %v", err)
	}
}

// TestHugeHoleIsCheap: a manifest of a few bytes must not make its reader allocate for what it claims.
func TestHugeHoleIsCheap(t *testing.T) {
	p := binary.LittleEndian.AppendUint64(append([]byte(manifestMagic), 24, 0, 0, 0), MaxChunks*MaxChunkSize)
	p = binary.AppendUvarint(p, MaxChunks<<1|1)
	bytesPer := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := DecodeManifest(p); err != nil {
				b.Fatal(err)
			}
		}
	}).AllocedBytesPerOp()
	if bytesPer > 1000 {
		t.Errorf("%d bytes allocated for an encoding of %d", bytesPer, len(p))
	}
}

func TestVerify(t *testing.T) {
	data := []byte("some bytes")
	m, err := NewManifest(2*MinChunkSize+int64(len(data)), MinChunkSize, []Digest{Sum(make([]byte, 1)), {}, Sum(data)})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(m.Verify(1, make([]byte, MinChunkSize)), m.Verify(2, data)); err != nil {
		t.Error(err)
	}
	zeros := make([]byte, MinChunkSize)
	almost := append(slices.Clone(zeros[1:]), 1)
	for name, err := range map[string]error{
		"other bytes":             m.Verify(2, []byte("Some bytes")),
		"too short":               m.Verify(2, data[1:]),
		"hole too short":          m.Verify(1, zeros[1:]),
		"hole that is not":        m.Verify(1, almost),
		"right digest, too short": m.Verify(0, make([]byte, 1)),
	} {
		if !errors.Is(err, ErrMismatch) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := testing.AllocsPerRun(10, func() { m.Verify(2, data); m.Verify(1, zeros) }); n != 0 {
		t.Errorf("Verify allocates %v times", n)
	}
}

func TestChunkSizeFor(t *testing.T) {
	for size, want := range map[int64]int{
		0: DefaultChunkSize, 1: DefaultChunkSize, 256 << 30: DefaultChunkSize, 256<<30 + 1: 2 * DefaultChunkSize,
		1 << 40: 1 << 20, 16 << 40: MaxChunkSize, MaxChunks * MaxChunkSize: MaxChunkSize,
	} {
		if got := ChunkSizeFor(size); got != want {
			t.Errorf("ChunkSizeFor(%d) = %d, want %d", size, got, want)
		}
	}
}

func FuzzDecodeManifest(f *testing.F) {
	d := Sum([]byte("x"))
	for _, ds := range [][]Digest{nil, {d}, {{}}, {d, {}, d}, {{}, d, d, {}}} {
		f.Add(encodeManifest(int64(len(ds))*MinChunkSize, MinChunkSize, ds))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		m, err := DecodeManifest(p)
		if err != nil {
			if !errors.Is(err, ErrBadManifest) {
				t.Fatalf("not an ErrBadManifest: %v", err)
			}
			return
		}
		if m.Chunks() > 1<<16 {
			return // the rest would only be slow
		}
		ds := make([]Digest, m.Chunks())
		for i := range ds {
			ds[i] = m.Digest(i)
		}
		if !bytes.Equal(encodeManifest(m.Size(), m.ChunkSize(), ds), p) {
			t.Fatal("a second encoding of the same manifest")
		}
	})
}
