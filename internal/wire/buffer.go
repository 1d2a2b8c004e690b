package wire

import (
	"math/bits"
	"sync"

	"github.com/virtswarm/virtswarm/internal/content"
)

// A buffer holds a chunk on its way out, behind room for a Grant and a frame's header: all go out in one write. When a
// chunk is sent in parts, the header of each further part overwrites the end of the part before, which is gone by then.
type buffer struct {
	b     []byte // grantFrame + headerSize + a power of two
	class int
}

// payload returns the n bytes behind the header.
func (b *buffer) payload(n int) []byte { return b.b[grantFrame+headerSize:][:n:n] }

const (
	minClass = 12 // last chunks of files may be short
	maxClass = 24
)

// All sessions share the pools: a chunk's buffer goes round many sessions before it leaves the processor's cache.
var pools [maxClass + 1]sync.Pool

// getBuffer returns a buffer for n bytes, 1..content.MaxChunkSize.
func getBuffer(n int) *buffer {
	class := max(bits.Len(uint(n-1)), minClass)
	if b, ok := pools[class].Get().(*buffer); ok {
		return b
	}
	return &buffer{b: make([]byte, grantFrame+headerSize+1<<class), class: class}
}

func putBuffer(b *buffer) { pools[b.class].Put(b) }

// The pools hold every size that a chunk may have.
var _ [1<<maxClass - content.MaxChunkSize]struct{}
