package guest

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/virtswarm/virtswarm/internal/guestlink"
	"github.com/virtswarm/virtswarm/placement"
)

// session is one link of a guest, with all of its streams.
type session struct {
	server  *Server
	link    net.Conn
	caller  caller
	guest   *guest      // set by enter
	watches atomic.Bool // a stream for it is open

	mu     sync.Mutex
	why    *guestlink.Failure // it ends, and this is the last word; guarded by mu
	cancel context.CancelFunc // guarded by mu
}

func newSession(s *Server, c net.Conn, who caller) *session {
	return &session{server: s, link: c, caller: who}
}

// end ends the session from outside.
func (x *session) end(why *guestlink.Failure) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.why == nil {
		x.why = why
	}
	if x.cancel != nil {
		x.cancel()
	}
}

// run serves the link until it ends, and closes it.
func (x *session) run(serving context.Context) {
	ctx, cancel := context.WithCancel(serving)
	x.mu.Lock()
	x.cancel = cancel
	if x.why != nil { // ended before it began
		cancel()
	}
	x.mu.Unlock()
	defer cancel()
	err := x.converse(ctx, serving)
	if err != nil && !errors.Is(err, io.EOF) {
		x.server.log.Debug("a guest link ended", "from", x.caller.String(), "domain", x.guest.uuid, "error", err)
	}
}

// converse greets, and serves the streams that the guest opens.
func (x *session) converse(ctx, serving context.Context) error {
	defer x.link.Close()
	if err := x.greet(ctx, serving); err != nil {
		return err
	}
	link, err := guestlink.NewSession(x.link, guestlink.Config{
		Admit: x.guest.admit, Release: x.guest.release, Paused: func() bool { return x.server.paused(x.caller) },
	})
	if err != nil {
		return err
	}
	var streams sync.WaitGroup
	defer streams.Wait()
	defer link.Close()
	defer context.AfterFunc(ctx, func() { x.farewell(link, serving) })()
	for {
		raw, err := link.Accept()
		if err != nil {
			return x.judge(link, err)
		}
		streams.Go(func() {
			y := newStream(x, raw)
			defer y.close()
			y.run(ctx)
		})
	}
}

// farewell ends a link for which ctx has ended, and tells the guest why.
func (x *session) farewell(link *guestlink.Session, serving context.Context) {
	if why := x.lastWord(serving); why != nil {
		link.End(why)
		return
	}
	link.Close()
}

// lastWord is why the session ends, nil if the guest has ended it or the link is broken.
func (x *session) lastWord(serving context.Context) *guestlink.Failure {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.why == nil && serving.Err() != nil {
		return guestlink.Fail(guestlink.CodeRetry, "the host's daemon stops")
	}
	return x.why
}

// judge says of a link that has ended by itself what the guest did wrong, if it did.
func (x *session) judge(link *guestlink.Session, err error) error {
	why, ours := errors.AsType[*guestlink.Failure](err) // too many streams
	if errors.Is(err, guestlink.ErrProtocol) {
		why, ours = guestlink.Fail(guestlink.CodeProtocol, "%v", err), true
	}
	if ours {
		x.fault(why)
		x.mu.Lock()
		why = x.why
		x.mu.Unlock()
		link.End(why)
	}
	return err
}

// fault ends the session for what the guest did.
func (x *session) fault(why *guestlink.Failure) {
	if why.Code == guestlink.CodeProtocol {
		x.server.metrics.violations.Inc()
	}
	x.end(why)
}

// greet exchanges Hello and Welcome. If the session ends meanwhile, or what comes is not to be served, the guest is
// told why.
func (x *session) greet(ctx, serving context.Context) error {
	conn, said := guestlink.NewConn(x.link), make(chan struct{})
	proceed := context.AfterFunc(ctx, func() {
		defer close(said)
		if why := x.lastWord(serving); why != nil {
			tell(conn, x.link, why)
		}
		x.link.Close()
	})
	err := x.welcome(conn)
	if errors.Is(err, guestlink.ErrProtocol) {
		err = guestlink.Fail(guestlink.CodeProtocol, "%v", err)
	}
	if why, ok := errors.AsType[*guestlink.Failure](err); ok {
		x.fault(why)
	}
	if !proceed() {
		<-said
		err = errors.Join(err, ctx.Err())
	}
	return err
}

// tell tells a guest that has no session why it gets none.
func tell(conn *guestlink.Conn, link net.Conn, why *guestlink.Failure) {
	defer time.AfterFunc(lastWord, func() { link.Close() }).Stop() // it would keep the link, and there may be many
	_ = conn.SendMessage(guestlink.Failed, 0, why)
	if c, ok := link.(interface{ CloseWrite() error }); ok && c.CloseWrite() == nil {
		guestlink.Linger(link)
	}
}

// welcome answers the guest's greeting.
func (x *session) welcome(conn *guestlink.Conn) error {
	hello, err := guestlink.Greeted(conn)
	if err != nil {
		return err
	}
	d, err := x.server.domain(x)
	if err != nil {
		return err
	}
	if hello.Version != guestlink.Version {
		x.server.log.Warn("an agent speaks another version of the guest link: it and this host must be of versions that go together",
			"domain", d.Name, "uuid", d.UUID, "agent", hello.Agent, "speaks", hello.Version, "host_speaks", guestlink.Version)
		return guestlink.Fail(guestlink.CodeVersion, "host %s speaks version %d of the guest link, the agent version %d", x.server.cfg.Host, guestlink.Version, hello.Version)
	}
	w := guestlink.Welcome{
		Version: guestlink.Version, UUID: d.UUID, Domain: d.Name, Host: x.server.cfg.Host, Daemon: x.server.cfg.Version, PushPrefix: d.PushPrefix(),
	}
	if d.Push != nil {
		w.PushQuota = d.Push.Quota
	}
	return conn.SendMessage(guestlink.Hello, 1, w)
}

// mayRead finds the version of a file that a guest asks for; what it may not read does not exist for it.
func (s *Server) mayRead(d placement.Domain, req guestlink.OpenRequest) (v placement.Version, ok bool) {
	s.cfg.Catalogue.View(func(st *placement.State) {
		f, found := st.File(req.Name)
		if !found {
			return
		}
		for i := len(f.Versions) - 1; i >= 0 && !ok; i-- {
			v = f.Versions[i]
			ok = (req.ID.IsZero() || v.ID == req.ID) && d.MayRead(v.Guests)
			if req.ID.IsZero() {
				break // the newest is meant, and no other
			}
		}
	})
	return v, ok
}
