package server

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/time/rate"

	"github.com/virtswarm/virtswarm/internal/reason"
)

// Whoever reaches the port may ask to join, and nothing is known about him. What strangers cost is bounded, by each of
// them and by all together, so that an honest host joins while others do their worst.

const (
	// bodyTimeout is how long a stranger may take to send a request: it is of a few kilobytes.
	bodyTimeout = 3 * time.Second
	// joinPatience is how long a request that has come waits for its turn.
	joinPatience = 10 * time.Second
	// refusalsLogged is how many refused joins a second are logged, each by itself; of the others it is said how many
	// there were.
	refusalsLogged = 1
	refusalsBurst  = 5
)

// strangers counts the connections of callers that nobody knows. It is safe for concurrent use.
type strangers struct {
	mu    sync.Mutex
	all   int
	conns map[net.Conn]string // the address that each comes from
	from  map[string]int
}

// distrust bounds what callers cost whom nobody knows.
func distrust(srv *http.Server) *http.Server {
	srv.ReadTimeout, srv.IdleTimeout = strangerTimeout, strangerTimeout
	s := &strangers{conns: map[net.Conn]string{}, from: map[string]int{}}
	srv.ConnState = func(c net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			if !s.enter(c) {
				c.Close()
			}
		case http.StateClosed, http.StateHijacked:
			s.leave(c)
		}
	}
	return srv
}

func (s *strangers) enter(c net.Conn) bool {
	source := c.RemoteAddr().String()
	if host, _, err := net.SplitHostPort(source); err == nil {
		source = host
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c] = source
	s.all++
	s.from[source]++
	return s.all <= strangerConns && s.from[source] <= sourceConns
}

func (s *strangers) leave(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	source, ok := s.conns[c]
	if !ok {
		return
	}
	delete(s.conns, c)
	s.all--
	if s.from[source]--; s.from[source] == 0 {
		delete(s.from, source)
	}
}

// whole has the body of a request come, within a time and a size, before the request takes anything that others wait
// for.
func whole(most int64, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A connection that cannot take a deadline has the server's.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
		body, err := io.ReadAll(io.LimitReader(r.Body, most+1)) // one more: whoever decodes it says that it is too much
		if err != nil {
			refuse(w, r, http.StatusRequestTimeout, reason.Wrap(reason.Unreachable, "", err).WithHint("try again"))
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	})
}

// refusals logs refused joins, a few of them each and the rest as a number. It is safe for concurrent use.
type refusals struct {
	log     hclog.Logger
	limiter *rate.Limiter

	mu     sync.Mutex
	silent int // since the last that was logged
}

func newRefusals(log hclog.Logger) *refusals {
	return &refusals{log: log, limiter: rate.NewLimiter(refusalsLogged, refusalsBurst)}
}

func (r *refusals) note(err error, from string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.limiter.Allow() {
		r.silent++
		return
	}
	args := []any{"error", err, "from", from}
	if r.silent > 0 {
		args = append(args, "others_since", r.silent)
	}
	r.silent = 0
	r.log.Warn("refused a host that wants to join", args...)
}
