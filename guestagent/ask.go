package guestagent

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/virtswarm/virtswarm/internal/guestlink"
)

// List returns the newest versions of the files below a prefix that this guest may read, sorted by name.
func (a *Agent) List(ctx context.Context, prefix string) (files []guestlink.Entry, err error) {
	err = a.again(ctx, func() int64 { return 0 }, func(c *client) error {
		t, err := c.talk(ctx, guestlink.ForRequests)
		if err != nil {
			return err
		}
		defer t.Close()
		files, err = t.list(prefix)
		return err
	})
	return files, err
}

// Status is what the host says of this guest, and by which way it was asked.
type Status struct {
	guestlink.Welcome
	Link string   `json:"link"`
	Ways []string `json:"ways"` // all that there are, the best first
}

// Status asks the host who this guest is.
func (a *Agent) Status(ctx context.Context) (Status, error) {
	c, leave, err := a.connect(ctx)
	if err != nil {
		return Status{}, err
	}
	defer leave()
	s := Status{Welcome: c.welcome, Link: c.url}
	if s.Ways, err = Ways(); err != nil {
		a.log().Debug("cannot look for all links", "error", err)
	}
	return s, nil
}

// Ping measures round trips over one link: count of them, or until ctx ends if count is 0, with a pause in between. It
// returns the URL of the link.
func (a *Agent) Ping(ctx context.Context, count int, pause time.Duration, each func(n int, d time.Duration)) (string, error) {
	c, leave, err := a.connect(ctx)
	if err != nil {
		return "", err
	}
	defer leave()
	var t *talk
	for n := 1; ; n++ {
		if t == nil {
			if t, err = c.talk(ctx, guestlink.ForRequests); err != nil {
				return c.url, interrupted(ctx, err)
			}
		}
		d, err := t.ping()
		if err != nil {
			t.Close()
			return c.url, interrupted(ctx, err)
		}
		each(n, d)
		if n == count || pause >= guestlink.IdleTimeout/2 {
			t.Close()
			t = nil
		}
		if n == count {
			return c.url, nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return c.url, nil
		}
	}
}

// interrupted is nil if what failed did because ctx ended.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// ping measures one round trip.
func (t *talk) ping() (time.Duration, error) {
	text := []byte(rand.Text())
	t.last++
	id, began := t.last, time.Now()
	if err := t.conn.Send(guestlink.Ping, id, text); err != nil {
		return 0, err
	}
	f, err := t.expect(id, guestlink.Pong)
	if err == nil && !bytes.Equal(f.Payload, text) {
		err = fmt.Errorf("%w: the answer to a Ping is another's", guestlink.ErrProtocol)
	}
	return time.Since(began), err
}

// list returns the files below a prefix that this guest may read.
func (t *talk) list(prefix string) (files []guestlink.Entry, err error) {
	id, err := t.ask(guestlink.List, guestlink.ListRequest{Prefix: prefix})
	for err == nil {
		var f guestlink.Frame
		if f, err = t.expect(id, guestlink.Entries, guestlink.End); err != nil {
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
