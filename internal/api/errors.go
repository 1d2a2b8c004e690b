package api

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"

	"connectrpc.com/connect"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

// Error is a failure as an operator sees it: what happened (the reason), to what (the subject), why (the
// cause) and what to do next (the hint).
type Error struct {
	Reason  Reason
	Subject string
	// Hint replaces that of the reason; empty keeps it.
	Hint string
	// Err is the cause; nil if the reason says it all.
	Err error
}

// NewError returns an error for a reason, about a subject and with a cause, each of which may be missing.
func NewError(r Reason, subject string, cause error) *Error {
	return &Error{Reason: r, Subject: subject, Err: cause}
}

// WithHint returns a copy of e with another hint.
func (e *Error) WithHint(hint string) *Error {
	c := *e
	c.Hint = hint
	return &c
}

// Error gives what happened, to what, and why, on one line.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(Explain(e.Reason).Sentence)
	if e.Subject != "" {
		b.WriteString(": ")
		b.WriteString(e.Subject)
	}
	if e.Err != nil {
		b.WriteString(": ")
		b.WriteString(e.Err.Error())
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Next says what to do: the error's own hint, else that of its reason.
func (e *Error) Next() string {
	if e.Hint != "" {
		return e.Hint
	}
	return Explain(e.Reason).Hint
}

// ExitCode returns the exit code of a process that ends with err: 0 for nil.
func ExitCode(err error) int {
	if err == nil {
		return 0
	}
	return Explain(AsError(err).Reason).ExitCode
}

// ReasonOf returns why err happened, in whatever it is wrapped; Unspecified (0) for nil.
func ReasonOf(err error) Reason {
	if err == nil {
		return v1.Reason_REASON_UNSPECIFIED
	}
	return AsError(err).Reason
}

// AsError finds or makes the Error in err, on either side of a call: an Error in its chain, the detail a
// daemon sent, a call that did not get through (Unreachable), a cancellation (Interrupted), else
// Unexpected. It returns nil for nil.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	ce, ok := errors.AsType[*connect.Error](err)
	if !ok {
		if errors.Is(err, context.Canceled) {
			return &Error{Reason: Interrupted}
		}
		return &Error{Reason: Unexpected, Err: err}
	}
	if e := fromDetail(ce); e != nil {
		return e
	}
	switch {
	case ce.Code() == connect.CodeUnavailable, isBroken(ce):
		return unreachable(ce)
	case ce.Code() == connect.CodeCanceled:
		return &Error{Reason: Interrupted}
	default:
		return &Error{Reason: Unexpected, Err: ce}
	}
}

// isBroken reports whether a call ended because its connection did. The codes for that are many (a reset is
// Canceled, an end in the middle of a message is Internal), so it looks at the cause.
func isBroken(ce *connect.Error) bool {
	if connect.IsWireError(ce) || errors.Is(ce, context.Canceled) {
		return false
	}
	_, network := errors.AsType[*net.OpError](error(ce))
	return network || errors.Is(ce, io.EOF) || errors.Is(ce, io.ErrUnexpectedEOF) ||
		strings.Contains(ce.Message(), "http2: ") // net/http has no types for connections that end
}

// fromDetail rebuilds the error a daemon sent; nil if it sent none.
func fromDetail(ce *connect.Error) *Error {
	for _, d := range ce.Details() {
		m, err := d.Value()
		if err != nil {
			continue
		}
		detail, ok := m.(*v1.ErrorDetail)
		if !ok {
			continue
		}
		e := &Error{Reason: detail.GetReason(), Subject: detail.GetSubject(), Hint: detail.GetHint()}
		if detail.GetCause() != "" {
			e.Err = errors.New(detail.GetCause())
		}
		return e
	}
	return nil
}

// unreachable says which daemon could not be reached and, where the kernel told, why.
func unreachable(ce *connect.Error) *Error {
	e := &Error{Reason: Unreachable, Err: ce.Unwrap()}
	if op, ok := errors.AsType[*net.OpError](error(ce)); ok {
		e.Err = op.Err
		if op.Addr != nil {
			e.Subject = op.Addr.String()
		}
	}
	if errors.Is(ce, syscall.EACCES) {
		e.Hint = "run it as the user of virtswarmd (usually root): the socket is closed to others"
	}
	return e
}

// ToConnect turns err into what is sent to a caller, with an ErrorDetail. A *connect.Error passes as it
// is; what is no Error is Unexpected. It returns nil for nil.
func ToConnect(err error) *connect.Error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*Error](err); !ok {
		if ce, ok := errors.AsType[*connect.Error](err); ok {
			return ce
		}
		if errors.Is(err, context.DeadlineExceeded) {
			return connect.NewError(connect.CodeDeadlineExceeded, err)
		}
	}
	e := AsError(err)
	detail := &v1.ErrorDetail{Reason: e.Reason, Subject: e.Subject, Hint: e.Next()}
	if e.Err != nil {
		detail.Cause = e.Err.Error()
	}
	ce := connect.NewError(Explain(e.Reason).code, e)
	if d, err := connect.NewErrorDetail(detail); err == nil {
		ce.AddDetail(d)
	}
	return ce
}
