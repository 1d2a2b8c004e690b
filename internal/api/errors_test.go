package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"

	"connectrpc.com/connect"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/reason"
)

func TestAsError(t *testing.T) {
	sent := reason.Wrap(reason.NoSpace, "images/a", errors.New("3 bytes free")).WithHint("buy a disk")
	tests := []struct {
		name string
		err  error
		want reason.Reason
	}{
		{"error of this package", sent, reason.NoSpace},
		{"wrapped", fmt.Errorf("pull images/a: %w", sent), reason.NoSpace},
		{"as a daemon sends it", ToConnect(sent), reason.NoSpace},
		{"that, wrapped", fmt.Errorf("pull images/a: %w", ToConnect(sent)), reason.NoSpace},
		{"anything else", io.ErrUnexpectedEOF, reason.Unexpected},
		{"cancellation here", fmt.Errorf("fetch: %w", context.Canceled), reason.Interrupted},
		{"cancellation of a call", connect.NewError(connect.CodeCanceled, context.Canceled), reason.Interrupted},
		{"call that did not get through", connect.NewError(connect.CodeUnavailable, io.EOF), reason.Unreachable},
		{"call that a proxy refused", connect.NewError(connect.CodeInternal, errors.New("HTTP status 418")), reason.Unexpected},
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
	if ExitCode(nil) != 0 || ReasonOf(nil) != 0 {
		t.Errorf("nil has exit code %d and reason %v", ExitCode(nil), ReasonOf(nil))
	}
}

func TestErrorSurvivesTheWay(t *testing.T) {
	cause := errors.New("3 bytes free, 5 needed")
	for _, sent := range []*reason.Error{
		reason.Wrap(reason.NoSpace, "images/a", cause),
		reason.Wrap(reason.NoSpace, "images/a", cause).WithHint("buy a disk"),
		reason.Wrap(reason.NotFound, "images/b", nil),
		reason.Wrap(reason.NoLeader, "", nil),
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
	if e.Reason != reason.Unreachable || e.Subject != "/run/s" || e.Next() == reason.Unreachable.Explain().Hint {
		t.Errorf("got %v about %q, next %q", e.Reason, e.Subject, e.Next())
	}
}

// TestEveryReasonIsInTheAPI compares the enum of the API and the codes with the table of reasons.
func TestEveryReasonIsInTheAPI(t *testing.T) {
	named := map[string]int32{}
	for name, number := range v1.Reason_value {
		named[strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(name, "REASON_")), "_", "-")] = number
	}
	delete(named, "unspecified")
	for _, e := range reason.Explanations() {
		if named[e.Name] != int32(e.Reason) || codes[e.Reason] == 0 {
			t.Errorf("%s (%d): the API has %d, code %v", e.Name, int(e.Reason), named[e.Name], codes[e.Reason])
		}
		delete(named, e.Name)
	}
	if len(named) > 0 {
		t.Errorf("not explained: %v", named)
	}
}

// TestAnswersWithoutADetail have reasons all the same: those of a daemon that knows less, or of what carries the calls.
func TestAnswersWithoutADetail(t *testing.T) {
	for code, want := range map[connect.Code]reason.Reason{
		connect.CodeUnimplemented: reason.TooOld, connect.CodeDeadlineExceeded: reason.TimedOut, connect.CodeResourceExhausted: reason.LimitReached,
		connect.CodeCanceled: reason.Interrupted, connect.CodeUnavailable: reason.Unreachable,
	} {
		if e := AsError(connect.NewError(code, errors.New("no detail"))); e.Reason != want || e.Next() == "" {
			t.Errorf("%v: %v, want %v", code, e.Reason, want)
		}
	}
}
