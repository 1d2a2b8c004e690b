package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"

	"connectrpc.com/connect"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
)

func TestAsError(t *testing.T) {
	sent := NewError(NoSpace, "images/a", errors.New("3 bytes free")).WithHint("buy a disk")
	tests := []struct {
		name string
		err  error
		want Reason
	}{
		{"error of this package", sent, NoSpace},
		{"wrapped", fmt.Errorf("pull images/a: %w", sent), NoSpace},
		{"as a daemon sends it", ToConnect(sent), NoSpace},
		{"that, wrapped", fmt.Errorf("pull images/a: %w", ToConnect(sent)), NoSpace},
		{"anything else", io.ErrUnexpectedEOF, Unexpected},
		{"cancellation here", fmt.Errorf("fetch: %w", context.Canceled), Interrupted},
		{"cancellation of a call", connect.NewError(connect.CodeCanceled, context.Canceled), Interrupted},
		{"call that did not get through", connect.NewError(connect.CodeUnavailable, io.EOF), Unreachable},
		{"call that a proxy refused", connect.NewError(connect.CodeInternal, errors.New("HTTP status 418")), Unexpected},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := ReasonOf(tt.err); got != tt.want {
				t.Errorf("reason %v, want %v", got, tt.want)
			}
			if got := ExitCode(tt.err); got != int(tt.want) {
				t.Errorf("exit code %d, want %d", got, tt.want)
			}
		})
	}
}

func TestNoErrorIsNoError(t *testing.T) {
	if e := AsError(nil); e != nil {
		t.Errorf("AsError(nil) = %v", e)
	}
	if e := ToConnect(nil); e != nil {
		t.Errorf("ToConnect(nil) = %v", e)
	}
	if ExitCode(nil) != 0 || ReasonOf(nil) != v1.Reason_REASON_UNSPECIFIED {
		t.Errorf("nil has exit code %d and reason %v", ExitCode(nil), ReasonOf(nil))
	}
}

func TestErrorSurvivesTheWay(t *testing.T) {
	cause := errors.New("3 bytes free, 5 needed")
	for _, sent := range []*Error{
		NewError(NoSpace, "images/a", cause),
		NewError(NoSpace, "images/a", cause).WithHint("buy a disk"),
		NewError(NotFound, "images/b", nil),
		NewError(NoLeader, "", nil),
	} {
		got := AsError(ToConnect(fmt.Errorf("publish: %w", sent)))
		if got.Reason != sent.Reason || got.Subject != sent.Subject || got.Next() != sent.Next() || got.Error() != sent.Error() {
			t.Errorf("sent %+v (%v), got %+v (%v)", sent, sent, got, got)
		}
	}
}

func TestToConnectKeepsWhatHasACode(t *testing.T) {
	gone := connect.NewError(connect.CodeAborted, errors.New("gone"))
	if got := ToConnect(fmt.Errorf("send: %w", gone)); got != gone {
		t.Errorf("got %v, want %v itself", got, gone)
	}
	if got := ToConnect(context.DeadlineExceeded).Code(); got != connect.CodeDeadlineExceeded {
		t.Errorf("a deadline has code %v", got)
	}
	if got := ToConnect(http.ErrBodyNotAllowed).Code(); got != connect.CodeInternal {
		t.Errorf("an unexpected error has code %v", got)
	}
}

func TestClosedSocketHasItsOwnHint(t *testing.T) {
	addr := &net.UnixAddr{Name: "/run/s", Net: "unix"}
	op := &net.OpError{Op: "dial", Net: "unix", Addr: addr, Err: os.NewSyscallError("connect", syscall.EACCES)}
	e := AsError(connect.NewError(connect.CodeUnavailable, op))
	if e.Reason != Unreachable || e.Subject != "/run/s" || e.Next() == Explain(Unreachable).Hint {
		t.Errorf("got %v about %q, next %q", e.Reason, e.Subject, e.Next())
	}
}

func TestErrorText(t *testing.T) {
	tests := []struct {
		err  *Error
		want string
	}{
		{NewError(NotFound, "images/b", nil), "no such name or version: images/b"},
		{NewError(NoLeader, "", nil), "the cluster has no leader"},
		{NewError(NoSpace, "a", io.EOF), "no space: a: EOF"},
		{NewError(NoSpace, "", io.EOF), "no space: EOF"},
	}
	for _, tt := range tests {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
	if e := NewError(NoSpace, "a", io.EOF); !errors.Is(e, io.EOF) {
		t.Error("the cause is not found in the error")
	}
}
