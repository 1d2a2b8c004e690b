package server_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"

	"github.com/virtswarm/virtswarm/internal/api"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/api/virtswarm/v1/virtswarmv1connect"
	"github.com/virtswarm/virtswarm/internal/reason"
)

func TestRequestsAreBounded(t *testing.T) {
	r := start(t, &host{}, "beta")
	large := &v1.ForwardRequest{Op: "apply", Payload: make([]byte, api.MaxMessage)}
	_, err := client(t, r.listeners.Port).Cluster.Forward(t.Context(), large)
	if got := connect.CodeOf(err); got != connect.CodeResourceExhausted {
		t.Errorf("a request beyond the limit: %v, want %v", err, connect.CodeResourceExhausted)
	}
	_, err = client(t, r.listeners.Join).Join.Join(t.Context(), &v1.JoinRequest{Csr: make([]byte, 64<<10)})
	if got := connect.CodeOf(err); got != connect.CodeResourceExhausted {
		t.Errorf("a join request beyond the limit: %v, want %v", err, connect.CodeResourceExhausted)
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	resp := post(t, r.listeners.Unix, &zipped, "gzip")
	if resp != http.StatusNotFound && resp != http.StatusNotImplemented { // Unimplemented, as HTTP has it
		t.Errorf("a compressed request: status %d, want it refused as not implemented", resp)
	}
}

func post(t *testing.T, l net.Listener, body io.Reader, encoding string) (status int) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
		"http://"+l.Addr().String()+virtswarmv1connect.ControlStatusProcedure, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if encoding != "" {
		req.Header.Set("Content-Encoding", encoding)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

func TestJoinTellsNoCauses(t *testing.T) {
	h := &host{}
	h.join = func(context.Context) (*v1.JoinResponse, error) {
		return nil, reason.Wrap(reason.BadToken, "delta", errors.New("used by gamma at noon"))
	}
	r := start(t, h, "")
	_, err := client(t, r.listeners.Join).Join.Join(t.Context(), &v1.JoinRequest{})
	if e := api.AsError(err); e.Reason != reason.BadToken || e.Subject != "delta" || strings.Contains(err.Error(), "gamma") {
		t.Errorf("got %v, want the reason without its cause", err)
	}
	r.stop()
	if !strings.Contains(r.log.String(), "used by gamma at noon") {
		t.Error("the cause is not in the log")
	}
}

func TestJoinsAtOnceAreBounded(t *testing.T) {
	const limit = 8
	inside, release := make(chan struct{}), make(chan struct{})
	h := &host{}
	h.join = func(context.Context) (*v1.JoinResponse, error) {
		inside <- struct{}{}
		<-release
		return &v1.JoinResponse{}, nil
	}
	r := start(t, h, "")
	c := client(t, r.listeners.Join)
	var joins sync.WaitGroup
	for range limit {
		joins.Go(func() {
			if _, err := c.Join.Join(t.Context(), &v1.JoinRequest{}); err != nil {
				t.Errorf("join within the limit: %v", err)
			}
		})
		<-inside
	}
	_, err := c.Join.Join(t.Context(), &v1.JoinRequest{})
	if e := api.AsError(err); e.Reason != reason.Unreachable || !strings.Contains(e.Next(), "moment") {
		t.Errorf("join beyond the limit: %v, want one told to come again", err)
	}
	close(release)
	joins.Wait()
}

func TestStrangersAreBounded(t *testing.T) {
	const limit = 64
	r := start(t, &host{}, "")
	for _, l := range []net.Listener{r.listeners.Join, r.listeners.Metrics} {
		var refused net.Conn
		for range limit + 1 {
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			refused = c // connections are accepted in the order in which they were made
		}
		if n, err := refused.Read(make([]byte, 1)); err == nil {
			t.Errorf("connection %d was answered with %d bytes", limit+1, n)
		}
	}
}
