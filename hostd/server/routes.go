package server

import (
	"errors"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/virtswarm/virtswarm/internal/api"
	"github.com/virtswarm/virtswarm/internal/api/virtswarm/v1/virtswarmv1connect"
	"github.com/virtswarm/virtswarm/internal/reason"
)

const (
	// joinBytes bounds a join request, whose sender nobody knows: a token, a certificate request, a name
	// and labels.
	joinBytes = 64 << 10
	// joinsAtOnce bounds the join requests being answered; more wait for a while, and are then told to come again.
	joinsAtOnce = 8

	metricsAtOnce  = 4
	metricsTimeout = 10 * time.Second
)

func (s *Server) unixHandler() http.Handler {
	if s.cfg.Waiting != nil {
		return s.waitingHandler()
	}
	mux := http.NewServeMux()
	mux.Handle(virtswarmv1connect.NewControlHandler(controlHandler{s.cfg.Host}, s.options("unix", api.MaxMessage)...))
	if s.cfg.Setup != nil {
		mux.Handle(virtswarmv1connect.NewSetupHandler(setup{s.cfg.Setup}, s.options("unix", api.MaxMessage)...))
	}
	s.addMetrics(mux)
	return mux
}

func (s *Server) portHandler() http.Handler {
	opts := s.options("port", api.MaxMessage)
	mux := http.NewServeMux()
	mux.Handle(virtswarmv1connect.NewControlHandler(controlHandler{s.cfg.Host}, opts...))
	mux.Handle(virtswarmv1connect.NewClusterHandler(s.cfg.Host, opts...))
	s.addMetrics(mux)
	return s.requireMember(mux)
}

func (s *Server) joinHandler() http.Handler {
	opts := append(s.options("join", joinBytes), connect.WithInterceptors(newDiscreet(s.cfg.Logger.Named("join"))))
	mux := http.NewServeMux()
	mux.Handle(virtswarmv1connect.NewJoinServiceHandler(s.cfg.Host, opts...))
	return whole(joinBytes, limit(joinsAtOnce, mux))
}

func (s *Server) metricsHandler() http.Handler {
	mux := http.NewServeMux()
	s.addMetrics(mux)
	return mux
}

// options of the handlers of one listener. Later interceptors are nearer to the Host.
func (s *Server) options(listener string, maxBytes int) []connect.HandlerOption {
	return []connect.HandlerOption{
		connect.WithReadMaxBytes(maxBytes),
		connect.WithSendMaxBytes(api.MaxMessage),
		// No compressed request is accepted: a few bytes could claim any amount of memory and time.
		connect.WithCompression("gzip", nil, nil),
		connect.WithInterceptors(&calls{logger: s.cfg.Logger.Named(listener), stopping: s.stopping}),
	}
}

func (s *Server) addMetrics(mux *http.ServeMux) {
	if s.cfg.Metrics == nil {
		return
	}
	log := s.cfg.Logger.Named("metrics").StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Warn})
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.cfg.Metrics, promhttp.HandlerOpts{
		ErrorLog:            log,
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: metricsAtOnce,
		Timeout:             metricsTimeout,
	}))
}

// requireMember refuses callers that are no host of the cluster, or not any more. The listener should have refused the
// former already; this keeps a mistake there from being a hole here.
func (s *Server) requireMember(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if id, ok := PeerOf(r.Context()); !ok || s.cfg.Member != nil && !s.cfg.Member(id) {
			refuse(w, r, http.StatusForbidden, reason.Wrap(reason.NotMember, r.RemoteAddr, nil))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// limit answers n requests at once. More wait for their turn, and are refused if it does not come.
func limit(n int, next http.Handler) http.Handler {
	slots := make(chan struct{}, n)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		turn := time.NewTimer(joinPatience)
		defer turn.Stop()
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			next.ServeHTTP(w, r)
		case <-r.Context().Done():
		case <-turn.C:
			err := reason.Wrap(reason.Unreachable, "", errors.New("too many hosts join at once")).WithHint("try again in a moment")
			refuse(w, r, http.StatusServiceUnavailable, err)
		}
	})
}

// refuse answers in the caller's protocol, in plain text to one that speaks none of the API's.
func refuse(w http.ResponseWriter, r *http.Request, status int, err *reason.Error) {
	if ew := connect.NewErrorWriter(); ew.IsSupported(r) {
		_ = ew.Write(w, r, api.ToConnect(err)) // the caller is gone: nobody to tell
		return
	}
	http.Error(w, err.Error(), status)
}
