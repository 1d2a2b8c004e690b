package guestlink

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Conn is one end of a conversation in frames: over a stream, or over a link until both have greeted. One goroutine may
// receive while others send.
type Conn struct {
	over io.ReadWriteCloser
	in   []byte // the last frame's payload

	mu  sync.Mutex // of out, and of who sends
	out []byte     // header and payload of a control frame
}

// NewConn makes a conversation over a stream, or over a bare link, whose deadlines are its own from now on. Nothing is
// sent.
func NewConn(over io.ReadWriteCloser) *Conn {
	if link, ok := over.(net.Conn); ok {
		over = patient{link}
	}
	return &Conn{over: over, in: make([]byte, 0, 1<<10)}
}

// Close ends what the conversation goes over, and frees whoever waits.
func (c *Conn) Close() error { return c.over.Close() }

// patient is a bare link, of which the other side has StallTimeout for every read and write.
type patient struct{ net.Conn }

func (p patient) Read(b []byte) (int, error) {
	if err := p.SetReadDeadline(time.Now().Add(StallTimeout)); err != nil {
		return 0, err
	}
	n, err := p.Conn.Read(b)
	return n, stalled(err)
}

func (p patient) Write(b []byte) (int, error) {
	if err := p.SetWriteDeadline(time.Now().Add(StallTimeout)); err != nil {
		return 0, err
	}
	n, err := p.Conn.Write(b)
	return n, stalled(err)
}

func stalled(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ErrStalled
	}
	return err
}

// Receive waits for the next frame. Its error is io.EOF if the other side has closed in between two.
func (c *Conn) Receive() (Frame, error) { return c.ReceiveInto(nil) }

// ReceiveInto is Receive, but the payload of bulk goes to the beginning of buf, if it fits there.
func (c *Conn) ReceiveInto(buf []byte) (Frame, error) {
	var b [headerSize]byte
	if _, err := io.ReadFull(c.over, b[:]); err == io.EOF {
		return Frame{}, err
	} else if err != nil {
		return Frame{}, fmt.Errorf("receive from guest link: %w", err)
	}
	h, err := parseHeader(&b)
	if err != nil {
		return Frame{}, err
	}
	if h.kind == Mux {
		return Frame{}, fmt.Errorf("%w: a %s frame comes in a conversation", ErrProtocol, h.kind)
	}
	if h.kind == Data {
		if err := h.verify(nil); err != nil { // before its length is believed
			return Frame{}, err
		}
	}
	f := Frame{Kind: h.kind, ID: h.id}
	if n := int(h.length); h.kind == Data && len(buf) >= n {
		f.Payload = buf[:n]
	} else {
		if cap(c.in) < n {
			c.in = make([]byte, n, max(n, int(h.kind.limit())/4))
		}
		f.Payload = c.in[:n]
	}
	if _, err := io.ReadFull(c.over, f.Payload); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return Frame{}, fmt.Errorf("receive from guest link: %w", err)
	}
	if h.kind != Data {
		if err := h.verify(f.Payload); err != nil {
			return Frame{}, err
		}
	}
	return f, nil
}

// Send sends a control frame with a payload of at most MaxControl bytes.
func (c *Conn) Send(kind Kind, id uint32, payload []byte) error {
	if len(payload) > MaxControl || kind == Data || kind == Mux {
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

// write writes all of p. The caller holds mu.
func (c *Conn) write(p []byte) error {
	if _, err := c.over.Write(p); err != nil {
		return fmt.Errorf("send to guest link: %w", err)
	}
	return nil
}
