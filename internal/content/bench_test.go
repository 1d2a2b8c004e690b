package content

import (
	"context"
	"io"
	"testing"
)

// benchSize is large enough that the page cache, not the processor's, holds the file.
const benchSize = 256 << 20

// BenchmarkSum hashes one chunk of the default size in memory, on one core.
func BenchmarkSum(b *testing.B) {
	p := make([]byte, DefaultChunkSize)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		Sum(p)
	}
}

// BenchmarkRead reads a file from the page cache, a chunk at a time: what BenchmarkChunkFile is measured by.
func BenchmarkRead(b *testing.B) {
	f := create(b, 0)
	fill(b, f, 0, benchSize)
	buf := make([]byte, DefaultChunkSize)
	b.SetBytes(benchSize)
	for b.Loop() {
		for off := int64(0); off < benchSize; off += int64(len(buf)) {
			if _, err := f.ReadAt(buf, off); err != nil && err != io.EOF {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkChunkFile reads the same file, hashes it in parallel and makes its manifest.
func BenchmarkChunkFile(b *testing.B) {
	f := create(b, 0)
	fill(b, f, 0, benchSize)
	b.SetBytes(benchSize)
	for b.Loop() {
		if _, err := ChunkFile(context.Background(), f, benchSize, ChunkOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDecodeManifest decodes the manifest of a file of 256 GiB, the largest with default chunks.
func BenchmarkDecodeManifest(b *testing.B) {
	ds := make([]Digest, preferredChunks)
	for i := range ds {
		ds[i] = Digest{1, byte(i), byte(i >> 8), byte(i >> 16)}
	}
	p := encodeManifest(preferredChunks*DefaultChunkSize, DefaultChunkSize, ds)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		if _, err := DecodeManifest(p); err != nil {
			b.Fatal(err)
		}
	}
}
