package link

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"strconv"
	"strings"
	"syscall"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"
)

// anyNumber stands for any CID, or any port, in the kernel's interface.
const anyNumber = math.MaxUint32

// vsockBuffer is how many bytes that nobody has read yet the kernel keeps of one connection, at most. The other side
// may send so much without an answer; the 256 KiB of the kernel's default make a busy guest and its host take turns.
const vsockBuffer = 2 << 20

// PeerCID returns the CID of the guest at the other end of a vsock connection (or of the host, as a guest sees it: 2),
// also through TLS. It is the kernel's word, not the peer's, and it holds for as long as the connection does: a guest
// that migrates gets another one, and its connections end. ok is false for every other kind of link.
func PeerCID(c net.Conn) (cid uint32, ok bool) {
	addr, ok := c.RemoteAddr().(*vsock.Addr)
	if !ok {
		return 0, false
	}
	return addr.ContextID, true
}

// splitVsock reads CID:PORT; without a CID it is any.
func splitVsock(address string) (cid, port uint32, err error) {
	before, after, found := strings.Cut(address, ":")
	if !found {
		return 0, 0, ErrBadURL
	}
	cid = anyNumber
	if before != "" {
		if cid, err = number(before); err != nil {
			return 0, 0, err
		}
	}
	port, err = number(after)
	return cid, port, err
}

// listenVsock listens for calls to a CID of this machine, or to any of them. Port 0 chooses a free one.
func listenVsock(address string) (net.Listener, error) {
	cid, port, err := splitVsock(address)
	if err != nil {
		return nil, fmt.Errorf("listen at vsock://%s: %w", address, err)
	}
	l, err := vsock.ListenContextID(cid, port, nil)
	if err != nil {
		return nil, fmt.Errorf("listen at vsock://%s: %w", address, withoutVsock(err))
	}
	if addr, ok := l.Addr().(*vsock.Addr); ok && port == 0 {
		address = strings.TrimSuffix(address, "0") + strconv.FormatUint(uint64(addr.Port), 10)
	}
	return vsockListener{l, urlAddr{"vsock", address}}, nil
}

// dialVsock connects to a CID: 2 is the host.
func dialVsock(ctx context.Context, address string) (net.Conn, error) {
	cid, port, err := splitVsock(address)
	if err == nil && cid == anyNumber {
		err = fmt.Errorf("%w: no CID to call (the host is 2, vsock://2:%d)", ErrBadURL, port)
	}
	if err != nil {
		return nil, fmt.Errorf("dial vsock://%s: %w", address, err)
	}
	c, err := vsock.DialContext(ctx, cid, port, nil)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("dial vsock://%s: %w", address, withoutVsock(err))
	}
	return newVsockConn(c), nil
}

// withoutVsock adds to an error of the kernel what it means.
func withoutVsock(err error) error {
	switch {
	case errors.Is(err, syscall.EAFNOSUPPORT):
		return fmt.Errorf("%w (load the module vhost_vsock on a host, vmw_vsock_virtio_transport in a guest)", err)
	case errors.Is(err, syscall.ENODEV):
		return fmt.Errorf("%w (no guest here has this CID; or this is a guest without a vsock device, or without its module "+
			"vmw_vsock_virtio_transport)", err)
	}
	return err
}

// setBuffer gives a connection its buffer, of which the kernel tells the other side. One that refuses works as well, if
// slower.
func setBuffer(c *vsock.Conn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		for _, option := range []int{unix.SO_VM_SOCKETS_BUFFER_MAX_SIZE, unix.SO_VM_SOCKETS_BUFFER_SIZE} {
			unix.SetsockoptUint64(int(fd), unix.AF_VSOCK, option, vsockBuffer)
		}
	})
}

// A vsockListener accepts such connections.
type vsockListener struct {
	*vsock.Listener
	addr urlAddr
}

func (l vsockListener) Addr() net.Addr { return l.addr }

func (l vsockListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if errors.Is(err, syscall.EBADF) { // what it says once it is closed
		return nil, &net.OpError{Op: "accept", Net: "vsock", Addr: l.addr, Err: net.ErrClosed}
	}
	if err != nil {
		return nil, err
	}
	return newVsockConn(c.(*vsock.Conn)), nil
}
