package qmp

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
)

// member looks after one socket: connects, shows its guest while its process lives, and tries again when the connection
// ends, until the socket's file and the process are gone.
type member struct {
	w      *Watcher
	path   string
	log    hclog.Logger
	poke   chan struct{} // the socket was made anew: try again at once
	said   []string      // what went wrong and was logged since there was a guest
	waited atomic.Bool   // that somebody else has the monitor was logged
	proc   *process      // of the guest that is shown; nil if it is not known
}

func (m *member) run(ctx context.Context) {
	defer func() {
		m.proc.close()
		if ctx.Err() == nil { // else nobody looks any more, which does not mean that the guest is gone
			m.w.settle(m.path)
			m.w.hide(m.path)
		}
	}()
	m.w.unsettle(m.path)
	delay := m.w.times.retryMin
	for {
		begin := time.Now()
		shown, err := m.visit(ctx)
		if ctx.Err() != nil || errors.Is(err, fs.ErrNotExist) && !m.proc.lives() {
			return
		}
		m.judge(ctx, err)
		m.complain(shown, err)
		if time.Since(begin) > m.w.times.retryMax {
			delay = m.w.times.retryMin
		}
		timer := time.NewTimer(delay)
		delay = min(2*delay, m.w.times.retryMax)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-m.proc.ended():
			m.log.Info("guest gone")
			m.forget()
			delay = m.w.times.retryMin
		case <-m.poke:
			delay = m.w.times.retryMin
		}
		timer.Stop()
	}
}

// judge says what the end of a connection means for the picture. A guest whose process lives stays in it, though it does
// not answer: it stands still, or somebody else has its monitor. Of a socket that takes connections and says nothing,
// nobody knows which guest it is.
func (m *member) judge(ctx context.Context, err error) {
	if errors.Is(err, ErrEnded) && m.proc.lives() { // it most likely ends, and its connection went first
		moment := time.NewTimer(m.w.times.end)
		select {
		case <-m.proc.ended():
		case <-moment.C:
		case <-ctx.Done():
		}
		moment.Stop()
	}
	switch {
	case m.proc.lives():
		m.w.silence(m.path)
	default:
		m.forget()
	}
	if !errors.Is(err, errBusy) && !errors.Is(err, ErrSilent) {
		m.w.settle(m.path)
	}
}

// forget takes the guest out of the picture.
func (m *member) forget() {
	m.proc.close()
	m.proc = nil
	m.w.hide(m.path)
}

// visit is one connection from its beginning to its end, of which it returns the reason, and whether a guest was shown.
func (m *member) visit(ctx context.Context) (shown bool, err error) {
	s, err := open(ctx, m.path, &m.w.times, m.busy)
	if err != nil {
		return false, err
	}
	defer s.close()
	refresh := time.NewTicker(m.w.times.refresh)
	defer refresh.Stop()
	gap := time.NewTimer(0)
	defer gap.Stop()
	for {
		g, err := s.look(ctx)
		if err != nil {
			return shown, err
		}
		m.w.show(m.path, g, s)
		if !shown {
			shown, m.said = true, nil
			m.proc.close()
			m.proc = processOf(s.conn)
			m.w.settle(m.path)
			m.waited.Store(false)
			m.log.Info("guest found", "qemu", s.version.String(), "status", g.Status)
		}
		gap.Reset(m.w.times.gap)
		select {
		case <-gap.C:
		case <-s.done:
			return true, s.why()
		}
		select {
		case <-s.dirty:
		case <-refresh.C:
		case <-s.done:
			return true, s.why()
		}
	}
}

func (m *member) busy() {
	if !m.waited.Swap(true) {
		m.log.Warn("the socket takes connections and does not greet: another client has QEMU's monitor; waiting for it")
	}
}

// complain logs why a socket has no guest: each reason as a warning once until it has had one.
func (m *member) complain(shown bool, err error) {
	switch {
	case errors.Is(err, errBusy):
		m.busy()
	case shown && m.proc.lives():
		m.log.Warn("the guest does not answer, and its process lives: it stays in the picture as it was", "error", err)
	case shown && errors.Is(err, ErrEnded):
		m.log.Info("guest gone")
	case errors.Is(err, syscall.ECONNREFUSED): // a QEMU that was killed leaves its socket
		m.log.Debug("nobody listens", "error", err)
	case len(m.said) < maxSaid && !slices.Contains(m.said, err.Error()):
		m.said = append(m.said, err.Error())
		m.log.Warn("no guest to see at this socket", "error", err)
	default:
		m.log.Debug("no guest to see at this socket", "error", err)
	}
}
