package swarm

import (
	"sync"

	"github.com/virtswarm/virtswarm/internal/content"
)

// hot keeps the chunks that came last while other hosts fetch the same file: they ask for them next, and what was
// verified a moment ago need be neither read nor verified again, which was a tenth of the processor time of a swarm. It
// is safe for concurrent use; the zero value is ready.
type hot struct {
	mu     sync.RWMutex
	chunks map[chunkKey]*[]byte
	queue  []chunkKey // the oldest first
	bytes  int
}

// chunkKey names a chunk of any file.
type chunkKey struct {
	file  content.Digest
	index int
}

// keep takes over the buffer of a verified chunk. It returns the buffers of those that it gave up for it.
func (h *hot) keep(key chunkKey, buf *[]byte) (free []*[]byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.chunks == nil {
		h.chunks = map[chunkKey]*[]byte{}
	}
	if h.chunks[key] != nil {
		return []*[]byte{buf}
	}
	h.chunks[key] = buf
	h.queue = append(h.queue, key)
	for h.bytes += len(*buf); h.bytes > MaxHot; h.queue = h.queue[1:] {
		old := h.queue[0]
		free = append(free, h.chunks[old])
		h.bytes -= len(*h.chunks[old])
		delete(h.chunks, old)
	}
	return free
}

// read copies a chunk into p, of the chunk's length; false if it is not here.
func (h *hot) read(key chunkKey, p []byte) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	buf := h.chunks[key]
	if buf == nil {
		return false
	}
	copy(p, *buf)
	return true
}

// forget returns the buffers of a file that is not fetched any more.
func (h *hot) forget(file content.Digest) (free []*[]byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	rest := h.queue[:0]
	for _, key := range h.queue {
		if key.file != file {
			rest = append(rest, key)
			continue
		}
		free = append(free, h.chunks[key])
		h.bytes -= len(*h.chunks[key])
		delete(h.chunks, key)
	}
	h.queue = rest
	return free
}
