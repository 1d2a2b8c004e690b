package hostd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/hostd/control"
	"github.com/virtswarm/virtswarm/hostd/server"
	"github.com/virtswarm/virtswarm/internal/pki"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// mustWait says whether the host is of no cluster and waits until it is told of which one it shall be.
func (h *Host) mustWait() (bool, error) {
	if h.cfg.FirstStart != firstStartWait || h.cfg.Join != "" {
		return false, nil
	}
	_, err := h.loadIdentity()
	if errors.Is(err, pki.ErrNoIdentity) {
		return true, nil
	}
	return false, err
}

// awaitSetup serves the local socket until an operator has settled of which cluster this host is. Then everything is
// open, and settled is true; it is false if ctx ended before.
func (h *Host) awaitSetup(ctx context.Context) (settled bool, err error) {
	door := lend(h.ports.Unix)
	w := &waiting{host: h, settled: make(chan struct{}), ended: door.closed}
	serving, stop := context.WithCancel(ctx)
	defer stop()
	srv := server.New(server.Config{Waiting: w, Logger: h.log.Named("api")})
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(serving, server.Listeners{Unix: door}) }()
	h.log.Info("this host is of no cluster yet, and waits for 'virtswarm init' or 'virtswarm join'", "socket", h.cfg.Socket)
	h.ready()
	select {
	case <-w.settled:
	case err := <-ended:
		return false, err
	case <-ctx.Done():
	}
	stop()
	if err := <-ended; err != nil { // the call that settled it has its answer now
		return false, err
	}
	select {
	case <-w.settled:
		return true, errors.Join(w.failed, door.giveBack())
	default:
		return false, nil
	}
}

// waiting is a host of no cluster, as the server sees it.
type waiting struct {
	host    *Host
	settled chan struct{}   // closed once the host is of a cluster
	failed  error           // why it cannot go on all the same; set before
	ended   <-chan struct{} // closed once the server of a waiting host takes no more connections
}

// Init implements server.Setup.
func (w *waiting) Init(context.Context) (server.Member, error) { return w.settle(w.host.found) }

// JoinCluster implements server.Setup.
func (w *waiting) JoinCluster(ctx context.Context, addr, token string) (server.Member, error) {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return server.Member{}, reason.Wrap(reason.Usage, fmt.Sprintf("%.200q", addr), errors.New("it is not HOST:PORT, the address of a member"))
	}
	return w.settle(func() error { return w.host.join(ctx, addr, token) })
}

// settle makes the host one of a cluster and opens all that it then runs. If the former fails, it waits on.
func (w *waiting) settle(settle func() error) (server.Member, error) {
	w.host.setup.Lock()
	defer w.host.setup.Unlock()
	if w.host.id != nil {
		return server.Member{}, w.host.isMember()
	}
	if err := settle(); err != nil {
		return server.Member{}, reason.Explain(err, "")
	}
	w.failed = w.host.open()
	close(w.settled)
	<-w.ended // what the caller asks next is answered by a member
	return server.Member{Cluster: w.host.id.Cluster(), Host: w.host.id.HostID()}, reason.Explain(w.failed, "")
}

// Prepare implements server.Waiting: a domain that needs no file may start.
func (w *waiting) Prepare(_ context.Context, start control.Start) error {
	d, err := start.Definition()
	if err == nil && len(d.Needs) > 0 {
		err = reason.Wrap(reason.NoCluster, fmt.Sprintf("domain %.200q needs %s", start.Domain, d.Needs[0].Name), nil)
	}
	return err
}

// settled is a host that is of a cluster, as an operator finds it who wants to set it up: server.Setup.
type settled struct{ host *Host }

func (s settled) Init(context.Context) (server.Member, error) {
	return server.Member{}, s.host.isMember()
}

func (s settled) JoinCluster(context.Context, string, string) (server.Member, error) {
	return server.Member{}, s.host.isMember()
}

func (h *Host) isMember() error {
	return reason.Wrap(reason.Usage, h.cfg.Name, fmt.Errorf("this host is a member of cluster %s already", h.id.Cluster())).
		WithHint("nothing is to be done to stay in it; to move to another cluster, run first: virtswarm leave")
}

// A loan is a listener that its borrower may close: the lender has it back, with all connections that nobody took yet.
type loan struct {
	net.Listener
	close  sync.Once
	closed chan struct{}
}

// deadlined is what the listeners of package net can do.
type deadlined interface{ SetDeadline(time.Time) error }

func lend(l net.Listener) *loan { return &loan{Listener: l, closed: make(chan struct{})} }

// Accept implements net.Listener.
func (l *loan) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		select {
		case <-l.closed:
			err = net.ErrClosed
		default:
		}
	}
	return conn, err
}

// Close implements net.Listener: it ends Accept, and the loan.
func (l *loan) Close() (err error) {
	l.close.Do(func() {
		close(l.closed)
		if d, ok := l.Listener.(deadlined); ok {
			err = d.SetDeadline(time.Unix(1, 0))
		} else {
			err = l.Listener.Close()
		}
	})
	return err
}

// giveBack makes the listener take connections again.
func (l *loan) giveBack() error {
	if d, ok := l.Listener.(deadlined); ok {
		return d.SetDeadline(time.Time{})
	}
	return nil
}
