package hostd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"github.com/virtswarm/virtswarm/hostd/server"
	"github.com/virtswarm/virtswarm/internal/disk"
	"github.com/virtswarm/virtswarm/internal/reason"
)

// listen takes the port and the local listeners, and settles the address that other hosts are told. What it took, close
// gives back.
func (h *Host) listen(ctx context.Context, local func() (net.Listener, error)) (err error) {
	if h.port, err = h.network.Listen(ctx, "tcp://"+h.cfg.Listen); err != nil {
		return listenError("listen", h.cfg.Listen, err)
	}
	if h.advertise, h.picked, err = h.cfg.advertise(h.port.Addr()); err != nil {
		return err
	}
	if h.ports.Unix, err = local(); err != nil {
		return socketError(err)
	}
	if h.cfg.Metrics != "" {
		if h.ports.Metrics, err = h.network.Listen(ctx, "tcp://"+h.cfg.Metrics); err != nil {
			return listenError("metrics", h.cfg.Metrics, err)
		}
	}
	return nil
}

// listenError says why an address cannot be had. Early in a boot the machine may not have it yet: a reason that systemd
// answers with another start.
func listenError(key, addr string, err error) error {
	if _, unknown := errors.AsType[*net.DNSError](err); unknown || errors.Is(err, syscall.EADDRNOTAVAIL) {
		return reason.Wrap(reason.Unreachable, addr, err).WithHint("give this machine the address, or correct it in the configuration (" + key + ")")
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		return reason.Wrap(reason.AddressInUse, addr, err).WithHint("stop what listens there, or choose another address in the configuration (" + key + ")")
	}
	return fmt.Errorf("%w: %s: %w", ErrConfig, key, err)
}

// socketError says why the local socket cannot be had.
func socketError(err error) error {
	if errors.Is(err, server.ErrAlreadyRunning) {
		return err
	}
	return fmt.Errorf("%w: socket: %w", ErrConfig, err)
}

// listenSocket listens at the unix socket, whose directory it makes.
func listenSocket(path string) (net.Listener, error) {
	if err := os.MkdirAll(disk.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the socket's directory: %w", err)
	}
	return server.ListenUnix(path)
}
