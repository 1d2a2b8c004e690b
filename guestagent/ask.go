package guestagent

import (
	"context"
	"time"

	"github.com/virtswarm/virtswarm/internal/guestlink"
)

// List returns the newest versions of the files below a prefix that this guest may read, sorted by name.
func (a *Agent) List(ctx context.Context, prefix string) (files []guestlink.Entry, err error) {
	err = a.again(ctx, func() int64 { return 0 }, func(c *client) error {
		files, err = c.list(prefix)
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
	c, err := a.connect(ctx)
	if err != nil {
		return Status{}, err
	}
	defer c.Close()
	s := Status{Welcome: c.welcome, Link: c.url}
	if s.Ways, err = Ways(); err != nil {
		a.log().Debug("cannot look for all links", "error", err)
	}
	return s, nil
}

// Ping measures round trips over one link: count of them, or until ctx ends if count is 0, with a pause in between. It
// returns the URL of the link.
func (a *Agent) Ping(ctx context.Context, count int, pause time.Duration, each func(n int, d time.Duration)) (string, error) {
	c, err := a.connect(ctx)
	if err != nil {
		return "", err
	}
	defer c.Close()
	for n := 1; ; n++ {
		d, err := c.ping()
		if err != nil {
			if ctx.Err() != nil {
				return c.url, nil
			}
			return c.url, err
		}
		each(n, d)
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
