package linktest

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/mdlayher/vsock"

	"github.com/virtswarm/virtswarm/internal/link"
)

// memoryBacklog is how many connections wait for Accept before further calls are refused.
const memoryBacklog = 128

// Memory is a network within the process, for tests: no sockets and no time but package time's, so that it works in a
// testing/synctest bubble. Anything that is a URL of a link may be listened at; who listens at vsock://:port is called
// at any CID. It is a Fabric with one host.
type Memory struct{ *Plug }

// NewMemory returns an empty network.
func NewMemory() *Memory { return &Memory{NewFabric().Plug("caller")} }

type memoryAddr struct{ network, address string }

func (a memoryAddr) Network() string { return a.network }
func (a memoryAddr) String() string  { return a.address }

// caller is the address of a host that calls. By vsock, one whose name is a number is the guest with this CID, as the
// kernel would say.
func caller(network, host string) net.Addr {
	if cid, err := strconv.ParseUint(host, 10, 32); err == nil && network == "vsock" {
		return &vsock.Addr{ContextID: uint32(cid)}
	}
	return memoryAddr{network, host}
}

// A Plug is one host's place in a Fabric, from when it is switched on until it is switched off: a Network.
type Plug struct {
	fabric *Fabric
	host   string
	out    bool // guarded by fabric.mu
}

// Listen implements Network.
func (p *Plug) Listen(_ context.Context, url string) (net.Listener, error) {
	network, address, err := link.Split(url)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	f := p.fabric
	f.mu.Lock()
	defer f.mu.Unlock()
	if host, port, err := net.SplitHostPort(address); err == nil && (network == "tcp" || network == "vsock") && port == "0" {
		f.ports++
		address = net.JoinHostPort(host, strconv.Itoa(f.ports))
	}
	addr := memoryAddr{network, address}
	fail := func(errno syscall.Errno) (net.Listener, error) {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: addr, Err: os.NewSyscallError("bind", errno)}
	}
	switch {
	case p.out:
		return fail(syscall.ENETDOWN)
	case f.listeners[addr] != nil:
		return fail(syscall.EADDRINUSE)
	}
	l := &memoryListener{plug: p, addr: addr, queue: make(chan net.Conn, memoryBacklog), closed: make(chan struct{}), expired: make(chan struct{})}
	f.listeners[addr] = l
	f.owners[addr] = p.host
	return l, nil
}

// Dial implements Network. Where nothing gets through, it waits until something does, or until ctx ends.
func (p *Plug) Dial(ctx context.Context, url string) (net.Conn, error) {
	network, address, err := link.Split(url)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	addr := p.fabric.listening(memoryAddr{network, address})
	c, err := p.dial(ctx, addr)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: addr, Err: err}
	}
	return c, nil
}

func (p *Plug) dial(ctx context.Context, addr memoryAddr) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	there, back := p.fabric.way(p.host, addr)
	for _, r := range []*road{there, back} { // a call and the answer to it
		if err := r.pass(ctx); err != nil {
			return nil, err
		}
	}
	return p.fabric.connect(p, addr)
}

// listening returns the address at which somebody who is called at addr listens, if it is another: that for any CID.
func (f *Fabric) listening(addr memoryAddr) memoryAddr {
	f.mu.Lock()
	defer f.mu.Unlock()
	if addr.network != "vsock" || f.listeners[addr] != nil {
		return addr
	}
	if anyCID := (memoryAddr{addr.network, addr.address[strings.LastIndexByte(addr.address, ':'):]}); f.owners[anyCID] != "" {
		return anyCID
	}
	return addr
}

type memoryListener struct {
	plug   *Plug
	addr   memoryAddr
	queue  chan net.Conn
	closed chan struct{}
	once   sync.Once

	mu      sync.Mutex
	expired chan struct{} // closed when the deadline has passed
}

// SetDeadline has Accept fail at once if t is past, and wait again if t is the zero time. It knows no other times.
func (l *memoryListener) SetDeadline(t time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.IsZero() {
		l.expired = make(chan struct{})
		return nil
	}
	if t.After(time.Now()) {
		panic("linktest: a deadline that is still to come")
	}
	select {
	case <-l.expired:
	default:
		close(l.expired)
	}
	return nil
}

func (l *memoryListener) deadline() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.expired
}

func (l *memoryListener) Addr() net.Addr { return l.addr }

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
	case <-l.deadline():
		return nil, &net.OpError{Op: "accept", Net: l.addr.network, Addr: l.addr, Err: os.ErrDeadlineExceeded}
	default:
		select {
		case c := <-l.queue:
			return c, nil
		case <-l.deadline():
			return nil, &net.OpError{Op: "accept", Net: l.addr.network, Addr: l.addr, Err: os.ErrDeadlineExceeded}
		case <-l.closed:
		}
	}
	return nil, &net.OpError{Op: "accept", Net: l.addr.network, Addr: l.addr, Err: net.ErrClosed}
}

// Close stops listening and resets the connections that nobody has accepted.
func (l *memoryListener) Close() error {
	l.once.Do(func() {
		f := l.plug.fabric
		f.mu.Lock()
		delete(f.listeners, l.addr) // from now on nothing enters queue
		f.mu.Unlock()
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
