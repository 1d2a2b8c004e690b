package guestagent

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/internal/content"
	"github.com/virtswarm/virtswarm/internal/guestlink"
)

// client is a conversation with the host. It belongs to one goroutine.
type client struct {
	conn    *guestlink.Conn
	url     string
	welcome guestlink.Welcome
	last    uint32 // number of the last request

	bell *bell // of a link by shared memory

	once    sync.Once
	ctx     context.Context // ends with the conversation
	stop    context.CancelFunc
	helpers sync.WaitGroup
}

func newClient(conn net.Conn, url string) *client {
	return &client{conn: guestlink.NewConn(conn), url: url, stop: func() {}}
}

// follow has ctx end the conversation, and shows the host that this side lives.
func (c *client) follow(ctx context.Context) {
	ctx, c.stop = context.WithCancel(ctx)
	c.ctx = ctx
	c.helpers.Go(func() {
		defer c.conn.Close()
		for {
			wait, err := c.conn.Beat()
			if err != nil {
				return
			}
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return
			}
		}
	})
}

// Close ends the conversation.
func (c *client) Close() {
	c.once.Do(func() {
		c.stop()
		c.conn.Close()
		c.helpers.Wait()
	})
}

// greet exchanges Hello and Welcome.
func (c *client) greet(version string) error {
	id, err := c.ask(guestlink.Hello, guestlink.HelloRequest{Version: guestlink.Version, Agent: version})
	if err != nil {
		return err
	}
	f, err := c.expect(id, guestlink.Hello)
	if err != nil {
		return err
	}
	return f.Decode(&c.welcome)
}

// ask sends a request.
func (c *client) ask(kind guestlink.Kind, v any) (id uint32, err error) {
	c.last++
	return c.last, c.conn.SendMessage(kind, c.last, v)
}

// expect waits for a frame of one of the kinds that answers a request. A Failed frame is an error.
func (c *client) expect(id uint32, kinds ...guestlink.Kind) (guestlink.Frame, error) {
	return c.expectInto(nil, id, kinds...)
}

func (c *client) expectInto(buf []byte, id uint32, kinds ...guestlink.Kind) (guestlink.Frame, error) {
	for {
		f, err := c.conn.ReceiveInto(buf)
		if err == io.EOF {
			err = fmt.Errorf("the host has closed the link: %w", err)
		}
		if err != nil {
			return f, err
		}
		switch {
		case f.Kind == guestlink.Beat:
			continue
		case f.Kind == guestlink.Failed && (f.ID == id || f.ID == 0):
			var failure guestlink.Failure
			if err := f.Decode(&failure); err != nil {
				return f, err
			}
			return f, &failure
		case f.ID == id:
			for _, k := range kinds {
				if f.Kind == k {
					return f, nil
				}
			}
		}
		return f, fmt.Errorf("%w: a %s frame for request %d comes where %v for %d is due", guestlink.ErrProtocol, f.Kind, f.ID, kinds, id)
	}
}

// data fills p with the bulk of an answer.
func (c *client) data(id uint32, p []byte) error {
	for len(p) > 0 {
		f, err := c.expectInto(p, id, guestlink.Data)
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

// ping measures one round trip.
func (c *client) ping() (time.Duration, error) {
	text := []byte(rand.Text())
	c.last++
	id, began := c.last, time.Now()
	if err := c.conn.Send(guestlink.Ping, id, text); err != nil {
		return 0, err
	}
	f, err := c.expect(id, guestlink.Pong)
	if err == nil && !bytes.Equal(f.Payload, text) {
		err = fmt.Errorf("%w: the answer to a Ping is another's", guestlink.ErrProtocol)
	}
	return time.Since(began), err
}

// list returns the files below a prefix that this guest may read.
func (c *client) list(prefix string) (files []guestlink.Entry, err error) {
	id, err := c.ask(guestlink.List, guestlink.ListRequest{Prefix: prefix})
	for err == nil {
		var f guestlink.Frame
		if f, err = c.expect(id, guestlink.Entries, guestlink.End); err != nil {
			break
		}
		if f.Kind == guestlink.End {
			return files, nil
		}
		var page guestlink.EntryList
		err = f.Decode(&page)
		files = append(files, page.Files...)
	}
	return nil, err
}

// open opens a file at the host: its newest version, or the one of an id, and returns what it consists of.
func (c *client) open(name string, version content.Digest) (*content.Manifest, error) {
	id, err := c.ask(guestlink.Open, guestlink.OpenRequest{Name: name, ID: version})
	if err != nil {
		return nil, err
	}
	f, err := c.expect(id, guestlink.Opened)
	if err != nil {
		return nil, err
	}
	var opened guestlink.OpenedFile
	if err := f.Decode(&opened); err != nil {
		return nil, err
	}
	if opened.Manifest < 1 || opened.Manifest > guestlink.MaxManifest {
		return nil, fmt.Errorf("%w: a manifest of %d bytes", guestlink.ErrProtocol, opened.Manifest)
	}
	p := make([]byte, opened.Manifest)
	if err := c.data(id, p); err != nil {
		return nil, err
	}
	if _, err := c.expect(id, guestlink.End); err != nil {
		return nil, err
	}
	m, err := content.DecodeManifest(p)
	if err != nil {
		return nil, err
	}
	if m.ID() != opened.ID || !version.IsZero() && m.ID() != version {
		return nil, fmt.Errorf("%w: the manifest is not that of %s", ErrCorrupt, opened.ID)
	}
	return m, nil
}
