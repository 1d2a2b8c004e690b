package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/virtswarm/virtswarm/internal/reason"
)

// ErrAlreadyRunning means that another process answers at the socket.
var ErrAlreadyRunning = reason.Sentinel(reason.AlreadyRunning, "another daemon answers at the socket")

const (
	// socketMode keeps the socket to the user of the daemon: whoever may use it may read and write files
	// as the daemon does.
	socketMode = 0o600
	// maxSocketPath is what the kernel allows a socket's name (unix(7)), without the final zero.
	maxSocketPath = 107
	// probeTimeout bounds the question whether a socket that exists is alive. A daemon accepts at once.
	probeTimeout = 2 * time.Second
)

// ListenUnix listens at path. A socket that nobody answers at, as a killed daemon leaves it, is replaced;
// at one that somebody does it returns ErrAlreadyRunning; anything else at path is left alone and is an
// error. The socket has mode 0600 from its first moment and is removed when the listener is closed.
//
// Two calls at the same moment could replace one another's socket: the lock of the data directory is
// what keeps daemons apart.
func ListenUnix(path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("listen on %s: the path is longer than %d bytes", path, maxSocketPath)
	}
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		// On Linux bind gives the file the mode that the socket has, so that there is no moment at
		// which others could connect.
		var err error
		if cerr := c.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), socketMode) }); cerr != nil {
			return cerr
		}
		return err
	}}
	return lc.Listen(context.Background(), "unix", path)
}

// removeStale removes a socket at path that nobody answers at.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("something other than a socket is there")
	}
	c, err := net.DialTimeout("unix", path, probeTimeout)
	switch {
	case err == nil:
		c.Close()
		return ErrAlreadyRunning
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(path)
	case errors.Is(err, fs.ErrNotExist): // its owner closed it just now
		return nil
	default:
		return err
	}
}
