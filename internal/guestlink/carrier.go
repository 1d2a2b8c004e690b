package guestlink

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// muxHeaderSize is that of a frame of yamux, in bytes: version, type, flags, stream, length; big-endian.
const muxHeaderSize = 12

// inOneWrite is the longest body of the multiplexer that is copied to go out together with its header, in bytes.
const inOneWrite = 4 << 10

// Types and flags of yamux's frames. Its types 2 (ping) and 3 (go away) are not used here: a Beat and a Failed frame do
// that, and a ping costs its receiver a goroutine.
const (
	muxData   = 0
	muxWindow = 1

	flagSYN = 1
	flagFIN = 4
	flagRST = 8
	allMux  = flagSYN | 2 | flagFIN | flagRST
)

// muxHeader is the header of a frame of yamux.
type muxHeader struct {
	data   bool
	flags  uint16
	stream uint32
	length uint32 // of a data frame, its bytes; of the other, by how much the window grows
}

// readMux reads the header of a frame of yamux, whatever it says.
func readMux(b *[muxHeaderSize]byte) muxHeader {
	return muxHeader{
		data: b[1] == muxData, flags: binary.BigEndian.Uint16(b[2:]),
		stream: binary.BigEndian.Uint32(b[4:]), length: binary.BigEndian.Uint32(b[8:]),
	}
}

// parseMux reads the header of yamux in a frame of a link with so many bytes of payload.
func parseMux(b *[muxHeaderSize]byte, payload uint32) (muxHeader, error) {
	h := readMux(b)
	known := b[0] == 0 && b[1] <= muxWindow && h.flags&^allMux == 0 && h.stream != 0
	if !known || payload < muxHeaderSize || payload-muxHeaderSize != h.body() {
		return h, fmt.Errorf("%w: no frame of the multiplexer begins with %x", ErrProtocol, *b)
	}
	return h, nil
}

// body is how many bytes follow the header.
func (h muxHeader) body() uint32 {
	if h.data {
		return h.length
	}
	return 0
}

// carrier is what yamux takes for its connection: it carries each frame of yamux in a frame of the link, whose header
// and yamux's have a checksum and a number, and lets in only what the session's table of streams allows. What is not of
// yamux (beats, last words) it takes out.
type carrier struct {
	session *Session
	link    io.ReadWriter

	// Of yamux's receiving goroutine.
	in     *bufio.Reader
	numIn  uint32 // of the next frame
	head   []byte // of yamux's header, what yamux has not read
	due    int    // bytes of the body that it has not read
	header [muxHeaderSize]byte
	heard  atomic.Uint64 // grows with whatever comes

	mu     sync.Mutex // of who writes
	numOut uint32
	out    []byte
	begun  [muxHeaderSize]byte // yamux's header, while its body is to follow
	body   bool                // it is
	over   bool                // the last word is said: what yamux writes goes nowhere

	writing atomic.Bool   // somebody is at it
	sent    atomic.Uint64 // grows with whatever goes
}

func newCarrier(s *Session, link io.ReadWriter) *carrier {
	return &carrier{session: s, link: link, in: bufio.NewReaderSize(link, 4<<10)}
}

// Read gives yamux a header, or bytes of a body.
func (c *carrier) Read(p []byte) (n int, err error) {
	if len(c.head) == 0 && c.due == 0 {
		if err := c.next(); err != nil {
			return 0, c.session.fail(err)
		}
	}
	if len(c.head) > 0 {
		n = copy(p, c.head)
		c.head = c.head[n:]
		return n, nil
	}
	n, err = c.in.Read(p[:min(len(p), c.due)])
	c.due -= n
	c.heard.Add(1)
	if err != nil {
		return n, c.session.fail(broken(err))
	}
	return n, nil
}

func broken(err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("receive from guest link: %w", err)
}

// next reads frames up to the next one of yamux.
func (c *carrier) next() error {
	for {
		var b [headerSize]byte
		if _, err := io.ReadFull(c.in, b[:]); err == io.EOF {
			return err
		} else if err != nil {
			return broken(err)
		}
		c.heard.Add(1)
		h, err := parseHeader(&b)
		if err != nil {
			return err
		}
		if h.id != c.numIn {
			return fmt.Errorf("%w: frame %d comes where frame %d is due", ErrProtocol, h.id, c.numIn)
		}
		c.numIn++
		switch h.kind {
		case Mux:
			return c.nextMux(h)
		case Beat, Failed:
			if err := c.word(h); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%w: a %s frame comes outside of streams", ErrProtocol, h.kind)
		}
	}
}

func (c *carrier) nextMux(h header) error {
	if _, err := io.ReadFull(c.in, c.header[:]); err != nil {
		return broken(err)
	}
	if err := h.verify(c.header[:]); err != nil {
		return err
	}
	m, err := parseMux(&c.header, h.length)
	if err != nil {
		return err
	}
	if err := c.session.arrives(m); err != nil {
		return err
	}
	c.head, c.due = c.header[:], int(m.body())
	return nil
}

// word takes a frame of the link itself.
func (c *carrier) word(h header) error {
	f := Frame{Kind: h.kind, Payload: make([]byte, h.length)}
	if _, err := io.ReadFull(c.in, f.Payload); err != nil {
		return broken(err)
	}
	if err := h.verify(f.Payload); err != nil || h.kind == Beat {
		return err
	}
	return c.session.hear(f.failure())
}

// Write takes from yamux a header, and then the body that follows it, as yamux writes them: each at once.
func (c *carrier) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return len(p), nil
	}
	if c.body {
		c.body = false
		return len(p), c.send(Mux, c.begun[:], p)
	}
	copy(c.begun[:], p)
	if c.begun[1] > muxWindow { // it goes away: the last word says why
		return len(p), nil
	}
	m := readMux(&c.begun)
	c.session.leaves(m)
	if c.body = m.body() > 0; c.body {
		return len(p), nil
	}
	return len(p), c.send(Mux, c.begun[:], nil)
}

// send sends a frame of which the checksum covers the first part. The caller holds mu.
func (c *carrier) send(kind Kind, covered, rest []byte) error {
	c.writing.Store(true)
	defer c.writing.Store(false)
	c.out = appendHeader(c.out[:0], kind, c.numOut, len(covered)+len(rest), covered)
	c.numOut++
	c.out = append(c.out, covered...)
	if len(rest) <= inOneWrite {
		c.out, rest = append(c.out, rest...), nil
	}
	parts := net.Buffers{c.out}
	if len(rest) > 0 {
		parts = append(parts, rest)
	}
	_, err := parts.WriteTo(c.link) // one call of the kernel for a socket
	c.sent.Add(1)
	if err != nil {
		return c.session.fail(fmt.Errorf("send to guest link: %w", err))
	}
	return nil
}

// beat sends a sign of life if nothing was sent since sent had that value. It may block as long as the link does.
func (c *carrier) beat(since uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sent.Load() != since || c.over {
		return nil
	}
	return c.send(Beat, nil, nil)
}

// last sends the last word.
func (c *carrier) last(payload []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return nil
	}
	err := c.send(Failed, payload, nil)
	c.over = true
	return err
}

// Close is yamux's, which is done with the link; the session closes it.
func (c *carrier) Close() error { return c.session.abandon() }
