package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"time"

	"connectrpc.com/connect"
	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/proto"

	"github.com/virtswarm/virtswarm/internal/api"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// answerTimeout bounds calls with a single answer. The longest wait for a new leader.
const answerTimeout = time.Minute

// calls stands around every call of a listener: it gives it a context, recovers its panic, gives its
// error a reason, and logs it.
type calls struct {
	logger   hclog.Logger
	stopping context.Context
}

// WrapUnary implements connect.Interceptor.
func (c *calls) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (resp connect.AnyResponse, err error) {
		ctx, cancel := context.WithTimeout(ctx, answerTimeout)
		defer cancel()
		err = c.call(ctx, req.Spec().Procedure, func(ctx context.Context) error {
			var err error
			resp, err = next(ctx, req)
			return err
		})
		if err == nil {
			clean(resp.Any())
		}
		return resp, err
	}
}

// WrapStreamingHandler implements connect.Interceptor.
func (c *calls) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		defer context.AfterFunc(c.stopping, func() { cancel(errStopping) })()
		return c.call(ctx, conn.Spec().Procedure, func(ctx context.Context) error { return next(ctx, cleanConn{conn}) })
	}
}

// clean makes an answer one that can be sent, whatever names of files are in it.
func clean(answer any) {
	if m, ok := answer.(proto.Message); ok {
		api.CleanText(m)
	}
}

type cleanConn struct{ connect.StreamingHandlerConn }

// Send implements connect.StreamingHandlerConn.
func (c cleanConn) Send(event any) error {
	clean(event)
	return c.StreamingHandlerConn.Send(event)
}

// WrapStreamingClient implements connect.Interceptor; there is no client here.
func (c *calls) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// call returns nil or a *connect.Error that carries a reason.
func (c *calls) call(ctx context.Context, procedure string, f func(context.Context) error) error {
	start := time.Now()
	peer, ok := PeerOf(ctx)
	if !ok {
		peer = "local"
	}
	err := recovered(func() error { return f(ctx) })
	if err == nil {
		c.logger.Debug("call", "procedure", procedure, "peer", peer, "took", time.Since(start))
		return nil
	}
	if p, ok := errors.AsType[*panicError](err); ok {
		c.logger.Error("call panicked", "procedure", procedure, "peer", peer, "panic", p.value, "stack", string(p.stack))
	} else if err = ended(ctx, err); api.ReasonOf(err) == reason.Unexpected {
		c.logger.Error("call failed unexpectedly", "procedure", procedure, "peer", peer, "error", err)
	}
	ce := api.ToConnect(err)
	c.logger.Debug("call failed", "procedure", procedure, "peer", peer, "took", time.Since(start),
		"code", ce.Code(), "error", ce.Message())
	return ce
}

// ended gives an error that only says that the call's context has ended the reason for which it has.
func ended(ctx context.Context, err error) error {
	if !errors.Is(ctx.Err(), context.Canceled) {
		return err
	}
	switch api.ReasonOf(err) {
	case reason.Interrupted, reason.Unreachable, reason.Unexpected:
	default:
		return err // it failed by itself before that
	}
	if errors.Is(context.Cause(ctx), errStopping) {
		return reason.Wrap(reason.Unreachable, "", errStopping).WithHint("wait until it runs again, then repeat")
	}
	return reason.Wrap(reason.Interrupted, "", err)
}

// panicError is a panic of a call. Its text tells the caller nothing of this process.
type panicError struct {
	value any
	stack []byte
}

func (*panicError) Error() string { return "a fault in the daemon, told in its log" }

func recovered(f func() error) (err error) {
	defer func() {
		switch v := recover(); v {
		case nil:
		case http.ErrAbortHandler: // how a handler asks net/http to break the connection
			panic(v)
		default:
			err = fmt.Errorf("recover call: %w", &panicError{value: v, stack: debug.Stack()})
		}
	}()
	return f()
}

// newDiscreet keeps causes from callers that nobody knows: they learn the reason of a failure, and the log
// the rest.
func newDiscreet(logger hclog.Logger) connect.Interceptor {
	refused := newRefusals(logger)
	return connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
			resp, err := next(ctx, req)
			if err == nil {
				return resp, nil
			}
			e := api.AsError(err)
			refused.note(e, req.Peer().Addr)
			return nil, &reason.Error{Reason: e.Reason, Subject: e.Subject, Hint: e.Hint}
		}
	})
}
