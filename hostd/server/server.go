package server

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
)

const (
	// headerTimeout bounds how long a caller may take to send a request's header, headerBytes its size.
	headerTimeout = 10 * time.Second
	headerBytes   = 64 << 10
	// idleTimeout ends connections nobody uses.
	idleTimeout = 2 * time.Minute
	// strangerTimeout bounds how long a caller that nobody knows may take to send a request, and how long its
	// connection is kept for another; strangerConns how many connections such callers have at a listener.
	strangerTimeout = 10 * time.Second
	strangerConns   = 64
	// sourceConns is how many of them come from one address.
	sourceConns = 16
	// streamsPerConn bounds the calls under way on one HTTP/2 connection.
	streamsPerConn = 128
	// stopGrace is how long calls under way may take once the server stops. Streams are told to stop at
	// once, so this is for their last words and for single answers.
	stopGrace = 5 * time.Second
)

var errStopping = errors.New("the daemon is stopping")

// Config is what a Server needs. Logger must be set, and either Host or Waiting.
type Config struct {
	Host Host
	// Setup, if set, refuses to set up a host that is a member.
	Setup Setup
	// Waiting answers in the place of Host, at the unix socket alone, as long as the machine is of no cluster.
	Waiting Waiting

	Logger hclog.Logger
	// Metrics is what /metrics shows; without it there is no /metrics.
	Metrics prometheus.Gatherer
	// Peer says which host is at the other end of a connection of the port, proven by its certificate.
	// Without it nobody is, and the port refuses every call.
	Peer func(net.Conn) (hostID string, ok bool)
	// Member says whether a host is a member at this moment: it is asked at every call of the port, as a connection may be
	// older than the removal of its host. Without it everybody is whom Peer names.
	Member func(hostID string) bool
}

// Listeners are where a Server is reached; one that is nil is not offered. TLS, where meant, is done by
// the listener. All speak HTTP/1.1 and HTTP/2 (with prior knowledge: whoever negotiates it does that in
// TLS).
type Listeners struct {
	// Unix: Control, Setup and /metrics, for whoever may open the socket.
	Unix net.Listener
	// Port: Control, Cluster and /metrics, for hosts of the cluster.
	Port net.Listener
	// Join: JoinService, for anybody.
	Join net.Listener
	// Metrics: /metrics, for anybody.
	Metrics net.Listener
}

// Server answers the calls of this host's API.
type Server struct {
	cfg Config
	// stopping ends when Run begins to stop: streams end with it, other calls do not.
	stopping context.Context
	stop     context.CancelFunc
	underWay gate
}

// New returns a server that Run will put to work.
func New(cfg Config) *Server {
	stopping, stop := context.WithCancel(context.Background())
	return &Server{cfg: cfg, stopping: stopping, stop: stop}
}

// Run serves until ctx ends, which is no error, or until a listener fails. It closes all listeners, waits
// for calls under way no longer than a few seconds, and returns when no call runs any more. It may be
// called once.
func (s *Server) Run(ctx context.Context, l Listeners) error {
	g, ctx := errgroup.WithContext(ctx)
	serve := func(l net.Listener, server func() *http.Server) {
		if l == nil {
			return
		}
		srv := server()
		g.Go(func() error {
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
		g.Go(func() error {
			<-ctx.Done()
			s.stop()
			return shutdown(srv)
		})
	}
	serve(l.Unix, func() *http.Server { return s.httpServer("unix", s.unixHandler()) })
	serve(l.Port, func() *http.Server { return knowPeers(s.httpServer("port", s.portHandler()), s.cfg.Peer) })
	serve(l.Join, func() *http.Server { return distrust(s.httpServer("join", s.joinHandler())) })
	serve(l.Metrics, func() *http.Server { return distrust(s.httpServer("metrics", s.metricsHandler())) })
	err := g.Wait()
	s.underWay.closeAndWait() // a call must not outlive what it works on
	return err
}

// shutdown lets calls end by themselves, then breaks their connections, which ends their contexts.
func shutdown(srv *http.Server) error {
	grace, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	if err := srv.Shutdown(grace); err != nil {
		return srv.Close()
	}
	return nil
}

func (s *Server) httpServer(name string, h http.Handler) *http.Server {
	log := s.cfg.Logger.Named(name)
	srv := &http.Server{
		Handler:           s.underWay.wrap(h),
		ReadHeaderTimeout: headerTimeout,
		MaxHeaderBytes:    headerBytes,
		IdleTimeout:       idleTimeout,
		Protocols:         new(http.Protocols),
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: streamsPerConn},
		// What net/http has to say is about callers that misbehave: no news for an operator.
		ErrorLog: log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	return srv
}

// knowPeers tells each call which host made it.
func knowPeers(srv *http.Server, peer func(net.Conn) (string, bool)) *http.Server {
	if peer == nil {
		return srv
	}
	srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if id, ok := peer(c); ok {
			return context.WithValue(ctx, peerKey{}, id)
		}
		return ctx
	}
	return srv
}

// gate counts requests under way and, once closed, lets no more in. net/http alone does not wait for the
// handlers of connections that it breaks.
type gate struct {
	mu     sync.Mutex
	closed bool
	inside sync.WaitGroup
}

func (g *gate) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !g.enter() {
			panic(http.ErrAbortHandler)
		}
		defer g.inside.Done()
		next.ServeHTTP(w, r)
	})
}

func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.inside.Add(1)
	}
	return !g.closed
}

func (g *gate) closeAndWait() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.inside.Wait()
}

type peerKey struct{}

// PeerOf returns the id of the host that made a call, as its certificate proves it; false for a call over
// the unix socket or the join protocol.
func PeerOf(ctx context.Context) (hostID string, ok bool) {
	id, ok := ctx.Value(peerKey{}).(string)
	return id, ok
}
