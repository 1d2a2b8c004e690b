package link

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/time/rate"

	"github.com/virtswarm/virtswarm/internal/pki"
)

const (
	// DefaultHandshakes is far above what members need at a time, also when all of a large cluster come back at once:
	// their handshakes take milliseconds. At about 50 KiB each it bounds the memory that strangers can take.
	DefaultHandshakes = 256
	// DefaultBacklog is for a listener that is busy for a moment.
	DefaultBacklog = 64

	// acceptPauseMin and acceptPauseMax bound the pause after an Accept that failed for want of something, such as file
	// descriptors.
	acceptPauseMin, acceptPauseMax = 5 * time.Millisecond, time.Second
	// refusalsPerSecond keeps a stranger from filling the log.
	refusalsPerSecond = 5
)

// MuxConfig says who may come in at a port, and how many at a time. Limits that are 0 take the default.
type MuxConfig struct {
	Identity *pki.Identity
	Allow    pki.Allow    // asked in each handshake; nil allows every host of the cluster
	Live     *Live        // lists the connections; may be nil
	Logger   hclog.Logger // nil is silent

	// HandshakeTimeout is the time from accepting a connection to having agreed on a protocol.
	HandshakeTimeout time.Duration
	// MaxHandshakes bounds the handshakes under way. When one more comes, the oldest is given up: an honest one takes
	// milliseconds, so it is most likely one that will never end.
	MaxHandshakes int
	// Backlog bounds the connections that wait for Accept, for each listener; more are closed.
	Backlog int
}

// A Mux splits one listener into one for each protocol. All methods are safe for concurrent use.
type Mux struct {
	ln     net.Listener
	c      MuxConfig
	log    hclog.Logger
	logged *rate.Limiter
	member *tls.Config // for those with a certificate
	joiner *tls.Config // for ProtoJoin; nil without a listener for it
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup // handshakes
	served chan struct{}  // closed when Serve is over; nil before it began

	mu         sync.Mutex
	serving    bool
	closed     bool
	listeners  map[string]*listener // by protocol
	handshakes *list.List           // of net.Conn, the oldest first
}

// NewMux returns a Mux over ln, which it owns from now on. Nothing is accepted before Serve.
func NewMux(ln net.Listener, c MuxConfig) *Mux {
	if c.HandshakeTimeout <= 0 {
		c.HandshakeTimeout = DefaultTimeout
	}
	if c.MaxHandshakes <= 0 {
		c.MaxHandshakes = DefaultHandshakes
	}
	if c.Backlog <= 0 {
		c.Backlog = DefaultBacklog
	}
	m := &Mux{
		ln: ln, c: c, log: c.Logger,
		logged:     rate.NewLimiter(refusalsPerSecond, refusalsPerSecond),
		served:     make(chan struct{}),
		listeners:  make(map[string]*listener),
		handshakes: list.New(),
	}
	if m.log == nil {
		m.log = hclog.NewNullLogger()
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	return m
}

// Listen returns the listener for connections that chose one of the protocols. It must be called before Serve; a
// protocol can be taken once. Its connections are not *tls.Conn: to an http.Server they look plain, which therefore
// needs UnencryptedHTTP2 among its Protocols to speak h2. Closing it turns the protocol away, and no more.
func (m *Mux) Listen(protos ...string) net.Listener {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := &listener{addr: m.ln.Addr(), queue: make(chan net.Conn, m.c.Backlog), closed: make(chan struct{})}
	for _, p := range protos {
		if m.serving || m.listeners[p] != nil {
			panic("link: listener for " + p + " comes too late or twice") // of the program, not of its input
		}
		m.listeners[p] = l
	}
	return l
}

// Addr returns the address of the port.
func (m *Mux) Addr() net.Addr { return m.ln.Addr() }

// Serve accepts until Close, and returns nil after it, or the error that made accepting impossible.
func (m *Mux) Serve() error {
	m.mu.Lock()
	if m.serving {
		m.mu.Unlock()
		panic("link: Serve is called twice")
	}
	m.serving = true
	m.configure()
	m.mu.Unlock()
	defer close(m.served)

	err := m.accept()
	m.shut()
	m.wg.Wait()
	if m.ctx.Err() != nil {
		err = nil
	}
	m.cancel()
	return err
}

// configure makes the TLS configurations of the protocols that have a listener. Called under mu.
func (m *Mux) configure() {
	m.member = m.c.Identity.ServerConfig(m.c.Allow)
	for _, p := range []string{ProtoRaft, ProtoWire, ProtoHTTP2, ProtoHTTP1} { // in the order of preference
		if m.listeners[p] != nil {
			m.member.NextProtos = append(m.member.NextProtos, p)
		}
	}
	if m.listeners[ProtoJoin] != nil {
		m.joiner = m.c.Identity.JoinServerConfig()
		m.joiner.NextProtos = []string{ProtoJoin}
	}
}

// accept hands connections to handshakes until there are no more.
func (m *Mux) accept() error {
	config := m.member.Clone()
	config.GetConfigForClient = m.choose
	pause := acceptPauseMin
	for {
		c, err := m.ln.Accept()
		if err == nil {
			pause = acceptPauseMin
			m.begin(c, config)
			continue
		}
		var ne net.Error
		if m.ctx.Err() != nil || !errors.As(err, &ne) || !temporary(ne) {
			return fmt.Errorf("accept at %s: %w", m.ln.Addr(), err)
		}
		m.log.Warn("cannot accept", "error", err, "pause", pause)
		select {
		case <-time.After(pause):
		case <-m.ctx.Done():
		}
		pause = min(2*pause, acceptPauseMax)
	}
}

// temporary is about Accept, for which the method has a clear meaning: the listener is well, something else is not.
func temporary(err net.Error) bool {
	t, ok := err.(interface{ Temporary() bool })
	return ok && t.Temporary()
}

// choose is asked by TLS when the client has said hello.
func (m *Mux) choose(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if m.joiner != nil && slices.Equal(hello.SupportedProtos, m.joiner.NextProtos) {
		return m.joiner, nil
	}
	return m.member, nil
}

// begin starts a handshake, at the cost of the oldest one if there are too many.
func (m *Mux) begin(c net.Conn, config *tls.Config) {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		c.Close()
		return
	}
	var oldest net.Conn
	if m.handshakes.Len() >= m.c.MaxHandshakes {
		oldest = m.handshakes.Remove(m.handshakes.Front()).(net.Conn)
	}
	place := m.handshakes.PushBack(c)
	m.mu.Unlock()
	if oldest != nil {
		oldest.Close()
		m.refuse(oldest, errors.New("too many handshakes at once"))
	}
	m.wg.Go(func() {
		conn, l, err := m.handshake(c, config)
		m.mu.Lock()
		m.handshakes.Remove(place) // no harm if it is gone already
		m.mu.Unlock()
		if err == nil {
			if err = l.offer(conn); err != nil {
				conn.Close()
			}
		}
		if err != nil {
			c.Close()
			m.refuse(c, err)
		}
	})
}

// handshake agrees with the other side on who it is and on the protocol.
func (m *Mux) handshake(raw net.Conn, config *tls.Config) (net.Conn, *listener, error) {
	ctx, cancel := context.WithTimeout(m.ctx, m.c.HandshakeTimeout)
	defer cancel()
	under := &buffered{Conn: raw}
	c := tls.Server(under, config)
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, nil, err
	}
	if err := pki.CheckTime(c.ConnectionState(), time.Now()); err != nil {
		return nil, nil, err
	}
	proto := c.ConnectionState().NegotiatedProtocol
	if proto == "" {
		proto = ProtoHTTP1 // what a client without ALPN means
	}
	m.mu.Lock()
	l := m.listeners[proto]
	m.mu.Unlock()
	if l == nil {
		return nil, nil, fmt.Errorf("nobody listens for %s", proto)
	}
	conn := secure(c, under)
	m.c.Live.add(conn)
	return conn, l, nil
}

// refuse logs that a connection came to nothing: members of other clusters and such as a warning, strangers who do not
// even speak TLS as a detail.
func (m *Mux) refuse(c net.Conn, err error) {
	if m.ctx.Err() != nil || !m.logged.Allow() {
		return
	}
	level := hclog.Debug
	for _, known := range []error{pki.ErrOtherCluster, pki.ErrNotMember, pki.ErrExpired, errBacklog} {
		if errors.Is(err, known) {
			level = hclog.Warn
		}
	}
	m.log.Log(level, "connection refused", "from", c.RemoteAddr(), "error", err)
}

// Close closes the port, all listeners and the connections that nobody has accepted yet, and waits until Serve is
// about to return. Accepted connections live on.
func (m *Mux) Close() error {
	m.cancel()
	m.shut()
	m.mu.Lock()
	serving := m.serving
	m.mu.Unlock()
	if serving {
		<-m.served
	}
	return nil
}

// shut closes everything that could wait for something.
func (m *Mux) shut() {
	m.ln.Close() // it may be closed already, which is as good
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	for e := m.handshakes.Front(); e != nil; e = e.Next() {
		e.Value.(net.Conn).Close()
	}
	for _, l := range m.listeners {
		l.Close()
	}
}

var errBacklog = errors.New("too many connections wait to be accepted")

// A listener hands out the connections of some protocols.
type listener struct {
	addr   net.Addr
	queue  chan net.Conn
	closed chan struct{}

	mu   sync.Mutex // held to put into queue or to close
	over bool
}

func (l *listener) Addr() net.Addr { return l.addr }

func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
	default:
		select {
		case c := <-l.queue:
			return c, nil
		case <-l.closed:
		}
	}
	return nil, &net.OpError{Op: "accept", Net: l.addr.Network(), Addr: l.addr, Err: net.ErrClosed}
}

// offer queues a connection; it does not wait.
func (l *listener) offer(c net.Conn) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return net.ErrClosed
	}
	select {
	case l.queue <- c:
		return nil
	default:
		return errBacklog
	}
}

// Close ends Accept and closes what waits for it.
func (l *listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return nil
	}
	l.over = true
	close(l.closed)
	for {
		select {
		case c := <-l.queue:
			c.Close()
		default:
			return nil
		}
	}
}
