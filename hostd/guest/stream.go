package guest

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"

	"github.com/virtswarm/virtswarm/internal/guestlink"
)

// stream is one of the streams of a guest's link. Its fields belong to the goroutine in run.
type stream struct {
	*session
	raw  *guestlink.Stream
	conn *guestlink.Conn
	open *opened
}

func newStream(x *session, raw *guestlink.Stream) *stream {
	return &stream{session: x, raw: raw, conn: guestlink.NewConn(raw)}
}

// requests are the frames with which a guest asks, by what a stream is for.
var requests = map[guestlink.Purpose][]guestlink.Kind{
	guestlink.ForRequests: {guestlink.Ping, guestlink.List},
	guestlink.ForWatch:    {guestlink.Watch},
	guestlink.ForPull:     {guestlink.Open, guestlink.Read},
	guestlink.ForPush:     {guestlink.Push},
	guestlink.ForBell:     {guestlink.Bell},
}

// run serves the stream until the guest closes it, or ctx ends.
func (x *stream) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer cancel()
	helpers.Go(func() { // a guest that closes the stream cancels what it has asked for
		select {
		case <-x.raw.Gone():
			cancel()
		case <-ctx.Done():
		}
	})
	purpose, err := x.raw.Started()
	if err == nil {
		err = x.converse(ctx, purpose, &helpers)
	}
	if errors.Is(err, guestlink.ErrProtocol) {
		err = guestlink.Fail(guestlink.CodeProtocol, "%v", err)
	}
	why, failed := errors.AsType[*guestlink.Failure](err)
	switch {
	case failed && ends(why) && ctx.Err() == nil:
		x.fault(why)
	case err != nil && !errors.Is(err, io.EOF):
		x.server.log.Debug("a stream of a guest ended", "from", x.caller.String(), "domain", x.guest.uuid, "for", purpose.String(), "error", err)
	}
}

// ends reports whether a failure ends the link, and not only what was asked for.
func ends(why *guestlink.Failure) bool {
	return why.Code == guestlink.CodeProtocol || why.Code == guestlink.CodeGone
}

// converse answers request after request.
func (x *stream) converse(ctx context.Context, purpose guestlink.Purpose, helpers *sync.WaitGroup) error {
	kinds, known := requests[purpose]
	if !known {
		return x.conn.SendMessage(guestlink.Failed, 0, guestlink.Fail(guestlink.CodeUnknownStream, "host %s serves no stream for %s", x.server.cfg.Host, purpose))
	}
	for patience := guestlink.StartTimeout; ; patience = guestlink.IdleTimeout {
		if purpose == guestlink.ForBell {
			patience = 0
		}
		x.raw.SetPatience(patience)
		f, err := x.conn.Receive()
		if errors.Is(err, guestlink.ErrStalled) {
			err = x.conn.SendMessage(guestlink.Failed, 0, guestlink.Fail(guestlink.CodeRetry, "nothing was asked for on this stream for %s", patience))
			return err
		}
		if err != nil {
			return err
		}
		if !slices.Contains(kinds, f.Kind) {
			return violation(f, "is no request on a stream for %s", purpose)
		}
		err = x.answer(ctx, f, helpers)
		if failure, ok := errors.AsType[*guestlink.Failure](err); ok && !ends(failure) {
			_, over := errors.AsType[*finalFailure](err)
			if err = x.conn.SendMessage(guestlink.Failed, f.ID, failure); over {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
}

// answer answers one request. A Failure is told to the guest; another error ends the stream.
func (x *stream) answer(ctx context.Context, f guestlink.Frame, helpers *sync.WaitGroup) error {
	d, err := x.server.domain(x.session) // as it is now, for every request
	if err != nil {
		return err
	}
	x.server.metrics.requests.WithLabelValues(f.Kind.String()).Inc()
	switch f.Kind {
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
		return decoded(f, func(req guestlink.ListRequest) error { return x.watch(ctx, f, req) })
	case guestlink.Open:
		return decoded(f, func(req guestlink.OpenRequest) error { return x.openFile(ctx, d, f.ID, req) })
	case guestlink.Read:
		return decoded(f, func(req guestlink.ReadRequest) error { return x.read(ctx, d, f, req) })
	default: // Push
		return decoded(f, func(req guestlink.PushRequest) error { return x.push(ctx, d, f.ID, req) })
	}
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

// close lets go of what the stream holds.
func (x *stream) close() {
	x.raw.Close()
	x.closeFile()
}
