package server_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/virtswarm/virtswarm/hostd/server"
	"github.com/virtswarm/virtswarm/internal/api"
	v1 "github.com/virtswarm/virtswarm/internal/api/virtswarm/v1"
	"github.com/virtswarm/virtswarm/internal/api/virtswarm/v1/virtswarmv1connect"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// clusterID is the cluster that a host says it is of.
const clusterID = "5f1c9a4e2b7d4c0c8a55e3d9f0a1b2c3"

// host answers the few calls of these tests, each by its function if it has one. Its Host is nil: any other call
// panics.
type host struct {
	server.Host
	status func(context.Context) (*v1.StatusResponse, error)
	scrub  func(context.Context, func(*v1.CheckProgress) error) error
	join   func(context.Context) (*v1.JoinResponse, error)
}

func (h *host) Status(ctx context.Context, _ *v1.StatusRequest) (*v1.StatusResponse, error) {
	if h.status != nil {
		return h.status(ctx)
	}
	return &v1.StatusResponse{ClusterId: clusterID}, nil
}

func (h *host) Scrub(ctx context.Context, _ *v1.ScrubRequest, send func(*v1.CheckProgress) error) error {
	if h.scrub != nil {
		return h.scrub(ctx, send)
	}
	return send(&v1.CheckProgress{})
}

func (h *host) Join(ctx context.Context, _ *v1.JoinRequest) (*v1.JoinResponse, error) {
	if h.join != nil {
		return h.join(ctx)
	}
	return &v1.JoinResponse{}, nil
}

func (*host) Hosts(context.Context, *v1.HostsRequest) (*v1.HostsResponse, error) {
	return &v1.HostsResponse{}, nil
}

func (*host) Progress(context.Context, *v1.ProgressRequest) (*v1.ProgressResponse, error) {
	return &v1.ProgressResponse{}, nil
}

// running is a server on four TCP listeners, which stand for what they are named after.
type running struct {
	listeners server.Listeners
	log       *syncBuffer
	stop      func() // and wait
}

// start runs a server for h. Callers of the port are the host peer, or nobody if it is empty.
func start(t *testing.T, h server.Host, peer string) *running {
	t.Helper()
	r := &running{log: new(syncBuffer)}
	for _, l := range []*net.Listener{&r.listeners.Unix, &r.listeners.Port, &r.listeners.Join, &r.listeners.Metrics} {
		var err error
		if *l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "answer"}, func() float64 { return 42 }))
	s := server.New(server.Config{
		Host:    h,
		Logger:  hclog.New(&hclog.LoggerOptions{Output: r.log, Level: hclog.Debug}),
		Metrics: reg,
		Peer:    func(net.Conn) (string, bool) { return peer, peer != "" },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, r.listeners) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

func client(t *testing.T, l net.Listener) *api.Client {
	c := api.NewClient(func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", l.Addr().String())
	})
	t.Cleanup(c.Close)
	return c
}

// scrub runs a stream to its end and returns its number of events and its error.
func scrub(ctx context.Context, c *api.Client) (int, error) {
	stream, err := c.Control.Scrub(ctx, &v1.ScrubRequest{})
	if err != nil {
		return 0, err
	}
	defer stream.Close()
	n := 0
	for stream.Receive() {
		n++
	}
	return n, stream.Err()
}

func TestListenersOfferTheirServicesOnly(t *testing.T) {
	r := start(t, &host{}, "beta")
	tests := []struct {
		name                            string
		l                               net.Listener
		control, cluster, join, metrics bool
	}{
		{name: "unix", l: r.listeners.Unix, control: true, metrics: true},
		{name: "port", l: r.listeners.Port, control: true, cluster: true, metrics: true},
		{name: "join", l: r.listeners.Join, join: true},
		{name: "metrics", l: r.listeners.Metrics, metrics: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := client(t, tt.l)
			offered := func(service string, want bool, err error) {
				t.Helper()
				if got := connect.CodeOf(err) != connect.CodeUnimplemented; got != want {
					t.Errorf("%s offered: %v (%v), want %v", service, got, err, want)
				}
			}
			_, err := c.Control.Status(t.Context(), &v1.StatusRequest{})
			offered("Control", tt.control, err)
			_, err = scrub(t.Context(), c)
			offered("streams of Control", tt.control, err)
			_, err = c.Cluster.Progress(t.Context(), &v1.ProgressRequest{})
			offered("Cluster", tt.cluster, err)
			_, err = c.Join.Join(t.Context(), &v1.JoinRequest{})
			offered("JoinService", tt.join, err)
			status, body := get(t, tt.l, "/metrics")
			if got := status == http.StatusOK && strings.Contains(body, "answer 42"); got != tt.metrics {
				t.Errorf("/metrics offered: %v (status %d), want %v", got, status, tt.metrics)
			}
		})
	}
}

func get(t *testing.T, l net.Listener, path string) (status int, body string) {
	t.Helper()
	resp, err := http.Get("http://" + l.Addr().String() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestPortRefusesStrangers(t *testing.T) {
	r := start(t, &host{}, "")
	c := client(t, r.listeners.Port)
	_, err := c.Control.Status(t.Context(), &v1.StatusRequest{})
	if got := api.ReasonOf(err); got != reason.NotMember {
		t.Errorf("a call: %v (%v), want %v", got, err, reason.NotMember)
	}
	if _, err := scrub(t.Context(), c); api.ReasonOf(err) != reason.NotMember {
		t.Errorf("a stream: %v, want %v", err, reason.NotMember)
	}
	if status, _ := get(t, r.listeners.Port, "/metrics"); status != http.StatusForbidden {
		t.Errorf("/metrics: status %d, want %d", status, http.StatusForbidden)
	}
}

func TestPeerOf(t *testing.T) {
	h := &host{}
	h.status = func(ctx context.Context) (*v1.StatusResponse, error) {
		id, ok := server.PeerOf(ctx)
		return &v1.StatusResponse{ClusterId: id, Version: map[bool]string{true: "proven"}[ok]}, nil
	}
	r := start(t, h, "0123")
	for l, want := range map[net.Listener]string{r.listeners.Port: "0123 proven", r.listeners.Unix: " "} {
		s, err := client(t, l).Control.Status(t.Context(), &v1.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if got := s.GetClusterId() + " " + s.GetVersion(); got != want {
			t.Errorf("peer %q, want %q", got, want)
		}
	}
}

func TestErrorsKeepTheirReason(t *testing.T) {
	sent := reason.Wrap(reason.NoSpace, "images/a b", errors.New("3 bytes free, 5 needed")).WithHint("buy a disk")
	h := &host{}
	h.status = func(context.Context) (*v1.StatusResponse, error) { return nil, sent }
	h.scrub = func(_ context.Context, send func(*v1.CheckProgress) error) error {
		if err := send(&v1.CheckProgress{}); err != nil {
			return err
		}
		return sent
	}
	r := start(t, h, "")
	c := client(t, r.listeners.Unix)
	check := func(what string, err error) {
		t.Helper()
		e := api.AsError(err)
		if e == nil || e.Reason != sent.Reason || e.Subject != sent.Subject || e.Next() != sent.Next() || e.Error() != sent.Error() {
			t.Errorf("%s: got %v, want %v", what, err, sent)
		}
	}
	_, err := c.Control.Status(t.Context(), &v1.StatusRequest{})
	check("call", err)
	n, err := scrub(t.Context(), c)
	check("stream", err)
	if n != 1 {
		t.Errorf("%d events before the error, want 1", n)
	}
}

func TestUnexpectedErrorsAreLogged(t *testing.T) {
	h := &host{}
	h.status = func(context.Context) (*v1.StatusResponse, error) { return nil, errors.New("tea is out") }
	r := start(t, h, "")
	_, err := client(t, r.listeners.Unix).Control.Status(t.Context(), &v1.StatusRequest{})
	if e := api.AsError(err); e == nil || e.Reason != reason.Unexpected || !strings.Contains(e.Error(), "tea is out") {
		t.Errorf("got %v, want the error as unexpected", err)
	}
	r.stop()
	if log := r.log.String(); !strings.Contains(log, "[ERROR]") || !strings.Contains(log, "tea is out") {
		t.Errorf("not logged as an error:\n%s", log)
	}
}

func TestPanicEndsItsCallOnly(t *testing.T) {
	h := &host{}
	h.status = func(context.Context) (*v1.StatusResponse, error) { panic("secret of the process") }
	h.scrub = func(context.Context, func(*v1.CheckProgress) error) error { panic("secret of the process") }
	r := start(t, h, "")
	c := client(t, r.listeners.Unix)
	check := func(what string, err error) {
		t.Helper()
		if api.ReasonOf(err) != reason.Unexpected || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %v, want an unexpected failure that tells nothing", what, err)
		}
	}
	_, err := c.Control.Status(t.Context(), &v1.StatusRequest{})
	check("call", err)
	_, err = scrub(t.Context(), c)
	check("stream", err)
	if _, err := c.Control.Hosts(t.Context(), &v1.HostsRequest{}); err != nil {
		t.Errorf("the next call: %v", err)
	}
	r.stop()
	if log := r.log.String(); strings.Count(log, "secret of the process") != 2 || !strings.Contains(log, "server_test.go") {
		t.Errorf("panics and their stacks are not in the log:\n%s", log)
	}
}

func TestCallEndsWithItsCaller(t *testing.T) {
	ended := make(chan error, 1)
	h := &host{}
	h.scrub = func(ctx context.Context, send func(*v1.CheckProgress) error) error {
		if err := send(&v1.CheckProgress{}); err != nil {
			return err
		}
		<-ctx.Done()
		ended <- ctx.Err()
		return ctx.Err()
	}
	r := start(t, h, "")
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := client(t, r.listeners.Unix).Control.Scrub(ctx, &v1.ScrubRequest{})
	if err != nil || !stream.Receive() {
		t.Fatalf("no first event: %v, %v", err, stream.Err())
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the call ended with %v", err)
	}
}

func TestStopEndsStreamsAndWaits(t *testing.T) {
	h := &host{}
	var returned bool // no lock: Run returns after the call has
	h.scrub = func(ctx context.Context, send func(*v1.CheckProgress) error) error {
		if err := send(&v1.CheckProgress{}); err != nil {
			return err
		}
		<-ctx.Done()
		returned = true
		return ctx.Err()
	}
	r := start(t, h, "")
	stream, err := client(t, r.listeners.Unix).Control.Scrub(t.Context(), &v1.ScrubRequest{})
	if err != nil || !stream.Receive() {
		t.Fatalf("no first event: %v", err)
	}
	r.stop()
	if !returned {
		t.Error("the server stopped before its call")
	}
	if stream.Receive() {
		t.Fatal("another event")
	}
	if e := api.AsError(stream.Err()); e.Reason != reason.Unreachable || !strings.Contains(e.Error(), "stopping") {
		t.Errorf("the stream ended with %v, want one that says that the daemon stops", stream.Err())
	}
}

// TestDaemonThatDies has a connection break in the middle of a stream, in the two ways in which kill -9 does it.
func TestDaemonThatDies(t *testing.T) {
	h := &host{}
	h.scrub = func(ctx context.Context, send func(*v1.CheckProgress) error) error {
		if err := send(&v1.CheckProgress{}); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}
	r := start(t, h, "")
	for name, linger := range map[string]int{"end": -1, "reset": 0} {
		t.Run(name, func(t *testing.T) {
			between, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer between.Close()
			die := make(chan struct{})
			go relay(between, r.listeners.Unix.Addr(), linger, die)
			stream, err := client(t, between).Control.Scrub(t.Context(), &v1.ScrubRequest{})
			if err != nil || !stream.Receive() {
				t.Fatalf("no first event: %v", err)
			}
			close(die)
			if stream.Receive() {
				t.Fatal("another event")
			}
			if got := api.ReasonOf(stream.Err()); got != reason.Unreachable {
				t.Errorf("got %v (%v), want %v", got, stream.Err(), reason.Unreachable)
			}
		})
	}
}

// relay carries one connection to addr until die is closed.
func relay(l net.Listener, addr net.Addr, linger int, die <-chan struct{}) {
	front, err := l.Accept()
	if err != nil {
		return
	}
	defer front.Close()
	back, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		return
	}
	defer back.Close()
	if err := front.(*net.TCPConn).SetLinger(linger); err != nil {
		return
	}
	go io.Copy(front, back)
	go io.Copy(back, front)
	<-die
}

func TestRunFailsWithItsListener(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	s := server.New(server.Config{Host: &host{}, Logger: hclog.NewNullLogger()})
	if err := s.Run(t.Context(), server.Listeners{Unix: l, Metrics: other}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("run with a dead listener: %v, want %v", err, net.ErrClosed)
	}
	if _, err := other.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the other listener is still open: %v", err)
	}
}

func TestPlainJSONAndGRPC(t *testing.T) {
	r := start(t, &host{}, "")
	if status := post(t, r.listeners.Unix, strings.NewReader("{}"), ""); status != http.StatusOK {
		t.Errorf("JSON over HTTP/1.1: status %d", status)
	}
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	defer tr.CloseIdleConnections()
	url := "http://" + r.listeners.Unix.Addr().String()
	c := virtswarmv1connect.NewControlClient(&http.Client{Transport: tr}, url, connect.WithGRPC())
	s, err := c.Status(t.Context(), &v1.StatusRequest{})
	if err != nil || s.GetClusterId() != clusterID {
		t.Errorf("gRPC: %v, %v", s, err)
	}
}

// TestGoneCallersAreNoNews has an operator interrupt a call: nothing that an administrator should read of.
func TestGoneCallersAreNoNews(t *testing.T) {
	h := &host{}
	waits := make(chan struct{})
	h.status = func(ctx context.Context) (*v1.StatusResponse, error) {
		close(waits)
		<-ctx.Done()
		return nil, errors.New("some step failed in an odd way")
	}
	r := start(t, h, "")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-waits
		cancel()
	}()
	_, err := client(t, r.listeners.Unix).Control.Status(ctx, &v1.StatusRequest{})
	if got := api.ReasonOf(err); got != reason.Interrupted {
		t.Errorf("got %v (%v), want %v", got, err, reason.Interrupted)
	}
	r.stop()
	if log := r.log.String(); strings.Contains(log, "[ERROR]") || !strings.Contains(log, "odd way") {
		t.Errorf("want it in the log, below errors:\n%s", log)
	}
}

// syncBuffer is a log that tests read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
