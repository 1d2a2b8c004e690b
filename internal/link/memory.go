package link

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
)

// memoryBacklog is how many connections wait for Accept before further calls are refused.
const memoryBacklog = 128

// Memory is a network within the process, for tests: no sockets and no time but package time's, so that it works in a
// testing/synctest bubble. Anything that is a URL of a link may be listened at.
type Memory struct {
	mu        sync.Mutex
	listeners map[memoryAddr]*memoryListener
	ports     int // the last one that was given to port 0
}

// NewMemory returns an empty network.
func NewMemory() *Memory { return &Memory{listeners: make(map[memoryAddr]*memoryListener)} }

type memoryAddr struct{ network, address string }

func (a memoryAddr) Network() string { return a.network }
func (a memoryAddr) String() string  { return a.address }

// Listen implements Network.
func (m *Memory) Listen(ctx context.Context, url string) (net.Listener, error) {
	network, address, err := Split(url)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if host, port, err := net.SplitHostPort(address); err == nil && network == "tcp" && port == "0" {
		m.ports++
		address = net.JoinHostPort(host, strconv.Itoa(m.ports))
	}
	addr := memoryAddr{network, address}
	if m.listeners[addr] != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: addr, Err: os.NewSyscallError("bind", syscall.EADDRINUSE)}
	}
	l := &memoryListener{network: m, addr: addr, queue: make(chan net.Conn, memoryBacklog), closed: make(chan struct{})}
	m.listeners[addr] = l
	return l, nil
}

// Dial implements Network.
func (m *Memory) Dial(ctx context.Context, url string) (net.Conn, error) {
	network, address, err := Split(url)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	addr := memoryAddr{network, address}
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: addr, Err: err}
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.listeners[addr]
	if l == nil {
		return fail(os.NewSyscallError("connect", syscall.ECONNREFUSED))
	}
	here, there := newPipe(memoryAddr{network, "caller"}, addr)
	select {
	case l.queue <- there:
		return here, nil
	default:
		return fail(os.NewSyscallError("connect", syscall.ECONNREFUSED))
	}
}

type memoryListener struct {
	network *Memory
	addr    memoryAddr
	queue   chan net.Conn
	closed  chan struct{}
	once    sync.Once
}

func (l *memoryListener) Addr() net.Addr { return l.addr }

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
	default:
		select {
		case c := <-l.queue:
			return c, nil
		case <-l.closed:
		}
	}
	return nil, &net.OpError{Op: "accept", Net: l.addr.network, Addr: l.addr, Err: net.ErrClosed}
}

// Close stops listening and resets the connections that nobody has accepted.
func (l *memoryListener) Close() error {
	l.once.Do(func() {
		l.network.mu.Lock()
		delete(l.network.listeners, l.addr) // from now on nothing enters queue
		l.network.mu.Unlock()
		close(l.closed)
		for {
			select {
			case c := <-l.queue:
				c.Close()
			default:
				return
			}
		}
	})
	return nil
}
