package reason

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"testing"
)

func TestErrorText(t *testing.T) {
	tests := []struct {
		err  *Error
		want string
	}{
		{Wrap(NotFound, "images/b", nil), "no such name or version: images/b"},
		{Wrap(NoLeader, "", nil), "the cluster has no leader"},
		{Wrap(NoSpace, "a", io.EOF), "no space: a: EOF"},
		{Wrap(NoSpace, "", io.EOF), "no space: EOF"},
	}
	for _, tt := range tests {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
	if e := Wrap(NoSpace, "a", io.EOF); !errors.Is(e, io.EOF) {
		t.Error("the cause is not found in the error")
	}
}

func TestOf(t *testing.T) {
	missing, full := Sentinel(NotFound, "no such thing"), Sentinel(NoSpace, "no space left")
	tests := []struct {
		err  error
		want Reason
	}{
		{nil, 0},
		{missing, NotFound},
		{fmt.Errorf("open x: %w", missing), NotFound},
		{fmt.Errorf("%w: %w", missing, full), NoSpace},
		{fmt.Errorf("%w: %w", missing, syscall.ENOSPC), NoSpace},
		{fmt.Errorf("write: %w", syscall.EDQUOT), NoSpace},
		{Wrap(Usage, "x", full), Usage},
		{fmt.Errorf("%w: %w", missing, syscall.EMFILE), NoDescriptors},
		{fmt.Errorf("listen: %w", syscall.EADDRINUSE), AddressInUse},
		{fmt.Errorf("fetch: %w", context.Canceled), Interrupted},
		{fmt.Errorf("%w: %w", missing, context.Canceled), NotFound},
		{fmt.Errorf("call: %w", context.DeadlineExceeded), TimedOut},
		{fmt.Errorf("import: %w", &fs.PathError{Op: "open", Path: "x", Err: syscall.EROFS}), DiskError},
		{fmt.Errorf("import: %w", &os.LinkError{Op: "rename", Old: "x", New: "y", Err: syscall.EIO}), DiskError},
		{fmt.Errorf("%w: %w", missing, &fs.PathError{Op: "open", Path: "x", Err: syscall.EIO}), NotFound},
		{io.EOF, Unexpected},
	}
	for _, tt := range tests {
		if got := Of(tt.err); got != tt.want {
			t.Errorf("%v: got %v, want %v", tt.err, got, tt.want)
		}
	}
	if other := Sentinel(NotFound, "no such thing"); errors.Is(missing, other) {
		t.Error("two sentinels of one text are the same")
	}
}
