package virt

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	retryMin     = 200 * time.Millisecond
	retryMax     = 5 * time.Second
	retryAbsent  = time.Minute      // between looking for a libvirt that is not installed
	dialPatience = 10 * time.Second // after which the log says that libvirt does not answer
	endPatience  = 2 * time.Second  // for calls that are under way when Run ends
)

// runner connects, again and again.
type runner struct {
	*Watcher
	release  func()         // lets go of libvirt's event loop, once that runs
	sessions sync.WaitGroup // that are open, or are being made
	said     string         // why there is no connection, as it was logged
}

// once connects and watches until the connection is lost, or does not come about.
func (r *runner) once(ctx context.Context) error {
	if r.release == nil {
		release, err := startEvents()
		if err != nil {
			return err
		}
		r.release = release
	}
	s, err := r.dial(ctx)
	if err != nil {
		return err
	}
	r.log.Info("connected to libvirt", "uri", r.cfg.URI)
	r.said = ""
	r.setSession(s, nil)
	defer s.close()
	defer r.setSession(nil, fmt.Errorf("%w: the connection broke, it is being made anew", ErrDisconnected))
	l := newLoop(r.Watcher, s)
	l.run(ctx)
	return fmt.Errorf("%w: the connection broke", ErrDisconnected)
}

// dial makes a connection. libvirt gives up on none by itself, so it waits for the one that is under way.
func (r *runner) dial(ctx context.Context) (*session, error) {
	type dialled struct {
		s   *session
		err error
	}
	made := make(chan dialled)
	r.sessions.Add(1)
	go func() {
		s := &session{gone: make(chan struct{}), over: r.sessions.Done}
		var err error
		if s.conn, err = dial(r.cfg.URI, r.event, sync.OnceFunc(func() { close(s.gone) })); err != nil {
			r.sessions.Done()
		}
		select {
		case made <- dialled{s, err}:
		case <-ctx.Done():
			if err == nil {
				s.close()
			}
		}
	}()
	patience := time.AfterFunc(dialPatience, func() {
		r.log.Warn("libvirt does not answer: see whether its daemon hangs", "uri", r.cfg.URI)
	})
	defer patience.Stop()
	select {
	case d := <-made:
		return d.s, d.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// lost says why there is no connection, once for each reason.
func (r *runner) lost(err error) {
	r.setSession(nil, err)
	if r.said == err.Error() {
		return
	}
	r.said = err.Error()
	switch {
	case errors.Is(err, ErrDenied):
		r.log.Error("libvirt refuses to be asked", "uri", r.cfg.URI, "error", err)
	case errors.Is(err, ErrNoLibvirt):
		r.log.Info("no libvirt on this host: its domains are not watched", "error", err)
	default:
		r.log.Info("not connected to libvirt: trying again", "uri", r.cfg.URI, "error", err)
	}
}

func (r *runner) pause(wait time.Duration, err error) time.Duration {
	if errors.Is(err, ErrNoLibvirt) {
		return retryAbsent
	}
	return wait
}

// end waits a little for what is under way, so that nothing of this watcher runs when Run has returned. If libvirt
// hangs, what waits for it ends with it, and so does the event loop.
func (r *runner) end() {
	over := make(chan struct{})
	go func() {
		defer close(over)
		r.sessions.Wait()
		if r.release != nil {
			r.release()
		}
	}()
	select {
	case <-over:
	case <-time.After(endPatience):
		r.log.Warn("libvirt does not answer: not waiting for it any longer")
	}
}

// event takes what libvirt has to tell. It is called on libvirt's thread: it must not wait, nor call libvirt.
func (w *Watcher) event(kind eventKind, uuid, alias string) {
	w.metrics.events.WithLabelValues(string(kind)).Inc()
	if kind == eventRemoved || kind == eventRemovalFailed {
		w.removed(kind, uuid, alias)
	}
	w.inbox.add(uuid)
}
