package store

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/virtswarm/virtswarm/internal/content"
)

const benchSize = 256 << 20

// benchStore returns a store with an empty file of benchSize, and its content.
func benchStore(b *testing.B) (*Store, *File, []byte) {
	b.Helper()
	s := open(b, b.TempDir())
	p := random(1, benchSize)
	src := source(b, p)
	m, err := content.ChunkFile(b.Context(), src, benchSize, content.ChunkOptions{})
	must(b, err)
	f, err := s.Create(b.Context(), m)
	must(b, err)
	return s, f, p
}

// BenchmarkWriteChunk verifies and writes chunks of the default size, one goroutine, into the page cache.
func BenchmarkWriteChunk(b *testing.B) {
	s, f, p := benchStore(b)
	b.SetBytes(int64(f.Manifest().ChunkSize()))
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if i == f.Manifest().Chunks() {
			b.StopTimer()
			must(b, s.Remove(f.ID()))
			var err error
			f, err = s.Create(b.Context(), f.Manifest())
			must(b, err)
			must(b, f.WriteChunk(0, part(f, p, 0)))
			i = 1
			b.StartTimer()
		}
		must(b, f.WriteChunk(i, part(f, p, i)))
		i++
	}
}

// BenchmarkReadChunk reads and verifies chunks of the default size, one goroutine, from the page cache.
func BenchmarkReadChunk(b *testing.B) {
	_, f, p := benchStore(b)
	for i := range f.Manifest().Chunks() {
		must(b, f.WriteChunk(i, part(f, p, i)))
	}
	must(b, f.Sync(b.Context()))
	buf := make([]byte, f.Manifest().ChunkSize())
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, err := f.ReadChunk(i%f.Manifest().Chunks(), buf); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

// BenchmarkImport takes in a file and makes it durable: it ends with the disk.
func BenchmarkImport(b *testing.B) {
	s := open(b, b.TempDir())
	src := source(b, random(1, benchSize))
	b.SetBytes(benchSize)
	for b.Loop() {
		f, err := s.Import(b.Context(), src, ImportOptions{})
		must(b, err)
		b.StopTimer()
		must(b, s.Remove(f.ID()))
		b.StartTimer()
	}
}

// BenchmarkLoans looks for the chunks of a new file of 1 GiB among a TiB of others: 4 Mi chunks of 256 KiB.
func BenchmarkLoans(b *testing.B) {
	s := open(b, b.TempDir())
	digests := func(n int, seed uint32) []content.Digest {
		ds := make([]content.Digest, n)
		for i := range ds {
			ds[i] = content.Sum(binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, seed), uint32(i)))
		}
		return ds
	}
	manifest := func(n int, seed uint32) *content.Manifest {
		m, err := content.NewManifest(int64(n)*content.DefaultChunkSize, content.DefaultChunkSize, digests(n, seed))
		must(b, err)
		return m
	}
	for k := range uint32(64) {
		f := newFile(s, manifest(1<<16, k), "")
		f.have.SetRange(0, 1<<16)
		s.files[f.id] = f
	}
	f := newFile(s, manifest(4096, 1000), "")
	for b.Loop() {
		if n := len(s.loans(f)); n != 0 {
			b.Fatal(n)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(64<<16), "ns/chunk")
	clear(s.files)
}

// BenchmarkBitmap encodes and decodes the slot of a file with a million chunks, every other one held.
func BenchmarkBitmap(b *testing.B) {
	set := content.NewBits(1 << 20)
	for i := range 1 << 19 {
		set.Set(2 * i)
	}
	id := content.Sum(bytes.Repeat([]byte("x"), 3))
	for b.Loop() {
		if _, _, err := decodeSlot(encodeSlot(id, 1, set), id, 1<<20); err != nil {
			b.Fatal(err)
		}
	}
}
