package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"connectrpc.com/connect"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// codes gives each reason the code that Connect and gRPC have for its kind.
var codes = map[reason.Reason]connect.Code{
	reason.Unexpected:       connect.CodeInternal,
	reason.Usage:            connect.CodeInvalidArgument,
	reason.SourceMissing:    connect.CodeNotFound,
	reason.SourceNotRegular: connect.CodeInvalidArgument,
	reason.SourceUnreadable: connect.CodePermissionDenied,
	reason.SourceChanged:    connect.CodeAborted,
	reason.InvalidName:      connect.CodeInvalidArgument,
	reason.NotFound:         connect.CodeNotFound,
	reason.DestExists:       connect.CodeAlreadyExists,
	reason.NoSpace:          connect.CodeResourceExhausted,
	reason.BadToken:         connect.CodeUnauthenticated,
	reason.Unreachable:      connect.CodeUnavailable,
	reason.NoLeader:         connect.CodeUnavailable,
	reason.TooFewCopies:     connect.CodeFailedPrecondition,
	reason.DamagedData:      connect.CodeDataLoss,
	reason.NoHolder:         connect.CodeUnavailable,
	reason.AddressInUse:     connect.CodeFailedPrecondition,
	reason.NotMember:        connect.CodePermissionDenied,
	reason.DamagedStore:     connect.CodeDataLoss,
	reason.DamagedLog:       connect.CodeDataLoss,
	reason.InvalidConfig:    connect.CodeInvalidArgument,
	reason.HostNameTaken:    connect.CodeAlreadyExists,
	reason.NoSuchHost:       connect.CodeNotFound,
	reason.AlreadyRunning:   connect.CodeFailedPrecondition,
	reason.NoSuchGuest:      connect.CodeNotFound,
	reason.NoLibvirt:        connect.CodeUnavailable,
	reason.NoGuestLink:      connect.CodeFailedPrecondition,
	reason.QuorumAtRisk:     connect.CodeFailedPrecondition,
	reason.NoCluster:        connect.CodeFailedPrecondition,
	reason.OldCopy:          connect.CodeDataLoss,
	reason.UnsafeRecovery:   connect.CodeFailedPrecondition,
	reason.TooOld:           connect.CodeFailedPrecondition,
	reason.MixedVersions:    connect.CodeFailedPrecondition,
	reason.DestUnusable:     connect.CodeFailedPrecondition,
	reason.InUse:            connect.CodeFailedPrecondition,
	reason.NoDescriptors:    connect.CodeResourceExhausted,
	reason.DiskError:        connect.CodeInternal,
	reason.TimedOut:         connect.CodeDeadlineExceeded,
	reason.LimitReached:     connect.CodeResourceExhausted,
	reason.Interrupted:      connect.CodeCanceled,
}

// ExitCode returns the exit code of a process that ends with err: 0 for nil.
func ExitCode(err error) int {
	if err == nil {
		return 0
	}
	return AsError(err).Reason.ExitCode()
}

// ReasonOf returns why err happened, in whatever it is wrapped; 0 for nil.
func ReasonOf(err error) reason.Reason {
	if err == nil {
		return 0
	}
	return AsError(err).Reason
}

// AsError finds or makes the Error in err, on either side of a call: an Error in its chain, the detail a
// daemon sent, a call that did not get through (Unreachable), a cancellation (Interrupted), else
// Unexpected. It returns nil for nil.
func AsError(err error) *reason.Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*reason.Error](err); ok {
		return e
	}
	ce, ok := errors.AsType[*connect.Error](err)
	if !ok {
		return reason.As(err, "")
	}
	if e := fromDetail(ce); e != nil {
		return e
	}
	switch {
	case ce.Code() == connect.CodeUnavailable, isBroken(ce):
		return unreachable(ce)
	case ce.Code() == connect.CodeCanceled:
		return &reason.Error{Reason: reason.Interrupted}
	case ce.Code() == connect.CodeDeadlineExceeded:
		return &reason.Error{Reason: reason.TimedOut, Err: ce}
	case ce.Code() == connect.CodeUnimplemented:
		return &reason.Error{Reason: reason.TooOld, Subject: "the daemon does not know this request", Err: ce,
			Hint: "install the same release of virtswarm and virtswarmd, and restart the daemon"}
	case ce.Code() == connect.CodeResourceExhausted:
		return &reason.Error{Reason: reason.LimitReached, Subject: "the request or its answer", Err: ce,
			Hint: fmt.Sprintf("a message has %d bytes at most: ask for less at a time", MaxMessage)}
	default:
		return &reason.Error{Reason: reason.Unexpected, Err: ce}
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
func fromDetail(ce *connect.Error) *reason.Error {
	for _, d := range ce.Details() {
		m, err := d.Value()
		if err != nil {
			continue
		}
		detail, ok := m.(*v1.ErrorDetail)
		if !ok {
			continue
		}
		e := &reason.Error{Reason: reason.Reason(detail.GetReason()), Subject: detail.GetSubject(), Hint: detail.GetHint()}
		if detail.GetCause() != "" {
			e.Err = errors.New(detail.GetCause())
		}
		return e
	}
	return nil
}

// unreachable says which daemon could not be reached and, where the kernel told, why.
func unreachable(ce *connect.Error) *reason.Error {
	e := &reason.Error{Reason: reason.Unreachable, Err: ce.Unwrap()}
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
	if _, ok := errors.AsType[*reason.Error](err); !ok {
		if ce, ok := errors.AsType[*connect.Error](err); ok {
			return ce
		}
	}
	e := AsError(err)
	detail := Detail(e)
	ce := connect.NewError(codeOf(e.Reason), e)
	if d, err := connect.NewErrorDetail(detail); err == nil {
		ce.AddDetail(d)
	}
	return ce
}

// Detail gives an error in the API's words.
func Detail(e *reason.Error) *v1.ErrorDetail {
	why := e.Reason.Explain()
	d := &v1.ErrorDetail{
		Reason: v1.Reason(why.Reason), ExitCode: uint32(e.Reason.ExitCode()), Message: why.Sentence,
		Subject: utf8Of(e.Subject), Hint: utf8Of(e.Next()),
	}
	if e.Err != nil {
		d.Cause = utf8Of(e.Err.Error())
	}
	return d
}

// utf8Of is a text that a message can carry: it may have the name of a file in it, which has any bytes.
func utf8Of(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// codeOf returns the code of a reason; that of Unexpected for one that is not in the table.
func codeOf(r reason.Reason) connect.Code {
	if code, ok := codes[r]; ok {
		return code
	}
	return connect.CodeInternal
}
