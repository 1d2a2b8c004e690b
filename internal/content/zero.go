package content

import (
	"math/bits"
	"sync"

	"lukechampine.com/blake3"
)

// zeroChunks keeps the digest of an all-zero chunk for each chunk size there is.
var zeroChunks = func() (f [25]func() Digest) {
	for k := range f {
		f[k] = sync.OnceValue(func() Digest { return sumZeros(1 << k) })
	}
	return f
}()

// zeroDigest returns the digest of n zero bytes, n at most MaxChunkSize.
func zeroDigest(n int) Digest {
	if bits.OnesCount(uint(n)) == 1 {
		return zeroChunks[bits.TrailingZeros(uint(n))]()
	}
	return sumZeros(n)
}

func sumZeros(n int) Digest {
	h := blake3.New(DigestSize, nil)
	for n > 0 {
		k := min(n, len(zeros))
		h.Write(zeros[:k])
		n -= k
	}
	return Digest(h.Sum(nil))
}
