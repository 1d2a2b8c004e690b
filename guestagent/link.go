package guestagent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/virtswarm/virtswarm/internal/guestlink"
	"github.com/virtswarm/virtswarm/internal/shmring"
)

// connect gives the agent's link to the host to one more user, and makes it if there is none: as soon as that can be
// done, within the agent's patience. The user calls leave once.
func (a *Agent) connect(ctx context.Context) (c *client, leave func(), err error) {
	for {
		a.mu.Lock()
		if c := a.current; c != nil && c.session.Err() == nil {
			c.users++
			a.mu.Unlock()
			return c, a.leaving(ctx, c), nil
		}
		making := a.making
		if making == nil {
			making = make(chan struct{})
			a.making = making
			a.mu.Unlock()
			return a.make(ctx, making)
		}
		a.mu.Unlock()
		select { // one at a time, and what it makes is for all
		case <-making:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

// make makes a link.
func (a *Agent) make(ctx context.Context, making chan struct{}) (*client, func(), error) {
	c, err := a.reach(ctx)
	a.mu.Lock()
	a.making = nil
	close(making)
	if err == nil {
		a.current = c
		c.users++
	}
	a.mu.Unlock()
	if err != nil {
		return nil, nil, err
	}
	return c, a.leaving(ctx, c), nil
}

// leaving returns what a user of a link calls when it has done with it. The last one ends the link; so does the end of
// the contexts of all that are left, for one of them may be held up by the link.
func (a *Agent) leaving(ctx context.Context, c *client) (leave func()) {
	cut := context.AfterFunc(ctx, func() {
		a.mu.Lock()
		c.leaving++
		nobody := c.leaving == c.users
		a.mu.Unlock()
		if nobody {
			c.session.Close()
		}
	})
	return func() {
		stays := cut()
		a.mu.Lock()
		c.users--
		if !stays {
			c.leaving--
		}
		last, nobody := c.users == 0, c.leaving == c.users
		if last && a.current == c {
			a.current = nil
		}
		a.mu.Unlock()
		switch {
		case last:
			c.Close()
		case nobody:
			c.session.Close()
		}
	}
}

// reach reaches the host, as soon as that can be done: within the agent's patience.
func (a *Agent) reach(ctx context.Context) (*client, error) {
	patience := a.Patience
	if patience == 0 {
		patience = DefaultPatience
	}
	began := time.Now()
	for pause := firstRetry; ; pause = min(2*pause, lastRetry) {
		c, err := a.try(ctx)
		if err == nil || !passing(err) {
			return c, err
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if time.Since(began)+pause > patience {
			return nil, err
		}
		a.log().Debug("cannot reach the host yet", "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// try tries each way once.
func (a *Agent) try(ctx context.Context) (*client, error) {
	urls := []string{a.Link}
	if a.Link == "" {
		var err error
		if urls, err = Ways(); len(urls) == 0 {
			return nil, errors.Join(fmt.Errorf("%w: neither an ivshmem device nor /dev/vsock is here", ErrNoLink), err)
		}
	}
	var errs []error
	for _, url := range urls {
		c, err := a.dial(ctx, url)
		if err == nil {
			return c, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", url, err))
		if _, answered := errors.AsType[*guestlink.Failure](err); answered {
			break // it is the host's word, whichever way it came
		}
	}
	err := errors.Join(errs...)
	if _, answered := errors.AsType[*guestlink.Failure](err); answered {
		return nil, err
	}
	return nil, fmt.Errorf("%w: %w", ErrNoLink, err)
}

// dial reaches the host by one way, and greets it.
func (a *Agent) dial(ctx context.Context, url string) (*client, error) {
	short, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, bell, err := a.open(short, url)
	if err != nil {
		return nil, err
	}
	cut := context.AfterFunc(short, func() { conn.Close() })
	welcome, err := guestlink.Greet(conn, a.Version)
	if !cut() && err == nil {
		err = short.Err()
	}
	var session *guestlink.Session
	if err == nil {
		session, err = guestlink.NewSession(conn, guestlink.Config{Guest: true})
	}
	if err != nil {
		conn.Close()
		if short.Err() != nil {
			err = fmt.Errorf("it does not answer: %w", short.Err())
		}
		return nil, err
	}
	c := &client{session: session, url: url, welcome: welcome, bell: bell}
	c.ctx, c.stop = context.WithCancel(context.Background()) // the link is not only for whoever made it
	c.helpers.Go(func() { c.refuse() })
	if bell != nil && bell.url != "" {
		c.helpers.Go(func() { bell.run(c.ctx, a) })
	}
	return c, nil
}

// refuse closes the streams that the host opens: this agent has no use for one yet.
func (c *client) refuse() {
	for {
		stream, err := c.session.Accept()
		if err != nil {
			return
		}
		why := guestlink.Fail(guestlink.CodeUnknownStream, "the agent serves no streams")
		_ = guestlink.NewConn(stream).SendMessage(guestlink.Failed, 0, why)
		stream.Close()
	}
}

// open opens a link. One by shared memory has a bell, if there is another way to the host.
func (a *Agent) open(ctx context.Context, url string) (net.Conn, *bell, error) {
	path, ok := strings.CutPrefix(url, "shm://")
	if !ok {
		conn, err := a.network().Dial(ctx, url)
		return conn, nil, err
	}
	by := a.Bell
	if by == "" && a.Link == "" && haveVSock() { // who names one link gets no other
		by = vsockURL
	}
	b := &bell{url: by, rung: make(chan struct{}, 1)}
	conn, err := shmring.Dial(ctx, path, shmring.Options{Ring: b.ring, Logger: a.log(), Spin: shmring.NoSpin})
	if err != nil {
		return nil, nil, err
	}
	b.memory = conn
	return conn, b, nil
}
