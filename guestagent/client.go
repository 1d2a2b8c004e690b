package guestagent

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/virtswarm/virtswarm/internal/guestlink"
)

// client is a link to the host on which both sides have greeted. All that an Agent does at a time shares one, each on
// streams of its own.
type client struct {
	session *guestlink.Session
	url     string
	welcome guestlink.Welcome

	bell    *bell // of a link by shared memory
	ctx     context.Context
	stop    context.CancelFunc
	helpers sync.WaitGroup

	users   int // guarded by Agent.mu
	leaving int // of them, those whose context has ended; guarded by Agent.mu
}

// Close ends the link and what is under way on it.
func (c *client) Close() {
	c.stop()
	c.session.Close()
	c.helpers.Wait()
}

// talk is a conversation with the host on a stream of its own. It belongs to one goroutine.
type talk struct {
	client *client
	stream *guestlink.Stream
	conn   *guestlink.Conn
	last   uint32 // number of the last request
	free   func() bool
}

// talk opens a stream. It ends with ctx, or by Close.
func (c *client) talk(ctx context.Context, purpose guestlink.Purpose) (*talk, error) {
	stream, err := c.session.Open(ctx, purpose)
	if err != nil {
		return nil, err
	}
	t := &talk{client: c, stream: stream, conn: guestlink.NewConn(stream)}
	t.free = context.AfterFunc(ctx, func() { stream.Close() })
	return t, nil
}

// Close ends the conversation: nothing more of it is wanted.
func (t *talk) Close() {
	t.free()
	t.stream.Close()
}

// ask sends a request.
func (t *talk) ask(kind guestlink.Kind, v any) (id uint32, err error) {
	t.last++
	return t.last, t.conn.SendMessage(kind, t.last, v)
}

// expect waits for a frame of one of the kinds that answers a request. A Failed frame is an error.
func (t *talk) expect(id uint32, kinds ...guestlink.Kind) (guestlink.Frame, error) {
	return t.expectInto(nil, id, kinds...)
}

func (t *talk) expectInto(buf []byte, id uint32, kinds ...guestlink.Kind) (guestlink.Frame, error) {
	f, err := t.conn.ReceiveInto(buf)
	if err == io.EOF {
		err = fmt.Errorf("the host has closed the stream: %w", io.ErrUnexpectedEOF)
	}
	if err != nil {
		return f, err
	}
	if f.Kind == guestlink.Failed && (f.ID == id || f.ID == 0) {
		var failure guestlink.Failure
		if err := f.Decode(&failure); err != nil {
			return f, err
		}
		return f, &failure
	}
	if f.ID == id {
		for _, k := range kinds {
			if f.Kind == k {
				return f, nil
			}
		}
	}
	return f, fmt.Errorf("%w: a %s frame for request %d comes where %v for %d is due", guestlink.ErrProtocol, f.Kind, f.ID, kinds, id)
}

// data fills p with the bulk of an answer.
func (t *talk) data(id uint32, p []byte) error {
	for len(p) > 0 {
		f, err := t.expectInto(p, id, guestlink.Data)
		if err != nil {
			return err
		}
		if len(f.Payload) == 0 || len(f.Payload) > len(p) {
			return fmt.Errorf("%w: %d bytes come where %d are due", guestlink.ErrProtocol, len(f.Payload), len(p))
		}
		p = p[len(f.Payload):]
	}
	return nil
}
