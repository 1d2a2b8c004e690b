package link

import (
	"net"
	"syscall"
)

const (
	// tlsAhead is how many bytes TLS may have taken from the socket beyond what it has given to its reader: a record and
	// its buffer's slack.
	tlsAhead = 48 << 10
	// maxWake is for how many bytes a reader is made to wait at most. A socket's receive buffer has room for more from
	// the beginning, so the other side is never held up.
	maxWake = 64 << 10
	// minWake is the least worth a system call.
	minWake = 8 << 10
)

// wakes sets how many bytes must be there before the kernel wakes a reader (SO_RCVLOWAT). On a link that is slower than
// the host, a chunk comes in dozens of small pieces, and to wake up for each costs more than all else that is done with
// it. It is for one goroutine.
type wakes struct {
	raw syscall.RawConn // nil if it is no TCP connection
	now int
}

func (w *wakes) of(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		w.raw, _ = tcp.SyscallConn()
	}
	w.now = 1
}

// expect says that n more bytes are certain to come through the socket. It looks only at how they compare with what is
// set: less must be set at once, more is worth it when it is much more.
func (w *wakes) expect(n int) {
	if w.raw == nil {
		return
	}
	want := min(n, maxWake)
	if want < minWake {
		want = 1
	}
	if want >= w.now && want < 2*w.now {
		return
	}
	w.now = want
	w.raw.Control(func(fd uintptr) {
		syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, want) // else it wakes up as it did
	})
}
