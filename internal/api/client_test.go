package api

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/reason"
)

func TestSocketPath(t *testing.T) {
	t.Setenv(SocketVariable, "")
	if got := SocketPath(""); got != DefaultSocket {
		t.Errorf("by default %s, want %s", got, DefaultSocket)
	}
	t.Setenv(SocketVariable, "/from/environment")
	if got := SocketPath(""); got != "/from/environment" {
		t.Errorf("with %s set %s", SocketVariable, got)
	}
	if got := SocketPath("/asked"); got != "/asked" {
		t.Errorf("asked for /asked, got %s", got)
	}
}

func TestNoDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	c := NewUnixClient(path)
	defer c.Close()
	check := func(t *testing.T, err error) {
		t.Helper()
		e := AsError(err)
		if e.Reason != reason.Unreachable || e.Subject != path || !errors.Is(err, syscall.ENOENT) {
			t.Errorf("got %v with subject %q, want %v about %s", e, e.Subject, reason.Unreachable, path)
		}
	}
	_, err := c.Control.Status(t.Context(), &v1.StatusRequest{})
	check(t, err)
	stream, err := c.Control.Scrub(t.Context(), &v1.ScrubRequest{})
	if err == nil {
		if stream.Receive() {
			t.Fatal("an event from nobody")
		}
		err = stream.Err()
	}
	check(t, err)
}

// TestErrorOfDial is how a host with a certificate of another cluster gets its own reason.
func TestErrorOfDial(t *testing.T) {
	c := NewClient(func(context.Context) (net.Conn, error) {
		return nil, reason.Wrap(reason.NotMember, "10.0.0.7:7117", os.ErrPermission)
	})
	defer c.Close()
	_, err := c.Cluster.Progress(t.Context(), &v1.ProgressRequest{})
	if e := AsError(err); e.Reason != reason.NotMember || e.Subject != "10.0.0.7:7117" {
		t.Errorf("got %v (%v), want %v", e.Reason, err, reason.NotMember)
	}
}

func TestCancelledCallIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := NewClient(func(ctx context.Context) (net.Conn, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	})
	defer c.Close()
	_, err := c.Cluster.Progress(ctx, &v1.ProgressRequest{})
	if got := ReasonOf(err); got != reason.Interrupted {
		t.Errorf("got %v (%v), want %v", got, err, reason.Interrupted)
	}
}
