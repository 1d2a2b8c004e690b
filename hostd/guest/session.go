package guest

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/virtswarm/virtswarm/internal/guestlink"
	"github.com/virtswarm/virtswarm/placement"
)

// session is one link of a guest. Its fields belong to the goroutine in run, but for what is said of them.
type session struct {
	server *Server
	conn   *guestlink.Conn
	caller caller
	guest  *guest // set by enter
	open   *opened
	rings  bool // it is a bell

	mu     sync.Mutex
	why    *guestlink.Failure // it ends, and this is the last word; guarded by mu
	cancel context.CancelFunc // guarded by mu
	watch  bool               // one is under way; only ever set
}

func newSession(s *Server, c net.Conn, who caller) *session {
	return &session{server: s, conn: guestlink.NewConn(c), caller: who}
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
	var helpers sync.WaitGroup
	defer x.conn.Close()
	defer helpers.Wait()
	defer x.shut()
	defer cancel()
	helpers.Go(func() {
		<-ctx.Done()
		x.farewell(serving.Err() != nil)
	})
	helpers.Go(func() { x.beat(ctx) })
	err := x.converse(ctx, &helpers)
	if errors.Is(err, guestlink.ErrProtocol) {
		err = guestlink.Fail(guestlink.CodeProtocol, "%v", err)
	}
	if failure, ok := errors.AsType[*guestlink.Failure](err); ok && ctx.Err() == nil {
		if failure.Code == guestlink.CodeProtocol {
			x.server.metrics.violations.Inc()
		}
		x.end(failure)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		x.server.log.Debug("a guest link ended", "from", x.caller.String(), "domain", x.guest.uuid, "error", err)
	}
}

// farewell tells the guest why the link ends, if anybody listens, and ends it: whoever waits for it is freed.
func (x *session) farewell(stops bool) {
	x.mu.Lock()
	why := x.why
	x.mu.Unlock()
	switch {
	case why != nil:
	case stops:
		why = guestlink.Fail(guestlink.CodeRetry, "the host's daemon stops")
	default: // the guest has ended it, or the link is broken
		x.conn.Close()
		return
	}
	defer time.AfterFunc(lastWord, func() { x.conn.Close() }).Stop() // it would keep the session, and there may be many
	_ = x.conn.SendMessage(guestlink.Failed, 0, why)
	x.linger()
	x.conn.Close()
}

// linger lets what was sent arrive: a link that is closed while the guest still sends would be reset, and the word lost.
func (x *session) linger() {
	if c, ok := x.conn.Link().(interface{ CloseWrite() error }); ok && c.CloseWrite() == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(x.conn.Link(), 1<<20))
	}
}

// beat shows the guest that this side lives, until ctx ends.
func (x *session) beat(ctx context.Context) {
	for {
		wait, err := x.conn.Beat()
		if err != nil {
			x.end(nil)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// converse answers request after request.
func (x *session) converse(ctx context.Context, helpers *sync.WaitGroup) error {
	if err := x.greet(); err != nil {
		return err
	}
	for {
		f, err := x.conn.Receive()
		if err != nil {
			return err
		}
		err = x.answer(ctx, f, helpers)
		if failure, ok := err.(*guestlink.Failure); ok && failure.Code != guestlink.CodeProtocol && failure.Code != guestlink.CodeGone {
			err = x.conn.SendMessage(guestlink.Failed, f.ID, failure) // the request failed; the conversation goes on
		}
		if err != nil {
			return err
		}
	}
}

// greet exchanges Hello and Welcome.
func (x *session) greet() error {
	f, err := x.conn.Receive()
	if err != nil {
		return err
	}
	var hello guestlink.HelloRequest
	if f.Kind != guestlink.Hello || f.Decode(&hello) != nil {
		return guestlink.Fail(guestlink.CodeProtocol, "a conversation begins with a Hello, not with a %s frame", f.Kind)
	}
	if hello.Version != guestlink.Version {
		return guestlink.Fail(guestlink.CodeVersion, "host %s speaks version %d of the guest link, the agent version %d", x.server.cfg.Host, guestlink.Version, hello.Version)
	}
	d, err := x.server.domain(x)
	if err != nil {
		return err
	}
	w := guestlink.Welcome{
		Version: guestlink.Version, UUID: d.UUID, Domain: d.Name, Host: x.server.cfg.Host, Daemon: x.server.cfg.Version, PushPrefix: d.PushPrefix(),
	}
	if d.Push != nil {
		w.PushQuota = d.Push.Quota
	}
	return x.conn.SendMessage(guestlink.Hello, f.ID, w)
}

// answer answers one request. A Failure is told to the guest; another error ends the link.
func (x *session) answer(ctx context.Context, f guestlink.Frame, helpers *sync.WaitGroup) error {
	d, err := x.server.domain(x) // as it is now, for every request
	if err != nil {
		return err
	}
	x.server.metrics.requests.WithLabelValues(f.Kind.String()).Inc()
	switch f.Kind {
	case guestlink.Beat:
		return nil
	case guestlink.Bell:
		return x.bell(ctx, helpers)
	case guestlink.Ping:
		if len(f.Payload) > guestlink.MaxPing {
			return violation(f, "carries %d bytes, at most %d", len(f.Payload), guestlink.MaxPing)
		}
		return x.conn.Send(guestlink.Pong, f.ID, f.Payload)
	case guestlink.List:
		return decoded(f, func(req guestlink.ListRequest) error { return x.list(d, f.ID, req) })
	case guestlink.Watch:
		return decoded(f, func(req guestlink.ListRequest) error { return x.startWatch(ctx, f, req, helpers) })
	case guestlink.Open:
		return decoded(f, func(req guestlink.OpenRequest) error { return x.openFile(ctx, d, f.ID, req) })
	case guestlink.Read:
		return decoded(f, func(req guestlink.ReadRequest) error { return x.read(ctx, d, f, req) })
	case guestlink.Push:
		return decoded(f, func(req guestlink.PushRequest) error { return x.push(ctx, d, f.ID, req) })
	}
	return violation(f, "is no request")
}

// decoded has a request's payload read before it is carried out.
func decoded[T any](f guestlink.Frame, then func(T) error) error {
	var req T
	if err := f.Decode(&req); err != nil {
		return violation(f, "%v", err)
	}
	return then(req)
}

// violation is what a guest did against the rules; it ends the link.
func violation(f guestlink.Frame, format string, args ...any) error {
	why := guestlink.Fail(guestlink.CodeProtocol, format, args...)
	why.Message = "a " + f.Kind.String() + " frame " + why.Message
	return why
}

// shut lets go of what the session holds.
func (x *session) shut() {
	x.closeFile()
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
