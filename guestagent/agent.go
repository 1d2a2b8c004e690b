// Package guestagent is the guest's end of a guest link: it finds the way to the host, pulls files and publishes them.
//
// It promises that
//   - a file appears under its name at once and whole, verified chunk by chunk, or not at all;
//   - a link that breaks (the host's daemon restarts, the domain migrates, is suspended or reverted) is made anew, by
//     whatever way there is then, and what was verified before is not fetched again;
//   - it needs no configuration: the best link that is there is taken;
//   - its memory does not grow with the file.
//
// It imports nothing of the host's.
package guestagent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/virtswarm/virtswarm/internal/guestlink"
	"github.com/virtswarm/virtswarm/internal/link"
	"github.com/virtswarm/virtswarm/internal/shmring"
)

// DefaultPatience is how long an Agent tries to reach the host before it gives up: a live migration, a restart of the
// daemon or of its cluster take less.
const DefaultPatience = 2 * time.Minute

const (
	// firstRetry and lastRetry are the pauses between attempts to reach the host.
	firstRetry = 20 * time.Millisecond
	lastRetry  = time.Second
	// dialTimeout bounds one attempt by one way.
	dialTimeout = 5 * time.Second
)

// Errors of an Agent. A *guestlink.Failure is what the host answered.
var (
	// ErrNoLink: nothing leads to a host.
	ErrNoLink = errors.New("no link to a virtswarm host")
	// ErrExists: the destination is there already.
	ErrExists = errors.New("the destination exists")
	// ErrCorrupt: what came does not match its digest, again and again.
	ErrCorrupt = errors.New("the bytes that come do not match their digest")
	// ErrNotRegular: only regular files can be published.
	ErrNotRegular = errors.New("not a regular file")
	// ErrOddSize: a file that has more or fewer bytes than it says cannot be published; a copy of it can.
	ErrOddSize = errors.New("it has more or fewer bytes than it says, like a file in /proc; publish a copy of it")
	// ErrBusy: another process pulls the same file to the same place.
	ErrBusy = errors.New("another process pulls this file to the same place")
)

// Agent is the guest's end. Its methods are safe for concurrent use; what they do at a time goes over one link.
type Agent struct {
	Link     string        // URL of the link; "" = the best that is found
	Bell     string        // URL of the link by which shared memory is rung; "" = vsock if it is there and Link is ""
	Patience time.Duration // 0 = DefaultPatience, <0 = one attempt
	Version  string        // told to the host
	Logger   hclog.Logger  // nil = silent
	Network  link.Network  // nil = link.OS

	mu      sync.Mutex
	current *client       // the link that all share; nil while nobody has one
	making  chan struct{} // closed when the link that is being made is made, or cannot be
}

// Ways returns the URLs of what may lead to the host, the best first: shared memory, then vsock.
func Ways() (urls []string, err error) {
	regions, err := shmring.Find()
	for _, path := range regions {
		urls = append(urls, "shm://"+path)
	}
	if haveVSock() {
		urls = append(urls, vsockURL)
	}
	return urls, err
}

// vsockURL is the host's, as every guest sees it.
var vsockURL = fmt.Sprintf("vsock://2:%d", guestlink.Port)

func haveVSock() bool {
	_, err := os.Stat("/dev/vsock")
	return err == nil
}

func (a *Agent) log() hclog.Logger {
	if a.Logger == nil {
		return hclog.NewNullLogger()
	}
	return a.Logger
}

func (a *Agent) network() link.Network {
	if a.Network == nil {
		return link.OS
	}
	return a.Network
}

// passing reports whether what failed may go well later, or by another way.
func passing(err error) bool {
	if f, ok := errors.AsType[*guestlink.Failure](err); ok {
		switch f.Code {
		case guestlink.CodeUnknown, guestlink.CodeBusy, guestlink.CodeRetry, guestlink.CodeGone, guestlink.CodeSpace:
			return true
		}
		return false
	}
	return !errors.Is(err, link.ErrBadURL) && !errors.Is(err, context.Canceled)
}

// again runs an attempt over one link after the other, until it goes well or fails for good. An attempt that got
// further than the one before has all the patience again: done says how far it has come.
func (a *Agent) again(ctx context.Context, done func() int64, attempt func(*client) error) error {
	patience := a.Patience
	if patience == 0 {
		patience = DefaultPatience
	}
	last, since := done(), time.Now()
	for pause := firstRetry; ; pause = min(2*pause, lastRetry) {
		c, leave, err := a.connect(ctx)
		if err != nil {
			return err
		}
		err = attempt(c)
		leave()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case !broken(err):
			return err
		}
		if now := done(); now > last && patience > 0 {
			last, since, pause = now, time.Now(), firstRetry
		} else if time.Since(since) > patience {
			return err
		}
		a.log().Info("the link broke, makes another", "link", c.url, "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// localError is one of this guest's: no other link helps.
type localError struct{ error }

func (e localError) Unwrap() error { return e.error }

// broken reports whether an attempt failed because of its link, or of what the host could not do at that moment.
func broken(err error) bool {
	if _, local := errors.AsType[localError](err); local {
		return false
	}
	return passing(err)
}
