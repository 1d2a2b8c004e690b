package guest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/virtswarm/virtswarm/internal/guestlink"
	"github.com/virtswarm/virtswarm/internal/link"
	"github.com/virtswarm/virtswarm/placement"
)

// The kinds of guest links.
const (
	kindVSock  = "vsock"
	kindHybrid = "hybrid"
	kindShm    = "shm"
)

const (
	// listenRetry is the time between attempts to listen where that failed.
	listenRetry = 10 * time.Second
	// lastWord bounds the time for telling a link why it is refused.
	lastWord = time.Second
	// maxRefusals bounds the links that are being told so at a time; more are closed without a word.
	maxRefusals = 64
)

// listenVSock takes links of any CID until ctx ends.
func (s *Server) listenVSock(ctx context.Context) {
	url := fmt.Sprintf("vsock://:%d", guestlink.Port)
	for said := false; ctx.Err() == nil; {
		ln, err := s.cfg.Network.Listen(ctx, url)
		if err == nil {
			s.log.Info("takes guest links by vsock", "port", guestlink.Port)
			s.accept(ctx, ln, func(c net.Conn) (caller, bool) {
				cid, ok := link.PeerCID(c)
				return caller{kind: kindVSock, cid: cid}, ok
			})
			continue
		}
		if !said {
			s.log.Warn("cannot take guest links by vsock", "error", err)
			said = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(listenRetry):
		}
	}
}

// accept serves what comes in at a listener, until that is closed or ctx ends; then it closes it.
func (s *Server) accept(ctx context.Context, ln net.Listener, from func(net.Conn) (caller, bool)) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer ln.Close()
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	refusals := make(chan struct{}, maxRefusals)
	for {
		c, err := ln.Accept()
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
				s.log.Warn("cannot take more guest links here", "at", ln.Addr().String(), "error", err)
				select { // too many open files, most likely
				case <-ctx.Done():
				case <-time.After(listenRetry / 10):
				}
				if errors.Is(err, net.ErrClosed) || !temporary(err) {
					return
				}
				continue
			}
			return
		}
		who, ok := from(c)
		if !ok {
			c.Close()
			continue
		}
		s.take(ctx, c, who, refusals)
	}
}

// temporary reports whether a later Accept may succeed.
func temporary(err error) bool {
	t, ok := errors.AsType[interface {
		error
		Temporary() bool
	}](err)
	return ok && t.Temporary()
}

// take serves a link, or refuses it.
func (s *Server) take(ctx context.Context, c net.Conn, who caller, refusals chan struct{}) {
	x := newSession(s, c, who)
	why := s.enter(x)
	if why == nil {
		s.metrics.links.WithLabelValues(who.kind).Inc()
		s.links.Go(func() {
			defer s.leave(x)
			x.run(ctx)
		})
		return
	}
	s.metrics.refused.WithLabelValues(string(why.Code)).Inc()
	s.log.Debug("refuses a guest link", "from", who.String(), "error", why)
	select {
	case refusals <- struct{}{}:
	default: // it opens links faster than it can be told
		c.Close()
		return
	}
	s.links.Go(func() {
		defer func() { <-refusals }()
		defer c.Close()
		defer context.AfterFunc(ctx, func() { c.Close() })()
		tell(guestlink.NewConn(c), c, why)
	})
}

// hybrid listens at the sockets of VMMs, for the domains that are here. It belongs to one goroutine.
type hybrid struct {
	server *Server
	open   map[string]func() // by path and UUID: closes it
}

// update listens for the domains that came, and stops for those that left.
func (h *hybrid) update(ctx context.Context, list []placement.Domain) {
	here := map[string]bool{}
	for _, d := range list {
		if !d.State.Active() {
			continue
		}
		for _, pattern := range h.server.cfg.Hybrid {
			path, ok := hybridPath(pattern, d)
			if !ok {
				continue
			}
			key := d.UUID + " " + path
			here[key] = true
			if h.open[key] == nil {
				h.open[key] = h.listen(ctx, path, d.UUID)
			}
		}
	}
	for key, stop := range h.open {
		if !here[key] {
			stop()
			delete(h.open, key)
		}
	}
}

// hybridPath is a domain's place in a pattern. A name that is no element of a path has none.
func hybridPath(pattern string, d placement.Domain) (string, bool) {
	if strings.Contains(pattern, "{name}") && (strings.ContainsAny(d.Name, "/\x00") || d.Name == "." || d.Name == "..") {
		return "", false
	}
	return strings.NewReplacer("{uuid}", d.UUID, "{name}", d.Name).Replace(pattern), true
}

// listen takes links of one domain. stop ends that, and waits.
func (h *hybrid) listen(ctx context.Context, path, uuid string) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		url := fmt.Sprintf("hybrid://%s:%d", path, guestlink.Port)
		for said := false; ctx.Err() == nil; {
			ln, err := h.server.cfg.Network.Listen(ctx, url)
			if err == nil {
				h.server.accept(ctx, ln, func(net.Conn) (caller, bool) { return caller{kind: kindHybrid, uuid: uuid}, true })
				continue
			}
			if !said {
				h.server.log.Debug("cannot take guest links here yet", "url", url, "error", err)
				said = true
			}
			select {
			case <-ctx.Done():
			case <-time.After(listenRetry):
			}
		}
	}()
	return func() { cancel(); <-done }
}

func (h *hybrid) close() {
	for _, stop := range h.open {
		stop()
	}
}
