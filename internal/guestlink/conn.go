package guestlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// headerSize is that of a frame, in bytes: kind, three zeros, number of the request, length and checksum.
const headerSize = 16

// Errors of a conversation.
var (
	// ErrProtocol: what came is not a frame, or not one that may come now.
	ErrProtocol = errors.New("the other side broke the rules of the guest link")
	// ErrStalled: the other side neither says nor takes anything.
	ErrStalled = errors.New("the other side of the guest link makes no progress")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Frame is one message. Payload is valid until the next call of Receive.
type Frame struct {
	Kind    Kind
	ID      uint32 // of the request that it belongs to
	Payload []byte
}

// Conn is one end of a conversation. One goroutine may receive while others send.
type Conn struct {
	link net.Conn
	in   []byte // the last frame's payload

	mu   sync.Mutex // of out, and of who sends
	out  []byte     // header and payload of a control frame
	sent time.Time  // when the last frame went out
}

// NewConn makes a conversation of a link, whose deadlines are its own from now on. Nothing is sent.
func NewConn(link net.Conn) *Conn {
	return &Conn{link: link, in: make([]byte, 0, 4<<10), sent: time.Now()}
}

// Close ends the conversation and frees whoever waits.
func (c *Conn) Close() error { return c.link.Close() }

// Link is what the conversation goes over.
func (c *Conn) Link() net.Conn { return c.link }

// Receive waits for the next frame, as long as the other side shows that it lives: the error is ErrStalled if it does not.
func (c *Conn) Receive() (Frame, error) { return c.receive(nil) }

// ReceiveInto is Receive, but the payload of bulk goes to the beginning of buf, if it fits there.
func (c *Conn) ReceiveInto(buf []byte) (Frame, error) { return c.receive(buf) }

func (c *Conn) receive(buf []byte) (Frame, error) {
	var h [headerSize]byte
	if err := c.read(h[:]); err != nil {
		return Frame{}, err
	}
	f := Frame{Kind: Kind(h[0]), ID: binary.LittleEndian.Uint32(h[4:])}
	n, sum := binary.LittleEndian.Uint32(h[8:]), binary.LittleEndian.Uint32(h[12:])
	limit := uint32(MaxControl)
	if f.Kind == Data {
		limit = MaxData
	}
	if f.Kind == 0 || f.Kind > lastKind || h[1] != 0 || h[2] != 0 || h[3] != 0 || n > limit {
		return Frame{}, fmt.Errorf("%w: no frame begins with %x", ErrProtocol, h)
	}
	check := crc32.Checksum(h[:12], castagnoli)
	if f.Kind == Data && check != sum { // before any length is believed
		return Frame{}, fmt.Errorf("%w: the checksum of a %s frame does not match", ErrProtocol, f.Kind)
	}
	if f.Kind == Data && len(buf) >= int(n) {
		f.Payload = buf[:n]
	} else {
		if cap(c.in) < int(n) {
			c.in = make([]byte, limit)
		}
		f.Payload = c.in[:n]
	}
	if err := c.read(f.Payload); err != nil {
		return Frame{}, err
	}
	if f.Kind != Data && crc32.Update(check, castagnoli, f.Payload) != sum {
		return Frame{}, fmt.Errorf("%w: the checksum of a %s frame does not match", ErrProtocol, f.Kind)
	}
	return f, nil
}

// read fills p. At the end of the stream between frames the error is io.EOF.
func (c *Conn) read(p []byte) error {
	for done := 0; done < len(p); {
		if err := c.link.SetReadDeadline(time.Now().Add(StallTimeout)); err != nil {
			return fmt.Errorf("receive from guest link: %w", err)
		}
		n, err := c.link.Read(p[done:])
		done += n
		switch {
		case err == nil || done == len(p):
		case errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("receive from guest link: %w", ErrStalled)
		case errors.Is(err, io.EOF) && done == 0 && len(p) == headerSize:
			return io.EOF
		case errors.Is(err, io.EOF):
			return fmt.Errorf("receive from guest link: %w", io.ErrUnexpectedEOF)
		default:
			return fmt.Errorf("receive from guest link: %w", err)
		}
	}
	return nil
}

// Send sends a control frame with a payload of at most MaxControl bytes.
func (c *Conn) Send(kind Kind, id uint32, payload []byte) error {
	if len(payload) > MaxControl || kind == Data {
		return fmt.Errorf("send %s: %d bytes, at most %d: %w", kind, len(payload), MaxControl, ErrProtocol)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = appendHeader(c.out[:0], kind, id, len(payload), payload)
	c.out = append(c.out, payload...)
	return c.write(c.out)
}

// SendData sends bulk of any length, in frames.
func (c *Conn) SendData(id uint32, p []byte) error {
	for len(p) > 0 {
		n := min(len(p), MaxData)
		if err := c.sendData(id, p[:n]); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

func (c *Conn) sendData(id uint32, p []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = appendHeader(c.out[:0], Data, id, len(p), nil)
	if err := c.write(c.out); err != nil {
		return err
	}
	return c.write(p)
}

// appendHeader appends the header of a frame; the checksum covers the payload if it is given.
func appendHeader(b []byte, kind Kind, id uint32, n int, payload []byte) []byte {
	b = append(b, byte(kind), 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, id)
	b = binary.LittleEndian.AppendUint32(b, uint32(n))
	sum := crc32.Update(crc32.Checksum(b[len(b)-12:], castagnoli), castagnoli, payload)
	return binary.LittleEndian.AppendUint32(b, sum)
}

// write writes all of p; the other side has StallTimeout for every frame. The caller holds mu.
func (c *Conn) write(p []byte) error {
	c.sent = time.Now()
	if err := c.link.SetWriteDeadline(c.sent.Add(StallTimeout)); err != nil {
		return fmt.Errorf("send to guest link: %w", err)
	}
	_, err := c.link.Write(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("send to guest link: %w", ErrStalled)
	}
	if err != nil {
		return fmt.Errorf("send to guest link: %w", err)
	}
	return nil
}

// Beat sends a sign of life if nothing was sent for BeatEvery. It returns how long to wait before the next.
func (c *Conn) Beat() (time.Duration, error) {
	c.mu.Lock()
	due := BeatEvery - time.Since(c.sent)
	c.mu.Unlock()
	if due > 0 {
		return due, nil
	}
	return BeatEvery, c.Send(Beat, 0, nil)
}
