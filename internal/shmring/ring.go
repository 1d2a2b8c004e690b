package shmring

import "sync/atomic"

const (
	// step is how many bytes are copied before the position is told, so that both sides copy at the same time.
	step = 128 << 10
	// untold is how many bytes a reader frees before it says so, unless the ring is empty: each time costs the writer a
	// miss in its cache.
	untold = 64 << 10
)

// A page of control words, of one side of a channel.
type page struct {
	generation, flags          *atomic.Uint64
	written, read              *atomic.Uint64 // positions: bytes since the connection began
	readerAsleep, writerAsleep *atomic.Uint64
	beat                       *atomic.Uint64
}

func (m *mapping) page(off int) page {
	return page{
		generation:   m.word(off + offGeneration),
		flags:        m.word(off + offFlags),
		written:      m.word(off + offWritten),
		read:         m.word(off + offRead),
		readerAsleep: m.word(off + offReaderAsleep),
		writerAsleep: m.word(off + offWriterAsleep),
		beat:         m.word(off + offGuestBeat),
	}
}

// reset makes the words those of a new connection, but for the generation and the beat.
func (p page) reset() {
	for _, w := range []*atomic.Uint64{p.flags, p.written, p.read, p.readerAsleep, p.writerAsleep} {
		w.Store(0)
	}
}

// A ring as one of its sides sees it. Positions are counts of bytes and never decrease; taken modulo the capacity they
// are places in data.
type ring struct {
	data  []byte
	pos   uint64 // own position
	told  uint64 // the same, as the peer knows it
	limit uint64 // the peer's position, as it was when last looked at, and found to obey the rules
}

// at is the piece of the ring from pos on that is in one piece and at most max bytes long.
func (r *ring) at(max uint64) []byte {
	start := r.pos % uint64(len(r.data))
	end := min(start+max, uint64(len(r.data)))
	return r.data[start:end:end]
}

// An inbox is the reading side of a connection.
type inbox struct {
	side
	ring
	final bool // limit is the last position of the peer
	held  bool // what Peek returned is in use: it has a reference of the mapping
}

// unread is how many bytes are known to be there.
func (in *inbox) unread() uint64 { return in.limit - in.pos }

// learn takes a position of the peer's writer, and reports whether it is possible.
func (in *inbox) learn(written uint64) bool {
	if written < in.limit || written-in.pos > uint64(len(in.data)) {
		return false
	}
	in.limit = written
	return true
}

// An outbox is the writing side of a connection.
type outbox struct {
	side
	ring
}

// room is how many bytes are known to be free.
func (out *outbox) room() uint64 { return uint64(len(out.data)) - (out.pos - out.limit) }

// learn takes a position of the peer's reader, and reports whether it is possible.
func (out *outbox) learn(read uint64) bool {
	if read < out.limit || read > out.pos {
		return false
	}
	out.limit = read
	return true
}
