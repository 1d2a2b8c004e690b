package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// maxAnswer is the length of the line by which a hypervisor answers CONNECT; "OK 4294967295\n" is the longest.
const maxAnswer = 64

// errAnswer: what answers at a hypervisor's socket does not speak its protocol.
var errAnswer = errors.New("no answer as a hypervisor gives it (is this the vsock socket of Firecracker, Cloud Hypervisor or vhost-device-vsock?)")

// splitHybrid reads PATH:PORT.
func splitHybrid(address string) (path string, port uint32, err error) {
	i := strings.LastIndexByte(address, ':')
	if i <= 0 {
		return "", 0, ErrBadURL
	}
	port, err = number(address[i+1:])
	return address[:i], port, err
}

// listenHybrid listens for what the guest dials at CID 2: for that, the hypervisor connects to PATH_PORT, a unix socket
// beside its own. It has mode 0600. A hypervisor that runs as another user cannot use it so; who listens then gives it
// the socket (chown), in a directory that only the two may enter.
func listenHybrid(ctx context.Context, address string) (net.Listener, error) {
	path, port, err := splitHybrid(address)
	if err != nil {
		return nil, fmt.Errorf("listen at hybrid://%s: %w", address, err)
	}
	l, err := listenUnix(ctx, path+"_"+strconv.FormatUint(uint64(port), 10))
	if err != nil {
		return nil, fmt.Errorf("listen at hybrid://%s: %w", address, err)
	}
	return hybridListener{l, urlAddr{"hybrid", address}}, nil
}

type hybridListener struct {
	net.Listener
	addr urlAddr
}

func (l hybridListener) Addr() net.Addr { return l.addr }

// dialHybrid calls a port in the guest: the hypervisor's socket at PATH takes "CONNECT PORT\n" and answers "OK n\n";
// what follows is the guest's. Of an answer too long, too late or of another kind nothing is kept.
func dialHybrid(ctx context.Context, address string) (net.Conn, error) {
	path, port, err := splitHybrid(address)
	if err != nil {
		return nil, fmt.Errorf("dial hybrid://%s: %w", address, err)
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("dial hybrid://%s: %w", address, err)
	}
	// A deadline in the past frees whoever reads or writes. Once it may have been set, the connection is of no use.
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	err = callHybrid(c, port)
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("dial hybrid://%s: %w", address, err)
	}
	return c, nil
}

// callHybrid asks for a port and reads the answer, not a byte more.
func callHybrid(c net.Conn, port uint32) error {
	if _, err := fmt.Fprintf(c, "CONNECT %d\n", port); err != nil {
		return err
	}
	line := make([]byte, 0, maxAnswer)
	for !bytes.HasSuffix(line, []byte{'\n'}) {
		if len(line) == maxAnswer {
			return fmt.Errorf("%w: %q", errAnswer, line)
		}
		_, err := io.ReadFull(c, line[len(line):len(line)+1])
		if (err == io.EOF || errors.Is(err, syscall.ECONNRESET)) && len(line) == 0 {
			return fmt.Errorf("%w: nothing listens at port %d in the guest", syscall.ECONNREFUSED, port)
		}
		if err != nil {
			return fmt.Errorf("%w: %q, %w", errAnswer, line, err)
		}
		line = line[:len(line)+1]
	}
	local, ok := strings.CutPrefix(string(line), "OK ")
	if _, err := strconv.ParseUint(strings.TrimSuffix(local, "\n"), 10, 32); err != nil || !ok {
		return fmt.Errorf("%w: %q", errAnswer, line)
	}
	return nil
}
