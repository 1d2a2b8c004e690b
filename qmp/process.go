package qmp

import (
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// process is the one that listens at a socket.
type process struct {
	file *os.File
	gone chan struct{} // closed when it has ended
	end  sync.Once
}

// processOf returns the process at the other end of a connection to a unix socket; nil if that cannot be told: it is in
// another PID namespace, or the connection is to this process itself.
func processOf(conn net.Conn) *process {
	c, ok := conn.(*net.UnixConn)
	if !ok {
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	pid := 0
	if err := raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	}); err != nil || pid <= 0 || pid == os.Getpid() {
		return nil
	}
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil
	}
	p := &process{file: os.NewFile(uintptr(fd), "pidfd"), gone: make(chan struct{})}
	watched, err := p.file.SyscallConn()
	if err != nil {
		p.close()
		return nil
	}
	go func() {
		// It can be read once the process has ended.
		err := watched.Read(func(fd uintptr) bool {
			ready, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			return err == nil && ready > 0
		})
		if err == nil {
			close(p.gone)
		}
	}()
	return p
}

// lives reports whether it has not ended.
func (p *process) lives() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.gone:
		return false
	default:
		return true
	}
}

// ended returns a channel that is closed when it has ended; nil of no process.
func (p *process) ended() <-chan struct{} {
	if p == nil {
		return nil
	}
	return p.gone
}

// close stops watching it.
func (p *process) close() {
	if p != nil {
		p.end.Do(func() { p.file.Close() })
	}
}
