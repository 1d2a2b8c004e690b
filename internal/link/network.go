package link

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// OS is the network of this machine: every kind of link. A unix socket is created with mode 0600. An address of vsock
// without a CID is for listening only. The file of shm must be there before, and its connections end with their
// listener.
var OS Network = osNetwork{}

type osNetwork struct{}

// keepAlive finds dead peers of idle connections in about a minute, also those of protocols that do not ask.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 20 * time.Second, Interval: 10 * time.Second, Count: 4}

// unsent is how many bytes that TCP has not sent yet a socket takes before a Write waits (TCP_NOTSENT_LOWAT). The
// kernel would take megabytes: whatever is written next would come after them, however urgent, and what the swarm
// decides would be seconds old when it happens.
const unsent = 128 << 10

// keepShort sets that. A kernel which does not know it works as well, if less promptly.
func keepShort(network, _ string, c syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	return c.Control(func(fd uintptr) {
		syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsent)
	})
}

func (osNetwork) Listen(ctx context.Context, url string) (net.Listener, error) {
	network, address, err := Split(url)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	switch network {
	case "unix":
		return listenUnix(ctx, address)
	case "vsock":
		return listenVsock(address)
	case "hybrid":
		return listenHybrid(ctx, address)
	case "shm":
		return listenShm(address)
	}
	lc := net.ListenConfig{KeepAliveConfig: keepAlive, Control: keepShort} // those that it accepts have it from the listener,
	lc.SetMultipathTCP(false)                                              // if that is one of plain TCP
	return lc.Listen(ctx, network, address)                                // net's errors name the address
}

func (osNetwork) Dial(ctx context.Context, url string) (net.Conn, error) {
	network, address, err := Split(url)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	switch network {
	case "vsock":
		return dialVsock(ctx, address)
	case "hybrid":
		return dialHybrid(ctx, address)
	case "shm":
		return dialShm(ctx, address)
	}
	d := net.Dialer{KeepAliveConfig: keepAlive, Control: keepShort}
	return d.DialContext(ctx, network, address)
}

// listenUnix binds beside the path and moves the socket into place when its mode is right: nobody else gets in in
// between, and a socket that a killed process left behind is replaced. One that still answers is in use.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	if err := unixFree(ctx, path); err != nil {
		return nil, &net.OpError{Op: "listen", Net: "unix", Addr: &net.UnixAddr{Name: path, Net: "unix"}, Err: err}
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), ".vs")
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	defer os.RemoveAll(dir)
	tmp := filepath.Join(dir, "s")
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", tmp)
	if err != nil {
		return nil, err
	}
	ul := l.(*net.UnixListener)
	ul.SetUnlinkOnClose(false) // it knows the socket by its old name
	if err = os.Chmod(tmp, 0o600); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	return &unixListener{UnixListener: ul, path: path}, nil
}

// unixFree returns nil if path is free for a socket.
func unixFree(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%w: it is no socket", fs.ErrExist)
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		c.Close()
	}
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return os.NewSyscallError("bind", syscall.EADDRINUSE)
}

// A unixListener removes its socket when it is closed.
type unixListener struct {
	*net.UnixListener
	path string
	once sync.Once
}

func (l *unixListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

func (l *unixListener) Close() error {
	l.once.Do(func() { os.Remove(l.path) }) // best effort: one left behind is replaced at the next start
	return l.UnixListener.Close()
}
